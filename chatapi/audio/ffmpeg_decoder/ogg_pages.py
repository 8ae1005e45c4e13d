"""Repairs the pages of an Ogg file: only what is damaged of a page is lost, not all of its packets.

RFC 3533, 6. FFmpeg discards a page whose checksum is wrong, and with it a second of speech for one wrong byte.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

from chatapi.audio.ffmpeg_decoder import signatures
from chatapi.audio.ffmpeg_decoder.window import Repair, find, read

CAPTURE = b"OggS\0"
"""What every page starts with."""
HEADER = struct.Struct("<5sBqIIIB")
"""Capture pattern and version, flags, granule position, serial number, page number, checksum, number of segments."""
CHECKSUM = 22
"""Offset of the checksum, which counts as zero in itself."""
STARTS = 2
"""Flag of the page that starts a stream."""
MOST_PATCHES = 20_000
"""Most pages that are repaired; a file with more is no audio."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in reverse."""


class Pages(NamedTuple):
    """What was found in an Ogg file."""

    end: int
    """Offset where another file starts, or the end."""
    repair: Repair
    damaged: int
    """Number of damaged pages."""


class _Page(NamedTuple):
    data: bytes
    flags: int
    serial: int
    stated: int
    """The checksum in its header."""
    segments: int
    length: int
    """Bytes of the whole page, as its header states."""

    @property
    def checksum(self) -> int:
        return checksum(self.data[:CHECKSUM] + bytes(4) + self.data[CHECKSUM + 4 :])


def checksum(data: bytes) -> int:
    """The CRC-32 of a page: polynomial 0x04c11db7 with the highest bit first, which is zlib's on reversed bits."""
    reverse = zlib.crc32(data.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reverse.to_bytes(4, "big").translate(REVERSED), "little")


def walk(file: BinaryIO, start: int, size: int) -> Pages:
    """The pages from `start` on, up to the next Ogg file: a page that starts a stream, after a page that does not."""
    at, begun, damaged = start, False, 0
    serials: set[int] = set()
    patches: list[tuple[int, bytes]] = []
    while 0 <= at < size and len(patches) < MOST_PATCHES:
        page = _page(file, at, size)
        if page is None:
            if begun and signatures.follows(file, at):
                return Pages(at, Repair(patches), damaged)
            at = find(file, CAPTURE, at + 1, size)
            continue
        if len(page.data) < page.length:
            if begun and page.serial in serials:
                patch, padding = _shortened(page)
                return Pages(size, Repair((*patches, (at - start, patch)), padding), damaged + 1)
            break
        checksum = page.checksum
        if checksum == page.stated:
            if page.flags & STARTS and begun:
                return Pages(at, Repair(patches), damaged)
            begun = begun or not page.flags & STARTS
            serials.add(page.serial)
        else:
            damaged += 1
            whole = read(file, at + page.length, len(CAPTURE)) in (CAPTURE, b"")
            if not (whole and page.serial in serials and page.flags in (0, 1)):
                # Its header is damaged too; it is discarded.
                at += len(CAPTURE)
                continue
            patches.append((at - start + CHECKSUM, struct.pack("<I", checksum)))
        at += page.length
    return Pages(size, Repair(patches), damaged)


def _page(file: BinaryIO, at: int, size: int) -> _Page | None:
    """The page at an offset, as far as the file goes; None: there is none, or its header is incomplete."""
    head = read(file, at, HEADER.size + 255)
    if not head.startswith(CAPTURE) or len(head) < HEADER.size:
        return None
    _, flags, _, serial, _, stated, segments = HEADER.unpack_from(head)
    table = head[HEADER.size : HEADER.size + segments]
    if len(table) < segments:
        return None
    length = HEADER.size + segments + sum(table)
    return _Page(read(file, at, min(length, size - at)), flags, serial, stated, segments, length)


def _shortened(page: _Page) -> tuple[bytes, int]:
    """The bytes of a page that was cut off, with its complete packets, and the zeros that have to follow them.

    A packet ends with a segment of less than 255 bytes; all segments from the incomplete packet on become ones of 255,
    so that it has no end and is discarded.
    """
    table = page.data[HEADER.size : HEADER.size + page.segments]
    left, whole, packet = len(page.data) - HEADER.size - page.segments, 0, 0
    for number, segment in enumerate(table):
        packet += segment
        if packet > left:
            break
        if segment < 255:
            whole, left, packet = number + 1, left - packet, 0
    padding = 255 * (page.segments - whole) - left
    if padding < 0:
        return page.data, 0
    data = page.data[: HEADER.size] + table[:whole] + b"\xff" * (page.segments - whole)
    data += page.data[HEADER.size + page.segments :]
    right = checksum(data[:CHECKSUM] + bytes(4) + data[CHECKSUM + 4 :] + bytes(padding))
    return data[:CHECKSUM] + struct.pack("<I", right) + data[CHECKSUM + 4 :], padding
