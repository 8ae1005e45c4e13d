"""Changes of the speaker within one utterance: where the voices on both sides differ most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Samples
from chatapi.engines import SPEAKER_WINDOW, speaker_windows
from chatapi.services.transcription.speaker_clusters import Vectors, unit
from chatapi.services.transcription.speaker_turns import CELL, levels, quietest

LEAST = RATE * 6 // 5
"""Samples of speech on either side of a change: of less, a voice is not certain."""
REACH = RATE * 2 // 5
"""Samples by which a window may reach over a change and still belong to one side."""
LOOK = 3 * RATE
"""Samples on either side of a change that are compared: further away, the first speaker may speak again."""
MARGIN = 0.05
"""How much more alike than two windows both sides are if one person speaks; see docs/measurements/services.md."""


def changes(samples: Samples, vectors: Vectors, threshold: float) -> list[int]:
    """The samples at which another speaker begins, in order.

    `vectors`: unit embeddings of the `speaker_windows` of the samples, of shape (windows, dimensions). `threshold`:
    cosine similarity from which two windows are one voice.
    """
    starts = np.array(speaker_windows(len(samples)))
    found = sorted(_changes(starts, vectors, 0, len(samples), threshold + MARGIN))
    loudness = levels(samples)
    return [min(quietest(loudness, each // CELL), len(samples)) for each in found]


def side(starts: npt.NDArray[np.int64], start: int, end: int) -> npt.NDArray[np.bool_]:
    """Which windows belong to the speech from `start` to `end`, given by the first samples of all windows."""
    found: npt.NDArray[np.bool_] = (starts >= start - REACH) & (starts + SPEAKER_WINDOW <= end + REACH)
    return found


def _changes(starts: npt.NDArray[np.int64], vectors: Vectors, first: int, last: int, least: float) -> Iterator[int]:
    """The changes between two samples; where the sides are alike by at least `least`, there is none."""
    cuts = range(first + LEAST, last - LEAST + 1, CELL)
    found = [_difference(starts, vectors, (max(first, cut - LOOK), cut, min(last, cut + LOOK))) for cut in cuts]
    if not found or min(found)[0] >= least:
        return
    # Several cuts have the same windows on either side: the middle one is nearest to the change.
    equal = [cut for cut, each in zip(cuts, found, strict=True) if each == min(found)]
    cut = equal[len(equal) // 2]
    yield cut
    yield from _changes(starts, vectors, first, cut, least)
    yield from _changes(starts, vectors, cut, last, least)


def _difference(starts: npt.NDArray[np.int64], vectors: Vectors, place: tuple[int, int, int]) -> tuple[float, int]:
    """Cosine similarity of the mean voices before and after the middle of three samples, 1 where one has no window; and
    the negative number of windows that it is computed from, because a cut beside a change leaves windows out."""
    first, cut, last = place
    left, right = side(starts, first, cut), side(starts, cut, last)
    count = int(left.sum() + right.sum())
    if not left.any() or not right.any():
        return 1.0, -count
    return float(unit(vectors[left].sum(axis=0)) @ unit(vectors[right].sum(axis=0))), -count
