"""Diarization error rate: the share of the speech that is missed, invented, or given to the wrong speaker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STEP = 0.01
"""Seconds of a frame in which all is counted."""
COLLAR = 0.25
"""Seconds before and after each boundary of the reference that are not counted."""


class TimedSpeaker(NamedTuple):
    """A stretch of speech of one speaker."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    speaker: str


@dataclass(frozen=True)
class DiarizationError:
    """Seconds of each kind of error."""

    speech: float
    """Seconds of speech in the reference, each speaker's for itself."""
    missed: float
    false_alarm: float
    confusion: float

    @property
    def rate(self) -> float:
        """The diarization error rate; 0 where there is no speech."""
        return (self.missed + self.false_alarm + self.confusion) / self.speech if self.speech else 0.0

    def __add__(self, other: DiarizationError) -> DiarizationError:
        return DiarizationError(
            self.speech + other.speech,
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
        )


def diarization_error(
    reference: Sequence[TimedSpeaker], found: Sequence[TimedSpeaker], collar: float = COLLAR, overlaps: bool = True
) -> DiarizationError:
    """The errors of `found`, with the names of its speakers mapped to those of the reference in the best way.

    By the definition of NIST's md-eval: in each frame the larger of the two numbers of speakers is to be right; missed
    are those whom only the reference has, false alarms those whom only `found` has, and of the others those with the
    wrong name are confused. Without `overlaps`, frames with several speakers in the reference are not counted.
    """
    last = max((turn.end for turn in (*reference, *found)), default=0.0) + STEP
    said, heard = _frames(reference, last), _frames(found, last)
    counted = np.ones(said.shape[1], bool)
    for time in (time for turn in reference for time in (turn.start, turn.end)):
        first, after = round((time - collar) / STEP), round((time + collar) / STEP)
        counted[max(0, first) : max(0, after)] = False
    if not overlaps:
        counted &= said.sum(axis=0) < 2
    said, heard = said[:, counted], heard[:, counted]
    expected, given = said.sum(axis=0), heard.sum(axis=0)
    right = _best_match(said.astype(np.float64) @ heard.T.astype(np.float64))
    return DiarizationError(
        speech=float(expected.sum()) * STEP,
        missed=float(np.maximum(0, expected - given).sum()) * STEP,
        false_alarm=float(np.maximum(0, given - expected).sum()) * STEP,
        confusion=(float(np.minimum(expected, given).sum()) - right) * STEP,
    )


def _frames(turns: Sequence[TimedSpeaker], seconds: float) -> npt.NDArray[np.int64]:
    """Whether each speaker speaks in each frame, of shape (speakers, frames)."""
    names = sorted({turn.speaker for turn in turns})
    found = np.zeros((len(names), round(seconds / STEP)), np.int64)
    for turn in turns:
        found[names.index(turn.speaker), round(turn.start / STEP) : round(turn.end / STEP)] = 1
    return found


def _best_match(shared: npt.NDArray[np.float64]) -> float:
    """The most frames that are right with one name for each speaker; `shared` of shape (reference, found)."""
    if shared.shape[0] > shared.shape[1]:
        shared = shared.T
    rows, columns = shared.shape
    # The best sum for each set of columns that the rows so far have taken.
    best = {frozenset[int](): 0.0}
    for row in range(rows):
        following: dict[frozenset[int], float] = {}
        for (taken, total), column in itertools.product(best.items(), range(columns)):
            if column not in taken:
                key = taken | {column}
                following[key] = max(following.get(key, 0.0), total + float(shared[row, column]))
        best = following
    return max(best.values())
