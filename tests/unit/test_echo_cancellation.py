"""Echo cancellation of real speech in a simulated room."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode
from chatapi.errors import SettingsError
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller
from paths import CORPUS, ROOT

REAL = CORPUS / "real"
DELAY = 0.06


def speech(*names: str) -> Samples:
    return np.concatenate([decode(REAL / f"{name}.flac").samples for name in names])


def room(seconds: float = 0.25) -> Samples:
    """Impulse response of a room: the direct path, then reflections that decay by 60 dB."""
    rng = np.random.default_rng(11)
    count = int(seconds * RATE)
    tail = rng.standard_normal(count) * np.exp(-6.9 * np.arange(count) / count) * 0.05
    tail[0] = 0.5
    return np.concatenate([np.zeros(int(DELAY * RATE)), tail]).astype(np.float32)


def level(samples: Samples) -> float:
    """The level in dB of full scale."""
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12))


def cleaned(played: Samples, captured: Samples, rate: int = RATE) -> Samples:
    canceller = EchoCanceller()
    canceller.delay = DELAY
    out, step = [], rate // 50
    for number in range(len(captured) // 320):
        canceller.process_playback(played[number * step : (number + 1) * step], rate)
        out.append(canceller.process_capture(captured[number * 320 : (number + 1) * 320]))
    return np.concatenate(out)


@pytest.fixture(scope="module")
def recording() -> tuple[Samples, Samples, Samples]:
    """Playback, its echo, and another talker who starts after 8 s."""
    pytest.importorskip("livekit")
    played = speech(*(f"two_cities-{number:02}" for number in range(8)))[: 16 * RATE]
    assert len(played) == 16 * RATE
    echo = np.convolve(played, room())[: len(played)].astype(np.float32)
    other = np.zeros_like(played)
    words = speech("jfk-16", "beckett-12")[: 8 * RATE]
    other[8 * RATE : 8 * RATE + len(words)] = words
    return played, echo, other


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_echo_is_at_least_15_db_lower(recording: tuple[Samples, Samples, Samples], rate: int) -> None:
    played, echo, _ = recording
    out = cleaned(Audio(played, RATE).at(rate).samples, echo, rate)
    learned = slice(3 * RATE, len(out))
    assert level(out[learned]) < level(echo[learned]) - 15


def test_speech_of_another_talker_is_kept(recording: tuple[Samples, Samples, Samples]) -> None:
    played, echo, other = recording
    out = cleaned(played, echo + other)
    both = slice(8 * RATE, len(out))
    assert abs(level(out[both]) - level(other[both])) < 3
    assert level(out[3 * RATE : 8 * RATE]) < level(echo[3 * RATE : 8 * RATE]) - 15


def test_speech_without_playback_is_unchanged() -> None:
    pytest.importorskip("livekit")
    alone = speech("jfk-16", "jfk-17")
    out = cleaned(np.zeros_like(alone), alone)
    assert abs(level(out) - level(alone)) < 1


@pytest.mark.parametrize("start", [1.5, 4.0])
def test_barge_in_on_the_first_answer_is_unchanged_without_an_echo(
    recording: tuple[Samples, Samples, Samples], start: float
) -> None:
    played, at = recording[0][: 7 * RATE], int(start * RATE)
    words = speech("jfk-16")[: 2 * RATE]
    captured = np.random.default_rng(1).normal(0, 0.0005, len(played)).astype(np.float32)
    captured[at : at + len(words)] += words
    out = cleaned(played, captured)[at : at + len(words)]
    assert abs(level(out) - level(captured[at : at + len(words)])) < 0.5


def test_echo_that_starts_during_speech_is_cancelled(recording: tuple[Samples, Samples, Samples]) -> None:
    played, echo, _ = recording
    first = speech("jfk-16")[:RATE]
    captured = echo.copy()
    captured[: len(first)] += first
    out = cleaned(played, captured)
    assert level(out[5 * RATE :]) < level(echo[5 * RATE :]) - 15


def test_echo_that_starts_after_ten_seconds_of_playback_is_cancelled(
    recording: tuple[Samples, Samples, Samples],
) -> None:
    """The loudspeaker is turned up only after 12 s."""
    played, echo, _ = recording
    captured = np.where(np.arange(len(echo)) < 12 * RATE, 0.0, echo).astype(np.float32)
    out = cleaned(played, captured)
    assert level(out[15 * RATE :]) < level(echo[15 * RATE :]) - 6


def test_any_number_of_samples_is_accepted() -> None:
    pytest.importorskip("livekit")
    canceller = EchoCanceller()
    fed = returned = 0
    for count in (1, 159, 160, 500, 7, 0, 333):
        canceller.process_playback(np.zeros(count, np.float32), 44_100)
        fed += count
        returned += len(canceller.process_capture(np.zeros(count, np.float32)))
        assert returned == fed - fed % 160


def test_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit", None)
    with pytest.raises(SettingsError, match="pip install 'livekit"):
        EchoCanceller()


SCRIPT = """
import logging

import numpy as np

from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller

logging.basicConfig(level=0, format="%(name)s %(message)s")
canceller = EchoCanceller()
for _ in range(200):
    canceller.process_playback(np.zeros(320, np.float32))
    canceller.process_capture(np.zeros(320, np.float32))
"""


def test_no_livekit_thread_logs_through_python() -> None:
    pytest.importorskip("livekit")
    environment = {**os.environ, "LIVEKIT_RTC_DEBUG": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
