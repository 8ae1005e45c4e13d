"""The decisions about clips against the rules as tables, and against numbers of random scores computed another way."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.services.stream_monitoring.decision import OldRule, V1Rule


def test_old_parts_are_means_of_adjacent_windows_with_the_first_and_last_alone() -> None:
    found = OldRule().decide([0.9, 0.3, 0.9, 0.5], [0, 1, 2, 3], 2, 10)
    assert [part.confidence for part in found.parts] == pytest.approx([0.9, 0.6, 0.6, 0.7, 0.5])
    assert [part.positive for part in found.parts] == [True, True, True, True, False]
    assert [(part.start, part.duration) for part in found.parts] == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)]
    assert found.positive
    assert found.confidence == pytest.approx(100 * (0.9 + 0.6 + 0.6 + 0.7) / 4)


@pytest.mark.parametrize(
    ("scores", "positive"),
    [([0.9, 0.9], True), ([0.9, 0.0, 0.9], False), ([0.5] * 10, False), ([0.0] * 5 + [0.9], False), ([], False),
     ([0.0, 0.9, 0.9, 0.0], False), ([0.0, 0.95, 0.9, 0.2, 0.0], False), ([0.1, 0.95, 0.9, 0.2, 0.0], True)],
)  # fmt: skip
def test_old_rule_needs_three_parts_above_half(scores: list[float], positive: bool) -> None:
    assert OldRule().decide(scores, range(len(scores)), 2, 60).positive is positive


@pytest.mark.parametrize(
    ("scores", "confidence", "positive"),
    [([0.1, 0.7, 0.5], 60, True), ([0.1, 0.69, 0.5], 59.5, False), ([0.6], 60, True), ([], 0, False),
     ([0.0, 0.0], 0, False)],
)  # fmt: skip
def test_v1_rule_takes_the_mean_of_the_two_highest(scores: list[float], confidence: float, positive: bool) -> None:
    found = V1Rule().decide(scores, [2.0 * each for each in range(len(scores))], 3, 60)
    assert found.confidence == pytest.approx(confidence)
    assert found.positive is positive
    assert [(part.start, part.duration) for part in found.parts] == [(2 * each, 3) for each in range(len(scores))]


def test_v1_thresholded_takes_the_mean_of_those_above_the_local_threshold() -> None:
    rule = V1Rule(strategy="mean_thresholded")
    found = rule.decide([0.5, 0.51, 0.8, 0.1], [0, 2, 4, 6], 3, 60)
    assert found.confidence == pytest.approx(65.5)
    assert [part.positive for part in found.parts] == [False, True, True, False]
    assert rule.decide([0.5, 0.4], [0, 2], 3, 60).confidence == 0


def test_rules_equal_arithmetic_on_arrays() -> None:
    for seed in range(50):
        scores = np.random.default_rng(seed).random(29)
        padded = np.concatenate([scores[:1], scores, scores[-1:]])
        means = (padded[1:] + padded[:-1]) / 2
        old = OldRule().decide(list(scores), range(29), 2, 60)
        assert [part.confidence for part in old.parts] == pytest.approx(list(means))
        assert old.confidence == pytest.approx(100 * means[means > 0.5].mean())
        assert old.positive == ((means > 0.5).sum() >= 3)
        v1 = V1Rule(top=4).decide(list(scores), range(29), 3, 60)
        assert v1.confidence == pytest.approx(100 * np.partition(scores, -4)[-4:].mean())
