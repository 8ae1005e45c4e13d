"""The echo canceller, on real voices in a room made of numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples, decode
from chatapi.errors import SettingsError
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller

REAL = Path(__file__).parent / "corpus" / "real"
DELAY = 0.06


def speech(*names: str) -> Samples:
    return np.concatenate([decode(REAL / f"{name}.flac").samples for name in names])


def room(seconds: float = 0.25) -> Samples:
    """Impulse response of a room: what comes straight, then reflections that die away by 60 dB."""
    rng = np.random.default_rng(11)
    count = int(seconds * RATE)
    tail = rng.standard_normal(count) * np.exp(-6.9 * np.arange(count) / count) * 0.05
    tail[0] = 0.5
    return np.concatenate([np.zeros(int(DELAY * RATE)), tail]).astype(np.float32)


def level(samples: Samples) -> float:
    """dB of full scale."""
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12))


def cleaned(played: Samples, heard: Samples, rate: int = RATE) -> Samples:
    canceller = EchoCanceller()
    canceller.delay = DELAY
    out, step = [], rate // 50
    for number in range(len(heard) // 320):
        canceller.played(played[number * step : (number + 1) * step], rate)
        out.append(canceller.clean(heard[number * 320 : (number + 1) * 320]))
    return np.concatenate(out)


@pytest.fixture(scope="module")
def scene() -> tuple[Samples, Samples, Samples]:
    """What is played, its echo, and another speaker who starts after 8 s."""
    pytest.importorskip("livekit")
    played = speech(*(f"two_cities-{number:02}" for number in range(8)))[: 16 * RATE]
    assert len(played) == 16 * RATE
    echo = np.convolve(played, room())[: len(played)].astype(np.float32)
    other = np.zeros_like(played)
    words = speech("jfk-16", "beckett-12")[: 8 * RATE]
    other[8 * RATE : 8 * RATE + len(words)] = words
    return played, echo, other


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_the_echo_is_at_least_15_db_lower(scene: tuple[Samples, Samples, Samples], rate: int) -> None:
    played, echo, _ = scene
    out = cleaned(Audio(played, RATE).at(rate).samples, echo, rate)
    learned = slice(3 * RATE, len(out))
    assert level(out[learned]) < level(echo[learned]) - 15


def test_another_speaker_stays(scene: tuple[Samples, Samples, Samples]) -> None:
    played, echo, other = scene
    out = cleaned(played, echo + other)
    both = slice(8 * RATE, len(out))
    assert abs(level(out[both]) - level(other[both])) < 3
    assert level(out[3 * RATE : 8 * RATE]) < level(echo[3 * RATE : 8 * RATE]) - 15


def test_a_speaker_alone_is_left_as_he_is() -> None:
    pytest.importorskip("livekit")
    alone = speech("jfk-16", "jfk-17")
    out = cleaned(np.zeros_like(alone), alone)
    assert abs(level(out) - level(alone)) < 1


@pytest.mark.parametrize("start", [1.5, 4.0])
def test_who_speaks_against_the_first_answer_is_left_as_they_are_where_there_is_no_echo(
    scene: tuple[Samples, Samples, Samples], start: float
) -> None:
    played, at = scene[0][: 7 * RATE], int(start * RATE)
    words = speech("jfk-16")[: 2 * RATE]
    heard = np.random.default_rng(1).normal(0, 0.0005, len(played)).astype(np.float32)
    heard[at : at + len(words)] += words
    out = cleaned(played, heard)[at : at + len(words)]
    assert abs(level(out) - level(heard[at : at + len(words)])) < 0.5


def test_an_echo_that_begins_while_somebody_speaks_is_still_cancelled(scene: tuple[Samples, Samples, Samples]) -> None:
    played, echo, _ = scene
    first = speech("jfk-16")[:RATE]
    heard = echo.copy()
    heard[: len(first)] += first
    out = cleaned(played, heard)
    assert level(out[5 * RATE :]) < level(echo[5 * RATE :]) - 15


def test_after_ten_seconds_of_sound_the_canceller_knows_better(scene: tuple[Samples, Samples, Samples]) -> None:
    """A speaker that is turned up only then."""
    played, echo, _ = scene
    heard = np.where(np.arange(len(echo)) < 12 * RATE, 0.0, echo).astype(np.float32)
    out = cleaned(played, heard)
    assert level(out[15 * RATE :]) < level(echo[15 * RATE :]) - 6


def test_any_number_of_samples_may_be_given() -> None:
    pytest.importorskip("livekit")
    canceller = EchoCanceller()
    given = taken = 0
    for count in (1, 159, 160, 500, 7, 0, 333):
        canceller.played(np.zeros(count, np.float32), 44_100)
        given += count
        taken += len(canceller.clean(np.zeros(count, np.float32)))
        assert taken == given - given % 160


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit", None)
    with pytest.raises(SettingsError, match="pip install 'livekit"):
        EchoCanceller()


LISTENING = """
import logging

import numpy as np

from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller

logging.basicConfig(level=0, format="%(name)s %(message)s")
canceller = EchoCanceller()
for _ in range(200):
    canceller.played(np.zeros(320, np.float32))
    canceller.clean(np.zeros(320, np.float32))
"""


def test_no_thread_of_livekits_calls_python_which_may_be_ending() -> None:
    pytest.importorskip("livekit")
    environment = {**os.environ, "LIVEKIT_RTC_DEBUG": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
