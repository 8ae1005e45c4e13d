"""Repairs the elements of a WebM or Matroska file: only damaged blocks are lost, not the rest of their cluster.

RFC 8794 (EBML), RFC 9559 (Matroska). FFmpeg continues at the next cluster after an element that it cannot read, and
browsers write clusters of up to 30 seconds.
"""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple

from chatapi.audio.ffmpeg_decoder import signatures
from chatapi.audio.ffmpeg_decoder.window import Repair, read

MASTERS = frozenset((0x18538067, 0x1F43B675))
"""Segment and cluster, whose content is walked."""
BLOCK, GROUP, VOID, TRACKS = 0xA3, 0xA0, 0xEC, 0x1654AE6B
NUMBERS = frozenset((0xE7, 0xA7, 0xAB))
"""Time code, position and size: elements of a cluster with a number of up to 8 bytes."""
IN_GROUP = (b"\xa1", b"\x9b", b"\xfb", b"\x75")
"""What a group of a block starts with: the block, its duration, a reference, what should be discarded of it."""
NUMBER = re.compile(rb"\xd7\x81(.)", re.DOTALL)
LACING, RESERVED = 0x06, 0x70
"""Flags of a block."""
HEADER = 0x1A45DFA3
"""What a file starts with, and a joined one as well."""
FIRST_LEVEL = frozenset((
    HEADER, 0x114D9B74, 0x1549A966, TRACKS, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, VOID, 0xBF,
))  # fmt: skip
"""The header, and what a segment consists of beside clusters: indexes, tags and the like."""
KNOWN = MASTERS | FIRST_LEVEL | NUMBERS | {BLOCK, GROUP, 0x5854}
"""All of these, and what a cluster consists of: blocks, their groups, time codes, and sizes."""
CHAIN = 4
"""Elements that have to follow each other where reading continues."""
SEARCH_BYTES = 256 << 10
"""Bytes that are searched for where reading continues."""
BUFFER_BYTES = 1 << 20
MOST_PATCHES = 10_000


class _Element(NamedTuple):
    kind: int
    content: int
    """Offset of its content."""
    stop: int
    """Offset of its end, or of its content where that is walked too."""


class Elements:
    """Walks the elements of one file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._buffer, self._at = b"", 0
        self._tracks: frozenset[int] = frozenset(range(256))
        """Their numbers, as blocks start with them."""
        self._lacing: dict[int, int] = {}
        """Track -> the bits for lacing of its first block."""
        self.damaged = 0
        self.end = size
        """Offset where another file starts, or the end."""

    def repair(self) -> Repair:
        """Void elements over all that cannot be read."""
        at = self._start
        patches: list[tuple[int, bytes]] = []
        while at < self._size and len(patches) < MOST_PATCHES:
            element = self._element(at)
            if element is not None and element.kind == HEADER and at > self._start:
                break
            leads_on = element is not None and self._leads_on(element)
            if element is not None and leads_on and self._is_intact(element):
                if element.kind == TRACKS:
                    self._tracks = self._numbers(element)
                at = element.stop
                continue
            if element is not None and not leads_on and signatures.follows(self._file, element.stop):
                self.end = element.stop
                break
            found = element.stop if element is not None and leads_on else self._next(at + 2)
            if found < 0:
                break
            if element is not None and found >= element.stop + 2 and self._is_intact(element):
                # What follows it is damaged, not the element.
                at = element.stop
            patches.append((at - self._start, _void(found - at)))
            self.damaged += 1
            at = found
        return Repair(patches)

    def _numbers(self, element: _Element) -> frozenset[int]:
        """The numbers of the tracks (TrackNumber, RFC 9559, 5.1.4.1.1) with the mark of a length of one byte."""
        found = NUMBER.findall(self._bytes(element.content, element.stop - element.content))
        return frozenset(0x80 | number[0] for number in found) or self._tracks

    def _leads_on(self, element: _Element) -> bool:
        return element.stop >= self._size or self._element(element.stop) is not None

    def _is_intact(self, element: _Element) -> bool:
        """Whether the header of a block is as those before it: track, time in two bytes, flags (RFC 9559, 10.1)."""
        if element.kind == GROUP:
            return self._bytes(element.content, 1) in IN_GROUP
        if element.kind != BLOCK:
            return True
        header = self._bytes(element.content, 4)
        if len(header) < 4:
            return False
        if header[0] not in self._tracks or header[3] & RESERVED:
            return False
        return bool(self._lacing.setdefault(header[0], header[3] & LACING)) or not header[3] & LACING

    def _next(self, start: int) -> int:
        """Offset from which several elements follow each other; -1: none is near."""
        data = self._bytes(start, SEARCH_BYTES)
        for offset, byte in enumerate(data):
            if byte in (BLOCK, GROUP, 0xE7, 0x1F) and self._chain(start + offset):
                return start + offset
        return -1

    def _chain(self, at: int) -> bool:
        for _ in range(CHAIN):
            element = self._element(at)
            if element is None:
                return False
            if not self._is_intact(element):
                return False
            at = element.stop
            if at == self._size:
                return True
        return True

    def _element(self, at: int) -> _Element | None:
        """The element at an offset; None: none of those that a file consists of."""
        head = self._bytes(at, 12)
        if len(head) < 2 or not head[0]:
            return None
        width = 9 - head[0].bit_length()
        kind = int.from_bytes(head[:width], "big")
        if kind not in KNOWN or len(head) <= width or not head[width]:
            return None
        bytes_of_size = 9 - head[width].bit_length()
        if len(head) < width + bytes_of_size:
            return None
        content = at + width + bytes_of_size
        if kind in MASTERS:
            return _Element(kind, content, content)
        length = int.from_bytes(head[width : width + bytes_of_size], "big") ^ (1 << 7 * bytes_of_size)
        if width < 4 and (content + length > self._size or (kind in NUMBERS and length > 8)):
            return None
        return _Element(kind, content, min(content + length, self._size))

    def _bytes(self, at: int, size: int) -> bytes:
        """Bytes of the file, from a part of it that is kept."""
        first = at - self._at
        if not 0 <= first <= len(self._buffer) - size:
            self._buffer, self._at = read(self._file, at, max(size, min(BUFFER_BYTES, self._size - at))), at
            first = 0
        return self._buffer[first : min(first + size, first + self._size - at)]


def _void(length: int) -> bytes:
    """The header of a void element that takes this many bytes, at least 2."""
    if length < 9:
        return bytes((VOID, 0x80 | (length - 2)))
    return bytes((VOID, 1)) + (length - 9).to_bytes(7, "big")
