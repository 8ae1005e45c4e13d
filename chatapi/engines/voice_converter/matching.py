"""The arithmetic of kNN-VC: frames of the target that are nearest to each frame of the source.

Baas, van Niekerk, Kamper, Voice Conversion With Just Nearest Neighbors (2023): cosine distance, the mean of the four
nearest frames. Features of Whisper's first layers differ more between speakers than WavLM's, so each side is first
brought to mean 0 and standard deviation 1. They also tell sounds apart less well: with half a minute of reference the
nearest frames alone are hard to understand, so the source's own articulation is mixed in. Word error rates must be
measured on sentences that the judge does not know: of the opening of A Tale of Two Cities Whisper base found all but
7 % of the words, of the sentences after it all but 41 %, with the same voices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatapi.audio import Samples

NEIGHBOURS = 4
"""Frames of the target of which each frame of the result is the mean. With 1 of the 25 s 19.2 % of the words were
wrong, with 8 8.2 %, with 4 5.5 %."""
ARTICULATION, LEAST_ARTICULATION, ENVELOPE = 0.7, 0.4, 16
"""Share of the source's own envelope in the result where no frame of the target is near, and where one is; and cosine
waves over the bands of which an envelope consists."""
FAR, NEAR = -1.3, 0.25
"""Nearness of the target's frames, in standard deviations above the mean of the source, until which and from which it
is so. Eight pairs that are not among the published ones, without the vocoder: with .7 everywhere 5.7 % of the words
were wrong at a likeness (Resemblyzer) of .769, with .6 5.2 % at .791, with this rule 4.7 % at .809. Of six of them with
.5 10 % at .82, and without the source's envelope half of the words at .84."""
USUAL_NEARNESS = (0.35, 0.08)
"""Mean and spread of the nearness of a source of which nothing is known."""
SMOOTHED = 2
"""Frames before and after each one that have to be alike, too."""
BLOCK = 128
"""Frames of the source that are compared at once: with 10 minutes of reference 32 MB of similarities and their sums."""


@dataclass(frozen=True, eq=False)
class TargetPool:
    """A reference, ready to be matched."""

    mean: Samples
    """Of its rows, of shape (width + bands,)."""
    spread: Samples
    """Their standard deviation, of shape (width + bands,)."""
    features: Samples
    """Normalized, of shape (frames, width)."""
    bands: Samples
    """The vocoder's, of shape (frames, bands)."""


class TargetPools:
    """The pool of the last reference; a stream asks for the same one again and again."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._key: tuple[object, ...] = ()
        self._pool: TargetPool | None = None

    def of(self, reference: Samples) -> TargetPool:
        """The pool of rows of `width` features and the bands after them, at least one."""
        # From another process the same reference comes in another place of memory.
        key = (reference.shape, reference[:: max(1, len(reference) // 50)].tobytes())
        if self._pool is None or key != self._key:
            rows, width = reference.astype(np.float32), self._width
            mean, spread = rows.mean(axis=0), rows.std(axis=0)
            features = normalized(rows[:, :width], mean[:width], spread[:width])
            self._key, self._pool = key, TargetPool(mean, spread, features, rows[:, width:].copy())
        return self._pool


def normalized(features: Samples, mean: Samples, spread: Samples) -> Samples:
    """Features brought to mean 0 and standard deviation 1 of their speaker, then each frame to length 1; shape (frames,
    width)."""
    centred = (features - mean) / (spread + np.float32(1e-5))
    found: Samples = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.float32(1e-9))
    return found


def matched(query: Samples, pool: Samples, values: Samples) -> tuple[Samples, Samples]:
    """The mean of the values of the NEIGHBOURS frames of the pool nearest to each frame of the query, and how near
    these are, -1 to 1. A frame is near where those before and after it are alike, too.

    `query` (n, width) and `pool` (m, width) are `normalized`, m at least 1; `values` (m, bands); the results (n, bands)
    and (n,). A pool with fewer frames gives the mean of all.
    """
    count = min(NEIGHBOURS, len(pool))
    similarity = _along(query @ pool.T)
    nearest = np.argpartition(similarity, len(pool) - count, axis=1)[:, len(pool) - count :]
    found: Samples = values[nearest].mean(axis=1)
    return found, np.take_along_axis(similarity, nearest, axis=1).mean(axis=1)


def _along(similarity: Samples) -> Samples:
    """The mean of each similarity with those of SMOOTHED frames before and after it in both recordings."""
    rows, columns = similarity.shape
    total, count = similarity.copy(), np.ones(similarity.shape, np.uint8)
    for away in range(1, SMOOTHED + 1):
        if away < rows and away < columns:
            total[away:, away:] += similarity[:-away, :-away]
            total[:-away, :-away] += similarity[away:, away:]
            count[away:, away:] += 1
            count[:-away, :-away] += 1
    total /= count
    return total


def articulation(nearness: Samples, mean: float, spread: float) -> Samples:
    """The share of the source's own envelope for each frame, by how near the target's frames are; `mean` and `spread`
    of the nearness are the source's."""
    far, near = mean + FAR * spread, mean + NEAR * spread
    share = np.clip((near - nearness) / max(near - far, 1e-5), 0, 1)
    padded = np.pad(share, 1, mode="edge")
    found: Samples = (padded[:-2] + padded[1:-1] + padded[2:]) / np.float32(3)
    return LEAST_ARTICULATION + (ARTICULATION - LEAST_ARTICULATION) * found


def articulated(
    found: Samples, own: Samples, source: tuple[Samples, Samples], pool: TargetPool, shares: Samples
) -> Samples:
    """Bands of the target, of shape (frames, bands), with a share of the source's own spectral envelope for each frame.

    `own`: the source's bands, `source` their mean and spread. The bands are brought to the target's mean and spread; of
    what then differs, only the envelope is taken, since the harmonics are those of the source's pitch.
    """
    bands, (mean, spread) = found.shape[1], source
    mapped = (own - mean) / (spread + np.float32(1e-5)) * pool.spread[-bands:] + pool.mean[-bands:]
    waves = np.cos(np.pi * np.arange(ENVELOPE)[:, None] * (np.arange(bands) + 0.5) / bands)
    waves = waves / np.linalg.norm(waves, axis=1, keepdims=True)
    result: Samples = (found + shares[:, None] * ((mapped - found) @ waves.T @ waves)).astype(np.float32)
    return result


def at_times(rows: Samples, have: float, want: float, count: int) -> Samples:
    """Rows that are `have` seconds apart, linearly interpolated at `count` times that are `want` seconds apart; each
    row stands for the middle of its time."""
    return at_places(rows, (np.arange(count) + 0.5) * want / have - 0.5)


def at_places(rows: Samples, places: Samples) -> Samples:
    """Rows, linearly interpolated at places counted in rows; before the first and after the last one it is they."""
    place = np.clip(places, 0, len(rows) - 1)
    lower = np.minimum(place.astype(np.int64), len(rows) - 1)
    upper = np.minimum(lower + 1, len(rows) - 1)
    weight = (place - lower)[:, None].astype(np.float32)
    found: Samples = rows[lower] * (1 - weight) + rows[upper] * weight
    return found
