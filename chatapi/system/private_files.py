"""Files and folders of the data directory that are for their owner alone, and damaged ones set aside."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

OTHERS = 0o077
"""Permissions of everybody but the owner."""
PRIVATE = ("history.*", "keys.json", "keys-used.json", ".keys.lock", "local-*.key", "audit.log*", "certificates/*.pem")
"""What holds words, keys and names of callers; models may be read by others."""
DAMAGED = ".damaged-"
"""Stands in the name of a file that was set aside, in front of the date."""


def folder(path: Path) -> None:
    """Make a folder for its owner alone; one that is there stays as it is. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def touch(path: Path) -> None:
    """Make an empty file for its owner alone, where there is none. Raises OSError."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            give(descriptor, path.parent)
        finally:
            os.close(descriptor)


def give(descriptor: int, place: Path) -> None:
    """Let the owner of the folder own what root made in it: a service has to read it. Raises OSError."""
    owner = place.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def tighten(data: Path) -> None:
    """Take from others what an older version or a loose umask left them; what cannot be changed is logged.

    A folder that is shared on purpose (sticky like /tmp, or set-group-ID), or somebody's home, stays as it is, and its
    private files do not.
    """
    data = data.resolve()
    for path in (data, data / "certificates", *_private(data)):
        try:
            _tighten(path)
        except FileNotFoundError:  # noqa: PERF203 - a few files at the start
            continue
        except OSError as error:
            log.warning("%s may be read by others, and cannot be changed: %s", path, error.strerror)


def _tighten(path: Path) -> None:
    found = path.lstat()
    is_folder = stat.S_ISDIR(found.st_mode)
    shared = is_folder and (found.st_mode & (stat.S_ISVTX | stat.S_ISGID) or path == Path.home())
    ours = found.st_uid == os.geteuid() and (is_folder or stat.S_ISREG(found.st_mode))
    if ours and not shared and found.st_mode & OTHERS:
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)


def _private(data: Path) -> Iterator[Path]:
    with suppress(OSError):
        for pattern in PRIVATE:
            yield from data.glob(pattern)


def aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that its place is free and nothing of it is lost. Raises OSError.

    `history.sqlite3` becomes `history.damaged-20260131-235959.sqlite3`.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    # A clock that jumps may show the same second twice.
    for more in ("", *(f"-{number}" for number in range(1, 100))):
        target = path.with_name(f"{path.stem}{DAMAGED}{stamp}{more}{path.suffix}")
        if not os.path.lexists(target):
            path.rename(target)
            return target
    raise FileExistsError(f"there are too many damaged files beside {path}")


def set_aside(path: Path) -> list[Path]:
    """Files that were set aside in the place of this one, oldest first."""
    with suppress(OSError):
        return sorted(path.parent.glob(f"{path.stem}{DAMAGED}*{path.suffix}"))
    return []
