"""Fingerprints of sounds, with which a kind of sound that moderators rejected is recognized again at its place.

A fingerprint says which frequency bands a sound of one window raises over the background of its clip, on the mean and
at the most: a vector of the length 1. It is of the sound and not of the detector, so it outlives a change of the model.
Two windows have the same kind of sound when the cosine of their vectors is high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chatapi.engines import SOUND_RATE, SoundWindow
from chatapi.services.stream_monitoring.decision import Rule
from chatapi.services.stream_monitoring.pieces import SoundClip
from chatapi.services.stream_monitoring.spectrum import BANDS, band_levels

Fingerprints = npt.NDArray[np.float32]
"""Shape (windows, SIZE)."""
SIZE = 2 * BANDS
HOP = 2048
"""Samples between two frames: 43 ms."""
BACKGROUND = 25
"""Percentile over a clip's time that is a band's background."""
MARGIN_DB = 4.0
"""What a band has to be above its background to count."""
MOST_WINDOWS = 8
"""Windows of a clip whose fingerprints are stored."""
SAME_KIND = 0.95
"""Least cosine of two windows of the same kind; docs/monitoring-streams.md has the measurement."""


def fingerprints(clip: SoundClip, windows: Sequence[SoundWindow], target: int, rule: Rule) -> Fingerprints:
    """Those of the positive windows of a clip; of its best window, where none is."""
    positive = [each for each in windows if each.scores[target] > rule.local_threshold]
    chosen = positive or sorted(windows, key=lambda each: -each.scores[target])[:1]
    levels = band_levels(clip.samples, HOP)
    excess = np.maximum(0, levels - np.percentile(levels, BACKGROUND, axis=0) - MARGIN_DB)
    rows = [_vector(excess[_frames(each)]) for each in chosen]
    return np.stack(rows) if rows else np.zeros((0, SIZE), np.float32)


def packed(rows: Fingerprints) -> bytes:
    """As they are stored: 16-bit floats, of at most MOST_WINDOWS windows, which are spread over all."""
    places = np.linspace(0, max(0, len(rows) - 1), min(len(rows), MOST_WINDOWS)).round().astype(int)
    data: bytes = rows[places].astype(np.float16).tobytes()
    return data


def unpacked(data: bytes) -> Fingerprints:
    """Raises ValueError where the data is damaged."""
    found: Fingerprints = np.frombuffer(data, np.float16).reshape(-1, SIZE).astype(np.float32)
    return found


def same_kind(rows: Fingerprints, known: Fingerprints) -> bool:
    """Whether every window has the kind of sound of one of the known windows: one other sound is enough for no."""
    if not len(rows) or not len(known):
        return False
    return bool(((rows @ known.T).max(axis=1) >= SAME_KIND).all())


def _frames(window: SoundWindow) -> slice:
    first = round(window.start * SOUND_RATE / HOP)
    return slice(first, max(first + 1, round((window.start + window.duration) * SOUND_RATE / HOP)))


def _vector(excess: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A window's bands of shape (frames, BANDS) as a vector of the length 1; of a window without anything, 0."""
    if not len(excess):
        return np.zeros(SIZE, np.float32)
    mean, most = excess.mean(axis=0), excess.max(axis=0)
    joined = np.concatenate([mean / (np.linalg.norm(mean) or 1), most / (np.linalg.norm(most) or 1)])
    found: npt.NDArray[np.float32] = (joined / (np.linalg.norm(joined) or 1)).astype(np.float32)
    return found
