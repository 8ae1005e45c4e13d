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
from chatapi.audio.ffmpeg_decoder.containers import Part
from chatapi.audio.ffmpeg_decoder.tracks import BLOCK, Progress
from chatapi.audio.skipped import Skipped
from chatapi.errors import BadInput


def blocks(name: str, rate: int, files: list[int]) -> Iterator[Samples | float | list[int]]:
    """The file as mono blocks at `rate`, as they are decoded; then, as a list, the counts of `Skipped`.

    A number is seconds of audio that were looked at without a result. Raises BadInput (bad_audio) where nothing can be
    decoded.
    """
    skipped = Skipped()
    waiting: list[Samples] = []
    count = 0
    for samples in _resampled(_opened(files[0], name), rate, skipped):
        if isinstance(samples, Progress):
            yield samples.seconds
            continue
        waiting.append(samples)
        count += len(samples)
        if count >= BLOCK:
            yield np.concatenate(waiting)
            waiting, count = [], 0
    if count:
        yield np.concatenate(waiting)
    yield [skipped.packets, skipped.bytes]


def duration(name: str, files: list[int]) -> Iterator[float]:
    """Seconds that the file states, 0 where it states none. Raises BadInput (bad_audio)."""
    part = next(containers.parts(_opened(files[0], name), Skipped()))
    try:
        with tracks.opened(cast(BinaryIO, part.window), part.container) as opened:
            seconds = (opened.duration or 0) / av.time_base
    except MemoryError:
        raise
    except tracks.DAMAGE as error:
        raise BadInput("the audio is damaged from its start", code="bad_audio") from error
    # A WAV that was streamed states the largest possible length.
    yield seconds if seconds * RATES[0] <= part.window.size * 1000 else 0.0


def _opened(descriptor: int, name: str) -> BinaryIO:
    """The file at its start, with its own position. Raises BadInput (bad_audio) where it cannot be read."""
    try:
        file = open(f"/proc/self/fd/{descriptor}", "rb")  # noqa: PTH123, SIM115 - it ends with the call
        file.seek(0, io.SEEK_END)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise BadInput(f"cannot read {name or 'the audio'}: {why}", code="bad_audio") from error
    return file


def _resampled(file: BinaryIO, rate: int, skipped: Skipped) -> Iterator[Samples | Progress]:
    """All parts of the file; consecutive blocks of one sample rate are resampled as one stream."""
    have, stream = rate, Resampled(rate, rate)
    for item in _decoded(file, skipped):
        if isinstance(item, Progress):
            yield item
            continue
        samples, native = item
        if native != have:
            yield stream.finish()
            have, stream = native, Resampled(native, rate)
        yield stream.feed(samples)
    yield stream.finish()


def _decoded(file: BinaryIO, skipped: Skipped) -> Iterator[tuple[Samples, int] | Progress]:
    """The blocks of all parts. Raises BadInput (bad_audio) where none of them can be decoded."""
    failures: list[BadInput] = []
    found = False
    try:
        for part in containers.parts(file, skipped):
            for item in _part(part, skipped, failures):
                found = True
                yield item
    except OSError as error:
        raise BadInput(f"cannot read the audio: {error.strerror}", code="bad_audio") from error
    if not found:
        raise failures[0] if failures else BadInput("the audio has a header but no samples", code="bad_audio")


def _part(part: Part, skipped: Skipped, failures: list[BadInput]) -> Iterator[tuple[Samples, int] | Progress]:
    try:
        yield from tracks.decoded(cast(BinaryIO, part.window), part.container, skipped)
    except BadInput as error:
        failures.append(error)
        skipped.bytes += part.window.end() - part.window.start
