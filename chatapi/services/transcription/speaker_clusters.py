"""Groups of speaker embeddings, one for each speaker; bounded memory, whatever the length of the recording.

Average linkage: two groups are as alike as their pairs of embeddings are on average, which the sums of their unit
vectors tell. Embeddings are grouped in batches, and then the groups of all batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

BATCH = 400
"""Embeddings grouped at once: about three minutes of speech."""
MOST_GROUPS = 800
"""Groups held, after which they are grouped again."""
LEAST = 3
"""Embeddings of the smallest group that counts as a speaker, 2.4 s of speech; windows across a change of the speaker
make smaller ones."""
STEP = 0.03
"""How much the threshold grows where more speakers are wanted than it finds."""


@dataclass(frozen=True)
class Groups:
    """Groups of embeddings."""

    sums: Vectors
    """Sum of each group's embeddings, of shape (groups, dimensions)."""
    sizes: Numbers
    """Number of each group's embeddings."""

    @property
    def centroids(self) -> Vectors:
        """The directions of the groups, unit vectors."""
        return unit(self.sums)


class SpeakerClusters:
    """Groups embeddings as they come. `least`, `most`: how many speakers there are at least and at most."""

    def __init__(self, threshold: float, most: int, least: int = 1) -> None:
        self._threshold = threshold
        # Stricter, for what is joined early stays together.
        self._early = (1 + threshold) / 2
        self._most, self._least = most, least
        self._waiting: list[Vectors] = []
        self._batches: list[Groups] = []

    def add(self, embeddings: npt.NDArray[np.floating[Any]]) -> None:
        """Adds embeddings, of shape (any, dimensions)."""
        self._waiting.append(embeddings.astype(np.float32))
        if sum(map(len, self._waiting)) >= BATCH:
            self._group_waiting()

    def speakers(self) -> Groups:
        """The groups of all that was added: the speakers, the one with most speech first; none where nothing was."""
        self._group_waiting()
        if not self._batches:
            return Groups(np.zeros((0, 0), np.float32), np.zeros(0, np.int64))
        groups = _joined(self._batches)
        found = self._speakers(groups, self._threshold)
        threshold = self._threshold
        while len(found.sizes) < self._least and threshold < 1:
            threshold += STEP
            found = self._speakers(groups, threshold)
        order = np.argsort(-found.sizes, kind="stable")
        return Groups(found.sums[order], found.sizes[order])

    def _speakers(self, groups: Groups, threshold: float) -> Groups:
        """The groups at a threshold; those that are too small for a speaker are left out."""
        found = linked(groups, threshold, 0)
        large = found.sizes >= LEAST
        if large.any():
            found = Groups(found.sums[large], found.sizes[large])
        return linked(found, 1.0, self._most)

    def _group_waiting(self) -> None:
        if not self._waiting:
            return
        embeddings = np.concatenate(self._waiting)
        self._waiting = []
        for first in range(0, len(embeddings), BATCH):
            part = embeddings[first : first + BATCH]
            self._batches.append(linked(Groups(part, np.ones(len(part), np.int64)), self._early, 0))
        if sum(len(each.sizes) for each in self._batches) > MOST_GROUPS:
            self._batches = [linked(_joined(self._batches), self._early, MOST_GROUPS // 2)]


def linked(groups: Groups, threshold: float, most: int) -> Groups:
    """The groups after all that are alike by at least `threshold` were joined, the most alike first, and then on until
    there are at most `most`, where that is not 0."""
    sums, sizes = groups.sums.copy(), groups.sizes.astype(np.float64)
    likeness = (sums @ sums.T) / np.outer(sizes, sizes)
    np.fill_diagonal(likeness, -np.inf)
    alive = np.ones(len(sizes), bool)
    while (left := int(alive.sum())) > 1:
        first, second = divmod(int(np.argmax(likeness)), len(sizes))
        if likeness[first, second] < threshold and not (most and left > most):
            break
        sums[first] += sums[second]
        sizes[first] += sizes[second]
        alive[second] = False
        likeness[second] = likeness[:, second] = -np.inf
        row = np.where(alive, (sums @ sums[first]) / (sizes * sizes[first]), -np.inf)
        row[first] = -np.inf
        likeness[first] = likeness[:, first] = row
    return Groups(sums[alive], sizes[alive].astype(np.int64))


def unit(vectors: Vectors) -> Vectors:
    """The vectors at length 1; one of length 0 stays."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return found


def likeliest_path(scores: Vectors, costs: Sequence[float]) -> Numbers:
    """The speaker of each step, of shape (steps): the greatest sum of `scores`, of shape (steps, speakers), less the
    costs of changing the speaker before each step (Viterbi)."""
    steps, speakers = scores.shape
    best = scores[0].astype(np.float64)
    came = np.zeros((steps, speakers), np.int32)
    own = np.arange(speakers)
    for step in range(1, steps):
        leader = int(np.argmax(best))
        changed = best[leader] - costs[step]
        came[step] = np.where(best >= changed, own, leader)
        best = np.maximum(best, changed) + scores[step]
    path = np.zeros(steps, np.int64)
    path[-1] = int(np.argmax(best))
    for step in range(steps - 1, 0, -1):
        path[step - 1] = came[step, path[step]]
    return path


def _joined(batches: Sequence[Groups]) -> Groups:
    return Groups(np.concatenate([each.sums for each in batches]), np.concatenate([each.sizes for each in batches]))
