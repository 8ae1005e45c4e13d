"""Checks the sample tables of an MP4 file against its size, before FFmpeg allocates memory for them, and whether its
sound is encrypted: FFmpeg would decode that as noise.

ISO/IEC 14496-12: an entry of a sample table may stand for any number of samples, so that a file of a few hundred bytes
can state billions; FFmpeg allocates about 24 bytes for each.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from chatapi.errors import BadInput

HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
"""Boxes that contain relevant boxes."""
DEEPEST = 8
"""Levels of boxes; a sample table lies on the sixth."""
BOXES = 500_000
"""Most boxes of a file; four hours in fragments of half a second have some 200,000."""
HARMLESS = 65_536
"""Samples that any file may state."""
SMALLEST = 0.25
"""Bytes per sample: a file may have lost most of its tail and still have the tables of the complete file."""
CHUNKS_MOST = 32 << 20
"""Most bytes of a table that is read; four hours of AAC have at most 700,000 chunks of 12 bytes."""
COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Box -> the place of the number of samples in it."""
ENCRYPTED = (b"enca", b"drms")
"""Types of sound that is encrypted: of ISO/IEC 23001-7, and of Apple's FairPlay."""


def check(file: BinaryIO, size: int) -> None:
    """Raises BadInput (bad_audio) where all tracks together state many more samples than the file has bytes, and where
    all of its sound is encrypted."""
    most = max(HARMLESS, size / SMALLEST)
    stated: Counter[bytes] = Counter()
    chunks: dict[bytes, int | bytes] = {}
    tracks: Counter[str] = Counter()
    for number, (kind, start, end) in enumerate(_boxes(file, 0, size, DEEPEST)):
        if number > BOXES:
            raise BadInput(f"the MP4 file has more than {BOXES} boxes", code="bad_audio")
        if kind == b"stbl":
            chunks = {}
        elif kind in COUNTS:
            stated[kind] += _word(_read(file, start, end, 12), COUNTS[kind])
        elif kind in (b"stco", b"co64"):
            chunks[b"count"] = _word(_read(file, start, end, 8), 4)
        elif kind == b"stsc":
            chunks[b"runs"] = _read(file, start, end, CHUNKS_MOST)
        elif kind in (b"hdlr", b"stsd"):
            tracks += _sound(kind, _read(file, start, end, 16))
        if len(chunks) == 2:
            stated[b"stsc"] += _in_chunks(chunks[b"runs"], chunks[b"count"])  # type: ignore[arg-type]
            chunks = {}
        if stated and (largest := max(stated.values())) > most:
            raise BadInput(f"the MP4 file of {size} bytes states at least {largest} samples", code="bad_audio")
    _require_clear(tracks)


def _sound(kind: bytes, content: bytes) -> Counter[str]:
    """What a box says of a track: that it is sound, or that it is encrypted sound. `content`: its first 16 bytes."""
    return Counter(
        sound=int(kind == b"hdlr" and content[8:12] == b"soun"),
        encrypted=int(kind == b"stsd" and content[12:] in ENCRYPTED),
    )


def _require_clear(tracks: Counter[str]) -> None:
    if tracks["encrypted"] and tracks["encrypted"] >= tracks["sound"]:
        raise BadInput("the recording is encrypted (DRM), and only its own player can decode it", code="bad_audio")


def _boxes(file: BinaryIO, start: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Type of each box, and the offsets of its content, bounded by the box that contains it."""
    at = start
    while at + 8 <= end and depth:
        length, kind = struct.unpack(">I4s", _read(file, at, end, 8))
        content = at + 8
        if length == 1:
            length, content = int.from_bytes(_read(file, content, end, 8), "big"), at + 16
        stop = end if length == 0 else min(at + length, end)
        if stop < content:
            return
        yield kind, content, stop
        if kind in HOLDERS:
            yield from _boxes(file, content, stop, depth - 1)
        at = stop


def _in_chunks(runs: bytes, chunks: int) -> int:
    """Samples of a track: each entry of `runs` (stsc) is the first chunk of a run, and the samples per chunk."""
    count = min(_word(runs, 4), (len(runs) - 8) // 12)
    entries = list(struct.iter_unpack(">III", runs[8 : 8 + 12 * count]))
    ends = [*(first for first, _, _ in entries[1:]), chunks + 1][: len(entries)]
    pairs = zip(entries, ends, strict=True)
    return sum(max(0, min(end, chunks + 1) - first) * samples for (first, samples, _), end in pairs)


def _read(file: BinaryIO, start: int, end: int, most: int) -> bytes:
    file.seek(start)
    return file.read(max(0, min(end - start, most)))


def _word(table: bytes, at: int) -> int:
    return int.from_bytes(table[at : at + 4], "big")
