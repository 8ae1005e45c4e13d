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
ARTICULATION, ENVELOPE = 0.7, 16
"""Share of the source's own envelope in the result, and cosine waves over the bands of which an envelope consists.
Of 19 s of a man to 24 s of a woman 57 % of the words were wrong without that (Resemblyzer's likeness .84), 26 % with a
half (.78), 12 % with 0.7 (.76); with a half of all bands 8 %, but in the pitch of the source (.70)."""
BLOCK = 256
"""Frames of the source that are compared at once: with 10 minutes of reference 31 MB of similarities."""


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


def matched(query: Samples, pool: Samples, values: Samples) -> Samples:
    """The mean of the values of the NEIGHBOURS frames of the pool nearest to each frame of the query.

    `query` (n, width) and `pool` (m, width) are `normalized`, m at least 1; `values` (m, bands); the result (n, bands).
    A pool with fewer frames gives the mean of all.
    """
    count = min(NEIGHBOURS, len(pool))
    similarity = query @ pool.T
    nearest = np.argpartition(similarity, len(pool) - count, axis=1)[:, len(pool) - count :]
    found: Samples = values[nearest].mean(axis=1)
    return found


def articulated(found: Samples, own: Samples, mean: Samples, spread: Samples, pool: TargetPool) -> Samples:
    """Bands of the target, of shape (frames, bands), with a share of the source's own spectral envelope.

    `own`: the source's bands, `mean` and `spread` its statistics. The bands are brought to the target's mean and
    spread; of what then differs, only the envelope is taken, since the harmonics are those of the source's pitch.
    """
    bands = found.shape[1]
    mapped = (own - mean) / (spread + np.float32(1e-5)) * pool.spread[-bands:] + pool.mean[-bands:]
    waves = np.cos(np.pi * np.arange(ENVELOPE)[:, None] * (np.arange(bands) + 0.5) / bands)
    waves = waves / np.linalg.norm(waves, axis=1, keepdims=True)
    result: Samples = (found + ARTICULATION * ((mapped - found) @ waves.T @ waves)).astype(np.float32)
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
