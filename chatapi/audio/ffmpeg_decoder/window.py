"""A part of a file, read as a file of its own; patches repair a damaged container without copying it."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

SCAN_BYTES = 64 << 10
"""Bytes that are searched at once."""


@dataclass(frozen=True)
class Repair:
    """Patches of a file's container that let FFmpeg continue after a damaged place. Offsets count from the part's
    start."""

    patches: Sequence[tuple[int, bytes]] = ()
    """Offset and the bytes that are read there instead, in order, without overlaps."""
    padding: int = 0
    """Zeros that are read after the end."""


@dataclass(frozen=True)
class Signature:
    """Bytes by which the start of a media file is found within another one."""

    literal: bytes
    """They are long enough not to occur by chance."""
    offset: int = 0
    """Where the literal lies in its file."""
    first: bytes = b""
    """What the file starts with as well."""

    @property
    def size(self) -> int:
        """Bytes from the start of the file to the end of the literal."""
        return self.offset + len(self.literal)

    def find(self, data: bytes, at: int) -> int:
        """Offset of the start of a file in data that lies at an offset, but for one at 0; -1: there is none."""
        found = data.find(self.literal)
        while found >= 0:
            other = found - self.offset
            if other >= 0 and at + other > 0 and data.startswith(self.first, other):
                return at + other
            found = data.find(self.literal, found + 1)
        return -1


class Window(io.RawIOBase):
    """A part of a file, repaired, which ends where another file starts inside it.

    The start of another file is searched for in what is read, so the file is not read twice.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        end: int,
        repair: Repair = Repair(),
        followers: Sequence[Signature] = (),
        *,
        searched: int = 0,
    ) -> None:
        """`followers`: how the files start that end this one. `searched`: bytes from the start that hold none for
        certain."""
        self._file, self.start, self._size = file, start, end - start
        self._patches, self._padding = repair.patches, repair.padding
        self._followers = followers
        self._beyond = max((each.size for each in followers), default=0)
        self._searched = searched
        """Bytes from the start in which there is no other file."""
        self._tail, self._tail_end = b"", 0
        """The end of what was read last, and its offset."""
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes of the file, without the padding."""
        return self._size

    def end(self) -> int:
        """Offset of the part's end in the file; what was not read yet is searched for another file."""
        while self._followers and self._searched < self._size:
            self._data(self._searched, SCAN_BYTES)
        return self.start + self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size + self._padding - self._at)
        size = left if size < 0 else min(size, left)
        data = self._data(self._at, size)
        if self._padding and len(data) < size:
            data += bytes(min(size, self._size + self._padding - self._at) - len(data))
        if self._patches:
            data = self._patched(data)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size + self._padding}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def _data(self, at: int, size: int) -> bytes:
        """What the file holds from `at`, at most to the start of another file, which becomes the end."""
        # Damaged files make FFmpeg seek far beyond any file, which the operating system refuses.
        data = read(self._file, self.start + at, min(size, self._size - at)) if at < self._size else b""
        if not self._followers or at + len(data) <= self._searched:
            return data
        tail = self._tail if at == self._tail_end else b""
        # A start that lies across two reads is found in the second one.
        other = self._search(tail + data[: self._beyond], at - len(tail)) if tail else -1
        if other < 0:
            other = self._search(data, at)
        self._tail, self._tail_end = data[-self._beyond :], at + len(data)
        if other >= 0:
            self._size = other
            return data[: max(0, other - at)]
        if at <= self._searched:
            self._searched = max(self._searched, at + len(data))
        return data

    def _search(self, data: bytes, at: int) -> int:
        """Offset of the first start of another file in data that lies at an offset; -1: there is none."""
        found = (each.find(data, at) for each in self._followers)
        return min((other for other in found if other >= 0), default=-1)

    def _patched(self, data: bytes) -> bytes:
        end = self._at + len(data)
        changed: bytearray | None = None
        # The patch before the first that starts here may reach into the data.
        for offset, patch in self._patches[max(0, bisect_left(self._patches, (self._at, b"")) - 1) :]:
            if offset >= end:
                break
            first, last = max(offset, self._at), min(offset + len(patch), end)
            if first < last:
                changed = changed or bytearray(data)
                changed[first - self._at : last - self._at] = patch[first - offset : last - offset]
        return data if changed is None else bytes(changed)


def read(file: BinaryIO, start: int, size: int) -> bytes:
    """Up to `size` bytes from an offset."""
    file.seek(start)
    return file.read(size)


def find(file: BinaryIO, literal: bytes, start: int, end: int) -> int:
    """Offset of the first occurrence that lies between two offsets; -1: none."""
    at = start
    while at < end:
        data = read(file, at, min(SCAN_BYTES + len(literal) - 1, end - at))
        found = data.find(literal)
        if found >= 0:
            return at + found
        if len(data) < len(literal):
            return -1
        at += SCAN_BYTES
    return -1
