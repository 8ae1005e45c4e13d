"""From the frames of an encoder to one vector of a word: means of equal parts of its speech, and the spread."""

from __future__ import annotations

import itertools

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import COMMAND_SAMPLES

BLOCK = 160
"""Samples of a block in which the level is measured: 10 ms."""
FRAME = 320
"""Samples of a frame of the encoder: 20 ms."""
QUIET = 0.06
"""Level, relative to the loudest block, from which a block belongs to the word: -24 dB."""
MARGIN = 3 * BLOCK
"""Samples that are kept before and after the word."""
PARTS = 4
"""Parts of a word, which keep the order of its sounds: `left` is not `felt`."""


def extent(samples: Samples) -> tuple[int, int]:
    """First sample of the word in a clip, and the one behind its last."""
    blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    levels = np.sqrt(np.mean(np.square(blocks), axis=1)) if len(blocks) else np.zeros(1)
    smooth = np.convolve(levels, np.ones(3) / 3, "same")
    loud = np.flatnonzero(smooth > QUIET * smooth.max())
    if not len(loud):
        return 0, len(samples)
    return max(0, int(loud[0]) * BLOCK - MARGIN), min(len(samples), (int(loud[-1]) + 1) * BLOCK + MARGIN)


def centred(samples: Samples) -> tuple[Samples, slice]:
    """The word of a clip in the middle of a second, and the frames that it has there."""
    placed = np.zeros(COMMAND_SAMPLES, np.float32)
    first, end = extent(samples)
    word = samples[first:end][:COMMAND_SAMPLES]
    start = (COMMAND_SAMPLES - len(word)) // 2
    placed[start : start + len(word)] = word
    return placed, slice(start // FRAME, max(start // FRAME + 1, -(-(start + len(word)) // FRAME)))


def pooled(frames: Samples) -> Samples:
    """Of frames of shape (frames, width), at least one: the means of PARTS equal parts, and the standard deviation."""
    edges = np.linspace(0, len(frames), PARTS + 1)
    parts = []
    for low, high in itertools.pairwise(edges):
        first = min(int(low), len(frames) - 1)
        parts.append(frames[first : max(first + 1, int(np.ceil(high)))].mean(axis=0))
    found: Samples = np.concatenate([*parts, frames.std(axis=0)]).astype(np.float32)
    return found
