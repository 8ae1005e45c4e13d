"""Atomic files: free space, digests, writing, and moving into place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chatapi.errors import StorageError
from chatapi.system import private_files

RESERVE = 16 << 20
"""Space of a disk that is left free for the rest of the appliance, in bytes."""
CHUNK = 1 << 20
"""Number of bytes read or written at once."""

Count = Callable[[int, int], None]
"""Receives the progress of work: bytes done, bytes in total."""


def silent(done: int, total: int) -> None:
    """A `Count` that ignores the progress."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Translate OSError inside the context to a StorageError with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk of {folder} is full ({free(folder)} bytes are free); free space and try again",
                details={"free": free(folder)},
            ) from error
        path = error.filename or folder
        raise StorageError(f"cannot write {path}: {error.strerror}; {folder} must be a writable folder") from error


def free(folder: Path) -> int:
    """Free space of a folder's disk, in bytes; the folder need not exist."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require(folder: Path, needed: int, what: str) -> None:
    """Raise StorageError unless `needed` bytes fit and the reserve stays free; `what` is the subject of the message."""
    available = free(folder)
    if available < needed + RESERVE:
        raise StorageError(
            f"{what} needs {needed + RESERVE} bytes in {folder} temporarily and {available} are free; free space there",
            details={"needed": needed + RESERVE, "free": available},
        )


def digest(path: Path, count: Count = silent) -> str:
    """SHA-256 of a file, in hex."""
    total, done, sha = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            done += len(chunk)
            count(done, total)
    return sha.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str, private: bool = False) -> None:
    """Replace a small file atomically; a private one belongs to the folder's owner alone (0600)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
            private_files.give_to_owner(file.fileno(), path.parent)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def swap(new: Path, place: Path, old: Path) -> None:
    """Move the folder `new` to `place`, and the previous folder to `old`. All are on one file system.

    Between the two moves `place` does not exist and `new` is complete; a second call then completes the swap.
    """
    if place.exists():
        if old.exists():
            shutil.rmtree(old)
        place.rename(old)
    new.rename(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)
