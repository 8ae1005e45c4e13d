"""Free memory, and pages that hold nothing."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import psutil

from chatapi.system import jetson

MADV_DONTNEED = 4
"""madvise(2): the next access to a page of a private anonymous mapping finds it filled with zeros."""
CHUNK = 256 * mmap.PAGESIZE
"""Bytes read at once."""
ZEROS = bytes(CHUNK)

Range = tuple[int, int]
"""Addresses of a block's first byte and of the byte after its last."""


_expected: ContextVar[int] = ContextVar("expected", default=0)


def available(root: Path = Path("/")) -> int:
    """Memory that may be used now, in bytes, with what `expecting` says."""
    return (jetson.available(root) or psutil.virtual_memory().available) + _expected.get()


def expected() -> int:
    """Bytes that `expecting` adds."""
    return _expected.get()


@contextmanager
def expecting(count: int) -> Iterator[None]:
    """Inside of the block, count memory as available that will be given back soon, in bytes."""
    token = _expected.set(count)
    try:
        yield
    finally:
        _expected.reset(token)


def anonymous() -> set[Range]:
    """The private writable mappings of this process that belong to no file; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = (re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0\s*$", line) for line in lines)
    return {(int(each[1], 16), int(each[2], 16)) for each in found if each}


def release_zeros(size: int, before: Collection[Range]) -> int:
    """Returns to the system the pages of a block of `size` bytes that was filled with zeros since `before`, a result of
    `anonymous`. Returns the number of bytes.

    Its content stays the same, because the system fills a page with zeros when it is accessed again. The caller
    ensures that no other thread writes to the block meanwhile. A run of zeros of another length is another block.
    """
    page = mmap.PAGESIZE
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError:
        return 0
    try:
        for start, end in anonymous() - set(before):
            for first, last in _zeros(memory, start, end):
                # The block begins after the allocator's header, so its first and last page may hold other bytes.
                if size - 2 * page <= last - first <= size + page:
                    return last - first if _madvise(first, last - first) else 0
    finally:
        os.close(memory)
    return 0


def _zeros(memory: int, start: int, end: int) -> Iterator[Range]:
    """Runs of pages of zeros. Read as a file: an access to a mapping that is gone meanwhile would end the process."""
    first = start
    for at in range(start, end, CHUNK):
        try:
            data = os.pread(memory, min(CHUNK, end - at), at)
        except (OSError, OverflowError):
            return
        if data == ZEROS[: len(data)]:
            continue
        for offset in range(0, len(data), mmap.PAGESIZE):
            page = data[offset : offset + mmap.PAGESIZE]
            if page != ZEROS[: len(page)]:
                if at + offset > first:
                    yield first, at + offset
                first = at + offset + len(page)
    if end > first:
        yield first, end


def _madvise(address: int, length: int) -> bool:
    try:
        call = ctypes.CDLL(None, use_errno=True).madvise
    except (AttributeError, OSError):
        return False
    return bool(call(ctypes.c_void_p(address), ctypes.c_size_t(length), MADV_DONTNEED) == 0)
