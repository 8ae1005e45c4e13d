"""Asleep and awake: with tones in place of words, and with the wake word as two voices say it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from chatapi.audio import RATE, Samples, decode
from chatapi.bench.wer import words
from chatapi.engines.asr.whisper_cpp import WhisperCpp
from chatapi.engines.fake import FakeVoiceActivityDetector, FakeWakeWordDetector
from chatapi.engines.vad.silero import Silero
from chatapi.engines.wake_word.pymicro_wakeword import PymicroWakeword
from chatapi.runtime.workers import Engines
from chatapi.services.wake_word import WakeWordGate
from chatapi.settings import Settings
from conftest import model, tone

BLOCK = 320
CALL = tone(0.02, hertz=3000)
SPEECH = tone(1.0)
HUSH = np.zeros(RATE, np.float32)


def waking(wake: Any = None, vad: Any = None, seconds: float = 2.0) -> WakeWordGate:
    wake, vad = wake or FakeWakeWordDetector(Settings(), ()), vad or FakeVoiceActivityDetector(Settings(), ())
    engines = SimpleNamespace(wake=SimpleNamespace(engine=wake), vad=SimpleNamespace(engine=vad))
    return WakeWordGate(cast(Engines, engines), seconds, 0.5)


def heard(waking: WakeWordGate, *sounds: Samples, busy: bool = False) -> tuple[Samples, list[str]]:
    """What was meant of them, and what changed."""
    sound = np.concatenate(sounds)
    told = [waking.hear(sound[at : at + BLOCK], busy) for at in range(0, len(sound), BLOCK)]
    return np.concatenate([meant for meant, _ in told]), [change for _, change in told if change]


def test_asleep_nothing_is_meant() -> None:
    meant, changes = heard(waking(), SPEECH, HUSH, SPEECH)
    assert (len(meant), changes) == (0, [])


def test_what_follows_the_call_after_a_pause_is_meant_and_the_call_is_not() -> None:
    follower = waking()
    meant, changes = heard(follower, SPEECH, CALL, HUSH, SPEECH)
    assert changes == ["woken", "waiting"]
    assert not follower.asleep
    assert len(HUSH) + len(SPEECH) <= len(meant) < len(HUSH) + len(SPEECH) + len(CALL)
    assert np.array_equal(meant[-len(SPEECH) :], SPEECH)


def test_who_goes_on_without_a_pause_loses_nothing() -> None:
    meant, changes = heard(waking(), CALL, SPEECH)
    assert changes == ["woken"]
    assert np.array_equal(meant[-len(SPEECH) :], SPEECH)


def test_it_falls_asleep_when_nothing_happens_and_not_before() -> None:
    follower = waking(seconds=2)
    assert heard(follower, CALL, HUSH)[1] == ["woken", "waiting"]
    assert heard(follower, HUSH, HUSH, HUSH, busy=True)[1] == []
    assert heard(follower, HUSH, HUSH[: RATE // 2])[1] == []
    meant, changes = heard(follower, HUSH, SPEECH)
    assert changes == ["asleep"]
    assert len(meant) < len(HUSH)


def test_one_call_wakes_once_and_the_next_wakes_again() -> None:
    follower = waking()
    assert heard(follower, CALL, CALL, CALL, HUSH)[1] == ["woken", "waiting"]
    assert heard(follower, SPEECH, CALL, HUSH, busy=True)[1] == ["woken", "waiting"]


def test_a_button_wakes_it_as_well() -> None:
    follower = waking()
    follower.wake()
    meant, changes = heard(follower, SPEECH)
    assert np.array_equal(meant, SPEECH)
    assert changes == []


# With real models


@pytest.fixture(scope="module")
def real() -> tuple[PymicroWakeword, Silero, WhisperCpp]:
    settings = Settings()
    return (
        PymicroWakeword(settings, [model("okay_nabu")]),
        Silero(settings),
        WhisperCpp(settings, [model("whisper-tiny.en")]),
    )


def clip(name: str) -> Samples:
    return decode(Path(__file__).parent / "corpus" / "wake" / f"{name}.flac").samples


def text(whisper: WhisperCpp, samples: Samples) -> list[str]:
    return words(" ".join(segment.text for segment in whisper.transcribe(samples, "en")))


@pytest.mark.real
@pytest.mark.parametrize(("name", "changes"), [("pause", ["woken", "waiting"]), ("at_once", ["woken"])])
def test_the_question_is_understood_and_the_wake_word_is_not_part_of_it(
    real: tuple[PymicroWakeword, Silero, WhisperCpp], name: str, changes: list[str]
) -> None:
    wake, silero, whisper = real
    meant, found = heard(waking(wake, silero, 8), HUSH, clip(name), HUSH)
    assert found == changes
    assert text(whisper, meant) == ["what", "is", "the", "capital", "of", "france"]


@pytest.mark.real
def test_of_the_wake_word_alone_nothing_is_left_that_sounds_like_speech(
    real: tuple[PymicroWakeword, Silero, WhisperCpp],
) -> None:
    wake, silero, _ = real
    meant, found = heard(waking(wake, silero, 8), HUSH, clip("alone"), HUSH)
    assert found == ["woken", "waiting"]
    assert sum(probability > 0.5 for probability in silero.probabilities(meant)) < 3


@pytest.mark.real
@pytest.mark.parametrize("said", ["okay nabu, how are you today?", "okay nabu how are you today?"])
def test_another_voice_is_understood_as_well(
    real: tuple[PymicroWakeword, Silero, WhisperCpp], said: str, tmp_path: Path
) -> None:
    wake, silero, whisper = real
    try:
        made = subprocess.run(["espeak-ng", "-v", "en-us", "--stdout", said], capture_output=True, check=True).stdout
    except OSError:
        pytest.skip("apt-get install espeak-ng")
    (tmp_path / "said.wav").write_bytes(made)
    meant, found = heard(waking(wake, silero, 8), HUSH, decode(tmp_path / "said.wav").samples, HUSH)
    assert found[0] == "woken"
    assert text(whisper, meant) == ["how", "are", "you", "today"]
