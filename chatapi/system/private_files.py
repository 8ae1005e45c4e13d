"""Private files and folders of the data directory, and renaming damaged ones."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

OTHERS = 0o077
"""Permission bits of group and others."""
DAMAGED = ".damaged-"
"""Part of the name of a renamed damaged file, before the date."""


def folder(path: Path) -> None:
    """Create a folder, and the missing ones above it, for its owner alone; existing ones stay. Raises OSError."""
    # `mkdir(parents=True)` gives the mode to the last one only.
    for each in reversed(path.parents):
        # Where a file is in the way, the folder inside it fails with the clearer error.
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        path.mkdir(mode=0o700, exist_ok=True)


def touch(path: Path) -> None:
    """Create an empty file for its owner alone, if there is none. Raises OSError."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            give_to_owner(descriptor, path.parent)
        finally:
            os.close(descriptor)


def give_to_owner(descriptor: int, place: Path) -> None:
    """Give a file that root created to the owner of its folder, so that the service can read it. Raises OSError."""
    owner = place.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def tighten(paths: Iterable[Path]) -> None:
    """Remove the permissions of others that an older version or a loose umask left; failures are logged.

    A folder that is shared on purpose (sticky like /tmp, or set-group-ID), or a home directory, keeps its permissions;
    its private files do not.
    """
    for path in paths:
        try:
            _tighten(path)
        except FileNotFoundError:  # noqa: PERF203 - a few files at the start
            continue
        except OSError as error:
            log.warning("others may read %s, and its permissions cannot be changed: %s", path, error.strerror)


def _tighten(path: Path) -> None:
    status = path.lstat()
    is_folder = stat.S_ISDIR(status.st_mode)
    shared = is_folder and (status.st_mode & (stat.S_ISVTX | stat.S_ISGID) or path == Path.home())
    own = status.st_uid == os.geteuid() and (is_folder or stat.S_ISREG(status.st_mode))
    if own and not shared and status.st_mode & OTHERS:
        path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)


def move_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that its name is free and its content is kept. Raises OSError.

    `history.sqlite3` becomes `history.damaged-20260131-235959.sqlite3`.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    # A clock that jumps may show the same second twice.
    for suffix in ("", *(f"-{number}" for number in range(1, 100))):
        target = path.with_name(f"{path.stem}{DAMAGED}{stamp}{suffix}{path.suffix}")
        if not os.path.lexists(target):
            path.rename(target)
            return target
    raise FileExistsError(f"there are too many damaged files beside {path}")


def moved_aside(path: Path) -> list[Path]:
    """The renamed damaged files of this path, oldest first."""
    with suppress(OSError):
        return sorted(path.parent.glob(f"{path.stem}{DAMAGED}*{path.suffix}"))
    return []
