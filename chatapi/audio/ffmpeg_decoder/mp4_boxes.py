"""Repairs the chain of an MP4 file's boxes: a damaged box is skipped, and the next one that can be read follows.

ISO/IEC 14496-12, 4.2. FFmpeg reads from one box to the next by their lengths, so that one wrong length costs everything
after it.
"""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO, NamedTuple

from chatapi.audio.ffmpeg_decoder import signatures
from chatapi.audio.ffmpeg_decoder.mp4_fragments import Fragments
from chatapi.audio.ffmpeg_decoder.window import Repair, find, read

INNER = {b"moov": (b"mvhd", b"trak"), b"moof": (b"mfhd",), b"traf": (b"tfhd",)}
"""The boxes that start one that is searched for."""
TOP = frozenset((
    b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"sidx", b"ssix", b"free", b"skip", b"wide", b"uuid", b"mfra", b"emsg",
    b"prft", b"pdin", b"meta", b"meco", b"pnot", b"udta", b"junk", b"PICT",
))  # fmt: skip
"""Boxes that a file consists of."""
MOST_PADDING = 1 << 20
"""Most bytes that the end of the index may lack."""
MOST_PATCHES = 10_000


class Boxes(NamedTuple):
    """What was found in an MP4 file."""

    end: int
    """Offset where another file starts, or the end."""
    repair: Repair
    damaged: int
    """Number of boxes that were skipped or cut off."""
    has_index: bool
    """Whether the file has its `moov` box, which says where the samples are."""


class _Box(NamedTuple):
    kind: bytes
    head: int
    """Bytes of its header: 8, or 16 with a long length."""
    stop: int
    """Where it says that it ends."""
    open: bool
    """Whether it only says that it is the last one."""


def walk(file: BinaryIO, start: int, size: int) -> Boxes:
    """The boxes from `start` on, up to the next MP4 file: a `ftyp` box after the first samples and their index."""
    at, damaged, padding = start, 0, 0
    patches: list[tuple[int, bytes]] = []
    seen: set[bytes] = set()
    fragments = Fragments(file)
    while at < size and len(patches) < MOST_PATCHES:
        box = _box(file, at, size)
        if box is None:
            if {b"mdat", b"moov"} <= seen and signatures.follows(file, at):
                return Boxes(at, Repair(sorted(patches)), damaged, has_index=True)
            found = _next(file, at + 8, size)
            if found < 0:
                break
            patches.append((at - start, _free(found - at)))
            at, damaged = found, damaged + 1
            continue
        if box.kind == b"ftyp" and {b"mdat", b"moov"} <= seen:
            return Boxes(at, Repair(sorted(patches)), damaged, has_index=True)
        stop = box.stop
        if (found := _lost(file, box, at, size)) >= 0:
            patches.append(_shortened(box, at - start, found - at))
            stop, damaged = found, damaged + 1
        if box.kind == b"moof" and not fragments.is_intact(at + box.head, stop, _media(file, stop, size)):
            patches.append((at - start + 4, b"free"))
            damaged += 1
        elif box.kind == b"moov" and size < stop <= size + min(MOST_PADDING, size - at):
            padding, damaged = stop - size, damaged + 1
        seen.add(box.kind)
        at = stop
    return Boxes(size, Repair(sorted(patches), padding), damaged, b"moov" in seen)


def _lost(file: BinaryIO, box: _Box, at: int, size: int) -> int:
    """Offset of a box inside this one, or too close after it, where its length leads to no other; -1: none."""
    if (box.stop == size and not box.open) or (box.stop < size and _box(file, box.stop, size) is not None):
        return -1
    found = _next(file, at + box.head, size)
    return found if found < box.stop + 8 else -1


def _shortened(box: _Box, at: int, length: int) -> tuple[int, bytes]:
    return (at + 8, struct.pack(">Q", length)) if box.head == 16 else (at, struct.pack(">I", length))


def _box(file: BinaryIO, at: int, size: int) -> _Box | None:
    """The box at an offset; None: no box that a file consists of starts there."""
    header = read(file, at, 16)
    length, kind, head = int.from_bytes(header[:4], "big"), header[4:8], 8
    if length == 1 and len(header) == 16:
        length, head = int.from_bytes(header[8:], "big"), 16
    stop = at + length if length else size
    if len(header) < 8 or stop < at + head:
        return None
    if kind in TOP or (kind.isalnum() and (stop == size or read(file, stop + 4, 4) in TOP)):
        return _Box(kind, head, stop, not length)
    return None


def _media(file: BinaryIO, at: int, size: int) -> int:
    """Bytes of the samples at an offset, up to where the file should end; any number where something else is there."""
    box = _box(file, at, size)
    return box.stop - at - box.head if box is not None and box.kind == b"mdat" else sys.maxsize


def _next(file: BinaryIO, start: int, end: int) -> int:
    """Offset of the next box with an index, or with samples after its index; -1: none."""
    return min((at for kind in (b"moof", b"moov") if (at := _found(file, kind, start, end)) >= 0), default=-1)


def _found(file: BinaryIO, kind: bytes, start: int, end: int) -> int:
    at = start
    while (at := find(file, kind, at, end)) >= 0:
        if at - 4 >= start and read(file, at + 8, 4) in INNER[kind]:
            return at - 4
        at += 4
    return -1


def _free(length: int) -> bytes:
    """The header of a box without content; a length that four bytes cannot hold has eight."""
    if length >> 32:
        return struct.pack(">I4sQ", 1, b"free", length)
    return struct.pack(">I4s", length, b"free")
