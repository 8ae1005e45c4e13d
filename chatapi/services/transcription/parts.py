"""Parts of a recording: each is transcribed by itself, so that an interruption costs no more than one.

A recording is cut in the middle of a pause. Parts are longer than the window of a recognizer, because the windows at
both ends of a part are not full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.services.transcription.segmenter import FRAME

PART_SECONDS = 300.0
"""Longest part, in seconds."""
SEARCH_SECONDS = 60.0
"""Length of the end of a part in which the longest pause is looked for, in seconds."""
SPEECH = 0.35
"""Speech probability from which a frame is no part of a pause."""
SMOOTHED = 5
"""Frames over which the probability is averaged where there is no pause."""

Probabilities = Callable[[Samples], Iterable[float]]
"""The speech probability, 0 to 1, of each FRAME samples."""


@dataclass(frozen=True, eq=False)
class RecordingPart:
    """A part of a recording."""

    samples: Samples
    """16 kHz mono."""
    start: int
    """Number of samples before it."""
    last: bool
    """Whether the recording ends with it."""

    @property
    def end(self) -> int:
        """Number of samples up to its end."""
        return self.start + len(self.samples)


def cut(blocks: Iterator[Samples], probabilities: Probabilities, start: int = 0) -> Iterator[RecordingPart]:
    """The parts of a recording behind its first `start` samples; an empty last part where there are no more.

    Holds one part in memory, however long the recording is.
    """
    longest = int(PART_SECONDS * RATE)
    waiting: list[Samples] = [np.zeros(0, np.float32)]
    count, skip = 0, start
    for block in blocks:
        dropped = min(skip, len(block))
        skip -= dropped
        waiting.append(block[dropped:])
        count += len(block) - dropped
        while count > longest:
            held = np.concatenate(waiting)
            place = _pause(held[:longest], probabilities)
            yield RecordingPart(held[:place], start, last=False)
            start += place
            waiting, count = [held[place:]], len(held) - place
    yield RecordingPart(np.concatenate(waiting), start, last=True)


def _pause(samples: Samples, probabilities: Probabilities) -> int:
    """Where to cut: the middle of the longest pause in the end of the samples, or else the least likely speech."""
    first = len(samples) - int(SEARCH_SECONDS * RATE)
    found = np.fromiter(probabilities(samples[first:]), np.float32)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], found < SPEECH, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    if len(begins):
        longest = int(np.argmax(ends - begins))
        frame = int(begins[longest] + ends[longest]) // 2
    else:
        frame = int(np.argmin(np.convolve(found, np.ones(SMOOTHED) / SMOOTHED, mode="valid"))) + SMOOTHED // 2
    # A part is never empty, so that every part brings the end closer.
    return max(FRAME, min(first + frame * FRAME, len(samples)))
