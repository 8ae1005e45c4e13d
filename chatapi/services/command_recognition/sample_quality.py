"""What makes a clip a sample of a command: its length, its level, no clipping, and speech in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import COMMAND_SAMPLES, VAD_FRAME
from chatapi.errors import Unprocessable

MOST_SECONDS = 3.0
"""Longest clip that is looked at, in seconds; people press a button too early and too late."""
FEWEST_SECONDS = 0.2
"""Shortest sample, in seconds."""
SPEECH = 0.3
"""Probability from which a frame of the VAD is speech: a single word at the start of a clip is hard to tell."""
FEWEST_FRAMES = 2
"""Frames of speech that a sample has: 64 ms."""
MARGIN = RATE // 10
"""Samples kept before and after the speech where a clip is trimmed: 0.1 s."""
QUIET_DB = -50.0
"""Level of the speech below which a sample is too quiet, in dBFS."""
CLIPPED, CLIPPED_SHARE = 0.99, 0.02
"""Amplitude from which a sample counts as clipped where its neighbour does too, and the largest share of them."""


@dataclass(frozen=True, eq=False)
class CheckedClip:
    """A clip that can be a sample."""

    samples: Samples
    """16 kHz mono, 0.2 to 1 s."""
    level_db: float
    """Level of the speech, in dBFS."""
    clipped: float
    """Share of clipped samples, 0 to 1."""
    speech_seconds: float
    trimmed: bool
    """Whether silence at its ends was cut off."""


def check(samples: Samples, probabilities: Sequence[float]) -> CheckedClip:
    """The part of a clip that becomes the sample. `probabilities`: of speech, of each frame of VAD_FRAME samples.

    Raises Unprocessable: sample_too_short, no_speech, sample_too_long, sample_quiet, sample_clipped.
    """
    if len(samples) < FEWEST_SECONDS * RATE:
        message = f"the clip has {len(samples) / RATE:.2f} seconds; a sample has {FEWEST_SECONDS} to 1 s"
        raise Unprocessable(message, code="sample_too_short")
    spoken = np.flatnonzero(np.asarray(probabilities) >= SPEECH)
    if len(spoken) < FEWEST_FRAMES:
        raise Unprocessable("the clip has no speech; say the word louder, or nearer", code="no_speech")
    first, last = int(spoken[0]) * VAD_FRAME, min(len(samples), (int(spoken[-1]) + 1) * VAD_FRAME)
    kept = _trimmed(samples, first, last)
    speech = samples[first:last]
    level = 10 * math.log10(max(1e-10, float(np.mean(np.square(speech, dtype=np.float64)))))
    if level < QUIET_DB:
        message = f"the speech has a level of {level:.0f} dBFS; a sample needs {QUIET_DB:.0f}"
        raise Unprocessable(message, code="sample_quiet")
    loud = np.abs(speech) >= CLIPPED
    clipped = float(np.count_nonzero(loud[1:] & loud[:-1])) / max(1, len(speech))
    if clipped > CLIPPED_SHARE:
        message = f"{clipped:.0%} of the speech is clipped; turn the microphone down"
        raise Unprocessable(message, code="sample_clipped")
    seconds = round(len(spoken) * VAD_FRAME / RATE, 3)
    return CheckedClip(kept, round(level, 1), round(clipped, 5), seconds, len(kept) < len(samples))


def _trimmed(samples: Samples, first: int, last: int) -> Samples:
    """The clip, or of one that is longer than a second the part around its speech. Raises Unprocessable."""
    if len(samples) <= COMMAND_SAMPLES:
        return samples
    if last - first > COMMAND_SAMPLES:
        message = f"the clip has {(last - first) / RATE:.1f} seconds of speech; a sample has at most one second"
        raise Unprocessable(message, code="sample_too_long")
    start = max(0, min(first - MARGIN, last + MARGIN - COMMAND_SAMPLES, len(samples) - COMMAND_SAMPLES))
    start = min(start, first)
    return samples[start : start + COMMAND_SAMPLES]
