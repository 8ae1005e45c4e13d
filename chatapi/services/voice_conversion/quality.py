"""The quality of the reference clips of a voice, and what makes a voice of them worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Samples

CLIPPED = 0.99
"""Amplitude from which a sample counts as clipped, where its neighbour does, too."""
FRAME = RATE // 50
"""Samples of a frame whose power is measured: 20 ms."""
FEWEST_SECONDS, QUIET_DB, NOISY_DB, CLIPPED_SHARE = 30.0, -40.0, 15.0, 0.001
"""Where warnings begin: seconds of speech (in fewer there are too few frames that are alike those of a source),
level of the speech in dBFS, speech over noise in dB, share of clipped samples."""
SILENCE_DB = -100.0


@dataclass(frozen=True)
class QualityReport:
    """What the clips are like."""

    seconds: float
    """Length of all clips, in seconds."""
    speech_seconds: float
    """Speech in them, in seconds."""
    level_db: float
    """Level of the speech, in dBFS."""
    noise_db: float
    """Level of what is no speech, in dBFS: the median of its frames of 20 ms; without pauses, of the quietest tenth."""
    clipped: float
    """Share of clipped samples, 0 to 1."""
    speakers: int | None
    """How many people speak; None: the model of the role `speaker` is not installed."""
    warnings: tuple[str, ...]
    """Of short, quiet, noisy, clipped, several_speakers."""


def assess(
    clips: Sequence[Samples], spoken: Sequence[npt.NDArray[np.bool_]], speech_seconds: float, speakers: int | None
) -> QualityReport:
    """The report of clips of 16 kHz; `spoken`: which frames of FRAME samples of each are speech."""
    powers = np.concatenate([_powers(clip) for clip in clips])
    speech = np.concatenate([each[: len(clip) // FRAME] for clip, each in zip(clips, spoken, strict=True)])
    pauses = powers[~speech]
    noise = np.median(pauses) if len(pauses) else np.percentile(powers, 10) if len(powers) else 0.0
    level_db = _decibels(float(powers[speech].mean()) if speech.any() else 0.0)
    noise_db, clipped = _decibels(float(noise)), _clipped(clips)
    found = {
        "short": speech_seconds < FEWEST_SECONDS,
        "quiet": level_db < QUIET_DB,
        "noisy": level_db - noise_db < NOISY_DB,
        "clipped": clipped > CLIPPED_SHARE,
        "several_speakers": (speakers or 1) > 1,
    }
    return QualityReport(
        round(sum(map(len, clips)) / RATE, 2), round(speech_seconds, 2), level_db, noise_db, clipped, speakers,
        tuple(name for name, is_so in found.items() if is_so),
    )  # fmt: skip


def _powers(samples: Samples) -> Samples:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    found: Samples = np.mean(np.square(frames), axis=1)
    return found


def _clipped(clips: Sequence[Samples]) -> float:
    """One loud sample is a peak; two in a row are cut off."""
    count = 0
    for clip in clips:
        loud = np.abs(clip) >= CLIPPED
        count += int(np.count_nonzero(loud[1:] & loud[:-1]))
    return round(count / max(1, sum(map(len, clips))), 6)


def _decibels(power: float) -> float:
    return round(max(SILENCE_DB, 10 * math.log10(power)), 1) if power > 0 else SILENCE_DB
