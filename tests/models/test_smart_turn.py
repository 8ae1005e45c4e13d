"""Smart Turn on speech that ends and speech that stops in the middle."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.engines.turn_detection.smart_turn import SmartTurn
from chatapi.errors import ModelError
from chatapi.settings import Settings
from conftest import installed_model
from paths import CORPUS

pytestmark = pytest.mark.real
REAL = CORPUS / "real"
PAUSE = np.zeros(RATE // 5, np.float32)


@pytest.fixture(scope="module")
def detector() -> SmartTurn:
    return SmartTurn(Settings(), [installed_model("smart-turn-v3.2")])


def clip(name: str) -> Samples:
    return decode(REAL / f"{name}.flac").samples


def finished(detector: SmartTurn, samples: Samples) -> float:
    [probability] = detector.end_of_turn_probability(np.concatenate([samples, PAUSE]))
    return probability


def test_a_complete_sentence_ends_the_turn_and_its_first_half_does_not(detector: SmartTurn) -> None:
    sentence = clip("en-quick_brown_fox")
    assert finished(detector, sentence) > 0.5
    assert finished(detector, sentence[: len(sentence) // 2]) < 0.5


def test_only_the_last_eight_seconds_count(detector: SmartTurn) -> None:
    sentence = clip("en-quick_brown_fox")
    before = np.tile(clip("jfk-17"), 6)
    long = np.concatenate([before, sentence, PAUSE])
    assert list(detector.end_of_turn_probability(long)) == list(detector.end_of_turn_probability(long[-8 * RATE :]))


def test_missing_model_is_reported_with_the_remedy() -> None:
    with pytest.raises(ModelError, match="chatapi models"):
        SmartTurn(Settings(), [])
