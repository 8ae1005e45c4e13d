"""The wake word is detected, and other words are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.engines import WAKE_WORD_FRAME
from chatapi.engines.tts.piper import Piper
from chatapi.engines.wake_word.pymicro_wakeword import PymicroWakeword
from chatapi.errors import ModelError
from chatapi.settings import Settings, WakeWordSettings
from conftest import installed_model
from paths import CORPUS

pytestmark = pytest.mark.real
SILENCE = np.zeros(RATE // 2, np.float32)


@pytest.fixture(scope="module")
def nabu() -> PymicroWakeword:
    return PymicroWakeword(Settings(), [installed_model("okay_nabu")])


@pytest.fixture(scope="module")
def joe() -> Piper:
    return Piper(Settings(), [installed_model("en_US-joe-medium")])


def synthesize(piper: Piper, text: str) -> Samples:
    parts = [part.at(RATE).samples for part in piper.synthesize(text, piper.voices[0].name)]
    return np.concatenate([SILENCE, *parts, SILENCE])


def times(detector: PymicroWakeword, samples: Samples) -> list[float]:
    """Seconds at which the probability rose over the threshold."""
    over = [probability >= detector.threshold for probability in detector.probabilities(samples)]
    return [n * WAKE_WORD_FRAME / RATE for n in range(1, len(over)) if over[n] and not over[n - 1]]


@pytest.mark.parametrize("name", ["alone", "pause", "at_once"])
def test_the_wake_word_is_detected_once_when_it_ends(nabu: PymicroWakeword, name: str) -> None:
    clip = decode(CORPUS / "wake" / f"{name}.flac").samples
    [found] = times(nabu, np.concatenate([SILENCE, clip, SILENCE]))
    assert 1.1 < found < 1.6


@pytest.mark.parametrize(
    "text", ["What is the capital of France?", "Okay, nobody knows.", "Hey Jarvis.", "The capital of France is Paris."]
)
def test_other_words_are_not_detected(nabu: PymicroWakeword, joe: Piper, text: str) -> None:
    assert times(nabu, synthesize(joe, text)) == []


def test_recorded_speech_is_not_detected(nabu: PymicroWakeword) -> None:
    clips = sorted((CORPUS / "real").glob("en-*.flac"))[:12]
    assert clips
    assert times(nabu, np.concatenate([decode(clip).samples for clip in clips])) == []


def test_other_wake_word_needs_another_model(joe: Piper) -> None:
    jarvis = PymicroWakeword(Settings(), [installed_model("hey_jarvis")])
    assert jarvis.words == "hey jarvis"
    assert times(jarvis, synthesize(joe, "hey jarvis."))
    assert times(jarvis, synthesize(joe, "okay nabu.")) == []


def test_the_blocks_may_have_any_size(nabu: PymicroWakeword) -> None:
    sound, listener = decode(CORPUS / "wake" / "pause.flac").samples, nabu.stream()
    assert max(listener.probability(sound[at : at + 777]) for at in range(0, len(sound), 777)) >= nabu.threshold


def test_threshold_of_the_model_is_used_unless_one_is_configured(nabu: PymicroWakeword) -> None:
    assert nabu.threshold == 0.85
    assert (
        PymicroWakeword(Settings(wake_word=WakeWordSettings(threshold=0.5)), [installed_model("okay_nabu")]).threshold
        == 0.5
    )


def test_a_model_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chatapi models"):
        PymicroWakeword(Settings(), [])
    (tmp_path / "other.tflite").write_bytes(b"something else")
    good = installed_model("okay_nabu")
    with pytest.raises(ModelError, match="it is not a TensorFlow Lite file"):
        PymicroWakeword(Settings(), [dataclasses.replace(good, files={"other.tflite": tmp_path / "other.tflite"})])
    with pytest.raises(ModelError, match="needs words, threshold and window"):
        PymicroWakeword(Settings(), [dataclasses.replace(good, options={})])
