"""Judging a version: its figures on clips that it was not trained on, and whether it may replace another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatapi.audio import Samples
from chatapi.services.command_recognition.head import LinearHead

TOLERANCE = 0.01
"""How much worse than the version in use a figure may be: chance moves it by as much."""
FIRST_TOLERANCE = 0.02
"""How much worse than the model before any teaching a figure may be, so that many small steps lead nowhere."""
WORD_TOLERANCE = 0.1
"""How much worse the held-out samples of the words that both versions know may be recognized: they are few."""
FEWEST_RIGHT = 0.5
"""Share of its held-out samples with which a new word is good enough."""


@dataclass(frozen=True, eq=False)
class JudgedClips:
    """Clips that no version is trained on."""

    embeddings: Samples
    labels: Sequence[str]
    """Of each clip; that of other words and of background is the last label of the model."""
    known: int
    """How many of them, the first ones, are of the replay set; the others are held-out samples of users."""


@dataclass(frozen=True)
class Figures:
    """How well a version recognizes clips of voices that it was not trained on."""

    accuracy: float
    """Share of right labels of the model's own words."""
    false_accepts: float
    """Share of other words and background that are taken for a command."""
    held_out: float | None
    """Mean over the words of the share of right labels of held-out samples; None: there are none."""
    words: Mapping[str, float]
    """Share of right labels of each word."""
    confusion: Mapping[str, Mapping[str, int]]
    """Label -> what its clips were taken for -> how often."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Figures:
        """From the values of `vars`."""
        return cls(**document)


def judge(head: LinearHead, clips: JudgedClips) -> Figures:
    """The figures of a version. A word that it does not know is wrong for all of its clips."""
    other = head.labels[-1]
    found = [head.labels[place] for place in head.decided(head.probabilities(clips.embeddings))]
    confusion: dict[str, dict[str, int]] = {}
    for right, taken in zip(clips.labels, found, strict=True):
        row = confusion.setdefault(right, {})
        row[taken] = row.get(taken, 0) + 1
    hits = np.array([label == taken for label, taken in zip(clips.labels, found, strict=True)])
    own = np.array([label != other for label in clips.labels])
    replayed = np.arange(len(found)) < clips.known
    words = {label: round(row.get(label, 0) / sum(row.values()), 4) for label, row in sorted(confusion.items())}
    return Figures(
        _share(hits[replayed & own]), round(1 - _share(hits[replayed & ~own]), 4),
        _mean_of_words(clips.labels[clips.known :], hits[clips.known :]), words, confusion,
    )  # fmt: skip


def objections(
    new: Figures, old: Figures, first: Figures, old_labels: Sequence[str], taught: Sequence[str]
) -> list[str]:
    """Why a version may not replace the old one; empty: it may. `first`: the model before any teaching."""
    found = []
    for title, less, than, most in (
        ("accuracy of the model's words", new.accuracy, old.accuracy, TOLERANCE),
        ("accuracy of the model's words, compared with the model", new.accuracy, first.accuracy, FIRST_TOLERANCE),
    ):
        if less < than - most:
            found.append(f"{title}: {less:.3f} instead of {than:.3f}")
    for title, more, than, most in (
        ("false accepts", new.false_accepts, old.false_accepts, TOLERANCE),
        ("false accepts, compared with the model", new.false_accepts, first.false_accepts, FIRST_TOLERANCE),
    ):
        if more > than + most:
            found.append(f"{title}: {more:.3f} instead of {than:.3f}")
    for word, share in new.words.items():
        if word in old_labels[:-1] and share < old.words.get(word, 0.0) - WORD_TOLERANCE:
            found.append(f"{word} is recognized worse: {share:.3f} instead of {old.words[word]:.3f}")
        if word in taught and word not in old_labels and share < FEWEST_RIGHT:
            found.append(f"{word} is recognized in {share:.0%} of its held-out samples")
    return found


def _share(values: np.ndarray[Any, Any]) -> float:
    return round(float(values.mean()), 4) if len(values) else 1.0


def _mean_of_words(labels: Sequence[str], right: np.ndarray[Any, Any]) -> float | None:
    words = sorted({*labels})
    if not words:
        return None
    names = np.array(labels)
    return round(float(np.mean([right[names == word].mean() for word in words])), 4)
