"""Checks the `moof` boxes of a fragmented MP4 file: a damaged one costs FFmpeg everything after it.

ISO/IEC 14496-12, 8.8.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from chatapi.audio.ffmpeg_decoder.window import read

MOST_BYTES = 4 << 20
"""Largest `moof` box that is checked: four hours of AAC in one fragment."""
TFHD = ((1, 8), (2, 4), (8, 4), (0x10, 4), (0x20, 4))
"""Flag of a `tfhd` box, and the bytes of the field that it stands for (8.8.7)."""
TRUN = ((1, 4), (4, 4))
"""The same of a `trun` box, before its samples (8.8.8)."""
SIZES = 0x200
"""Flag of a `trun` box that states the size of each sample."""


class Fragments:
    """Checks the fragments of one file, in their order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._times: dict[int, int] = {}
        """Track -> where its last fragment starts, in its own unit of time."""

    def is_intact(self, start: int, stop: int, media: int) -> bool:
        """Whether FFmpeg can read the `moof` box with its content from `start` to `stop`; `media`: bytes of samples
        that follow it."""
        box = read(self._file, start, min(stop - start, MOST_BYTES))
        if len(box) < stop - start:
            return stop - start > MOST_BYTES
        self._samples, self._track = 0, 0
        return self._fills(box) and self._samples <= media

    def _fills(self, box: bytes) -> bool:
        """Whether the boxes in this one fill it, and each is as long as its fields."""
        at = 0
        while at + 8 <= len(box):
            length, kind = struct.unpack_from(">I4s", box, at)
            if (
                not 8 <= length <= len(box) - at
                or not kind.isalnum()
                or not self._is_good(kind, box[at + 8 : at + length])
            ):
                return False
            at += length
        return at == len(box)

    def _is_good(self, kind: bytes, content: bytes) -> bool:
        if kind == b"traf":
            return self._fills(content)
        if kind not in (b"tfhd", b"tfdt", b"trun") or len(content) < 8:
            return kind not in (b"tfhd", b"tfdt", b"trun")
        flags, first = struct.unpack_from(">II", content)
        if kind == b"tfdt":
            time = int.from_bytes(content[4:], "big")
            before, self._times[self._track] = self._times.get(self._track, -1), time
            return time >= before
        if kind == b"trun":
            return self._run(flags, first, content)
        self._track = first
        return bool(first) and len(content) == 8 + _fields(flags, TFHD)

    def _run(self, flags: int, count: int, content: bytes) -> bool:
        """Whether a run of samples is as long as it states, and none of its samples is empty."""
        columns, start = (flags >> 8 & 0xF).bit_count(), 8 + _fields(flags, TRUN)
        if len(content) != start + 4 * columns * count:
            return False
        if flags & SIZES and count:
            table = np.frombuffer(content, ">u4", offset=start).reshape(count, columns)
            sizes = table[:, (flags >> 8 & 1)].astype(np.int64)
            self._samples += int(sizes.sum())
            return bool(sizes.min() > 0)
        return True


def _fields(flags: int, fields: tuple[tuple[int, int], ...]) -> int:
    return sum(size for flag, size in fields if flags & flag)
