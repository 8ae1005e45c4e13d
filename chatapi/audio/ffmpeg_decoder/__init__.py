"""Decodes a media file, in a child process: detects its container, checks its header, decodes its audio.

All of it may crash: the file is untrusted, and FFmpeg is written in C. `audio` calls it through `sandbox`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, cast

import av
import numpy as np

from chatapi.audio import RATES, Resampled, Samples
from chatapi.audio.ffmpeg_decoder import containers, tracks
from chatapi.audio.ffmpeg_decoder.tracks import BLOCK, DamagedPackets
from chatapi.errors import BadInput


def blocks(name: str, rate: int, files: list[int]) -> Iterator[Samples | int]:
    """The file as mono blocks at `rate`, as they are decoded, then the number of damaged packets.

    Raises BadInput (bad_audio) where nothing can be decoded.
    """
    damage = DamagedPackets()
    waiting: list[Samples] = []
    count = 0
    for samples in _resampled(_opened(files[0], name), rate, damage):
        waiting.append(samples)
        count += len(samples)
        if count >= BLOCK:
            yield np.concatenate(waiting)
            waiting, count = [], 0
    if count:
        yield np.concatenate(waiting)
    yield damage.packets


def duration(name: str, files: list[int]) -> Iterator[float]:
    """Seconds that the file states, 0 where it states none. Raises BadInput (bad_audio)."""
    file = _opened(files[0], name)
    part = next(containers.parts(file))
    window = containers.Window(file, part.start, part.end)
    try:
        with av.open(window, format=part.container, mode="r") as opened:
            seconds = (opened.duration or 0) / av.time_base
    except MemoryError:
        raise
    except tracks.DAMAGE as error:
        raise BadInput("the audio is damaged from its start", code="bad_audio") from error
    # A WAV that was streamed states the largest possible length.
    yield seconds if seconds * RATES[0] <= (part.end - part.start) * 1000 else 0.0


def _opened(descriptor: int, name: str) -> BinaryIO:
    """The file at its start, with its own position. Raises BadInput (bad_audio) where it cannot be read."""
    try:
        file = open(f"/proc/self/fd/{descriptor}", "rb")  # noqa: PTH123, SIM115 - it ends with the call
        file.seek(0, io.SEEK_END)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise BadInput(f"cannot read {name or 'the audio'}: {why}", code="bad_audio") from error
    return file


def _resampled(file: BinaryIO, rate: int, damage: DamagedPackets) -> Iterator[Samples]:
    """All parts of the file; consecutive blocks of one sample rate are resampled as one stream."""
    have, stream = rate, Resampled(rate, rate)
    for samples, native in _sound(file, damage):
        if native != have:
            yield stream.finish()
            have, stream = native, Resampled(native, rate)
        yield stream.feed(samples)
    yield stream.finish()


def _sound(file: BinaryIO, damage: DamagedPackets) -> Iterator[tuple[Samples, int]]:
    try:
        for number, part in enumerate(containers.parts(file)):
            window = cast(BinaryIO, containers.Window(file, part.start, part.end))
            try:
                yield from tracks.decoded(window, part.container, damage)
            except BadInput:
                if not number:
                    raise
                # Data after a valid file is no reason to reject it.
                damage.packets += 1
    except OSError as error:
        raise BadInput(f"cannot read the audio: {error.strerror}", code="bad_audio") from error
