"""Files that are either whole or not there: room, digests, and moving into place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chatapi.errors import StorageError

RESERVE = 16 << 20
"""Bytes of a disk that are left free, so that the rest of the appliance can go on writing."""
CHUNK = 1 << 20
"""Bytes read or written at once."""

Count = Callable[[int, int], None]
"""Told how far a work has come: bytes done, bytes in all."""


def silent(done: int, total: int) -> None:
    """The `Count` of nobody."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the operating system refuses inside into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk of {folder} is full ({free(folder)} bytes are free); make room and try again",
                details={"free": free(folder)},
            ) from error
        where = error.filename or folder
        raise StorageError(f"cannot write {where}: {error.strerror}; {folder} must be a folder we may write") from error


def free(folder: Path) -> int:
    """Bytes we may still write there."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require(folder: Path, needed: int, what: str) -> None:
    """StorageError unless that many bytes fit, with the reserve left over."""
    available = free(folder)
    if available < needed + RESERVE:
        raise StorageError(
            f"{what} needs {needed + RESERVE} bytes of {folder} for a while and {available} are free; make room there",
            details={"needed": needed + RESERVE, "free": available},
        )


def digest(path: Path, count: Count = silent) -> str:
    """The sha256 of a file."""
    total, done, sha = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            done += len(chunk)
            count(done, total)
    return sha.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """A small file that has the old text or the new one, whatever happens."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def swap(new: Path, place: Path, old: Path) -> None:
    """Moves the folder `new` to `place`; what was there goes to `old`. All on one file system.

    Between the two moves there is nothing at `place`, and `new` is still whole: doing it again ends it.
    """
    if place.exists():
        if old.exists():
            shutil.rmtree(old)
        place.rename(old)
    new.rename(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)
