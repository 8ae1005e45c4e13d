"""The wake word gate, with tones in place of words, and with recordings of the wake word by two voices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.wer import words
from chatapi.engines.asr.whisper_cpp import WhisperCpp
from chatapi.engines.fake import FakeVoiceActivityDetector, FakeWakeWordDetector
from chatapi.engines.vad.silero import Silero
from chatapi.engines.wake_word.pymicro_wakeword import PymicroWakeword
from chatapi.runtime.detector_thread import DetectorStream
from chatapi.runtime.workers import Engines
from chatapi.services.wake_word import WakeWordGate, WakeWordListener
from chatapi.settings import Settings
from conftest import installed_model, tone
from paths import CORPUS

pytestmark = pytest.mark.anyio
BLOCK = 320
WAKE_WORD = tone(0.02, hertz=3000)
SPEECH = tone(1.0)
SILENCE = np.zeros(RATE, np.float32)


def new_gate(detector: Any = None, vad: Any = None, seconds: float = 2.0) -> WakeWordGate:
    detector = detector or FakeWakeWordDetector(Settings(), ())
    vad = vad or FakeVoiceActivityDetector(Settings(), ())
    engines = SimpleNamespace(wake_word=SimpleNamespace(engine=detector), vad=SimpleNamespace(engine=vad))
    return WakeWordGate(cast(Engines, engines), seconds, 0.5)


async def process(gate: WakeWordGate, *parts: Samples, busy: bool = False) -> tuple[Samples, list[str]]:
    """The samples that the gate passes on, and its changes."""
    samples = np.concatenate(parts)
    results = [await gate.process(samples[at : at + BLOCK], busy) for at in range(0, len(samples), BLOCK)]
    return np.concatenate([passed for passed, _ in results]), [change for _, change in results if change]


async def test_asleep_gate_passes_nothing() -> None:
    passed, changes = await process(new_gate(), SPEECH, SILENCE, SPEECH)
    assert (len(passed), changes) == (0, [])


async def test_question_after_a_pause_is_passed_without_the_wake_word() -> None:
    gate = new_gate()
    passed, changes = await process(gate, SPEECH, WAKE_WORD, SILENCE, SPEECH)
    assert changes == ["detected", "waiting"]
    assert not gate.asleep
    assert len(SILENCE) + len(SPEECH) <= len(passed) < len(SILENCE) + len(SPEECH) + len(WAKE_WORD)
    assert np.array_equal(passed[-len(SPEECH) :], SPEECH)


async def test_question_without_a_pause_is_passed_whole() -> None:
    passed, changes = await process(new_gate(), WAKE_WORD, SPEECH)
    assert changes == ["detected"]
    assert np.array_equal(passed[-len(SPEECH) :], SPEECH)


async def test_gate_falls_asleep_after_the_idle_time() -> None:
    gate = new_gate(seconds=2)
    assert (await process(gate, WAKE_WORD, SILENCE))[1] == ["detected", "waiting"]
    assert (await process(gate, SILENCE, SILENCE, SILENCE, busy=True))[1] == []
    assert (await process(gate, SILENCE, SILENCE[: RATE // 2]))[1] == []
    passed, changes = await process(gate, SILENCE, SPEECH)
    assert changes == ["asleep"]
    assert len(passed) < len(SILENCE)


async def test_wake_word_is_detected_once_each_time() -> None:
    gate = new_gate()
    assert (await process(gate, WAKE_WORD, WAKE_WORD, WAKE_WORD, SILENCE))[1] == ["detected", "waiting"]
    assert (await process(gate, SPEECH, WAKE_WORD, SILENCE, busy=True))[1] == ["detected", "waiting"]


async def test_exchanged_detector_takes_over_open_streams() -> None:
    worker = SimpleNamespace(engine=FakeWakeWordDetector(Settings(), ()))
    listener = WakeWordListener(cast(Any, worker))
    assert await listener.detect(WAKE_WORD)
    deaf = FakeWakeWordDetector(Settings(), ())
    deaf.threshold = 2
    worker.engine = deaf
    assert not await listener.detect(SILENCE[:BLOCK])
    assert await listener.detections(np.concatenate([SILENCE, WAKE_WORD])) == []
    worker.engine = FakeWakeWordDetector(Settings(), ())
    assert await listener.detect(WAKE_WORD)


async def test_wake_opens_the_gate_without_the_wake_word() -> None:
    gate = new_gate()
    gate.wake()
    passed, changes = await process(gate, SPEECH)
    assert np.array_equal(passed, SPEECH)
    assert changes == []


# With real models


@pytest.fixture(scope="module")
def real() -> tuple[PymicroWakeword, Silero, WhisperCpp]:
    settings = Settings()
    return (
        PymicroWakeword(settings, [installed_model("okay_nabu")]),
        Silero(settings),
        WhisperCpp(settings, [installed_model("whisper-tiny.en")]),
    )


def clip(name: str) -> Samples:
    return decode(CORPUS / "wake" / f"{name}.flac").samples


def transcript(whisper: WhisperCpp, samples: Samples) -> list[str]:
    return words(" ".join(segment.text for segment in whisper.transcribe(samples, "en")))


@pytest.mark.real
@pytest.mark.parametrize(("name", "changes"), [("pause", ["detected", "waiting"]), ("at_once", ["detected"])])
async def test_transcript_has_the_question_without_the_wake_word(
    real: tuple[PymicroWakeword, Silero, WhisperCpp], name: str, changes: list[str]
) -> None:
    detector, silero, whisper = real
    passed, found = await process(new_gate(detector, silero, 8), SILENCE, clip(name), SILENCE)
    assert found == changes
    assert transcript(whisper, passed) == ["what", "is", "the", "capital", "of", "france"]


@pytest.mark.real
async def test_wake_word_alone_leaves_no_speech(
    real: tuple[PymicroWakeword, Silero, WhisperCpp],
) -> None:
    detector, silero, _ = real
    passed, found = await process(new_gate(detector, silero, 8), SILENCE, clip("alone"), SILENCE)
    assert found == ["detected", "waiting"]
    assert sum(probability > 0.5 for probability in silero.probabilities(passed)) < 3


@pytest.mark.real
@pytest.mark.parametrize("text", ["okay nabu, how are you today?", "okay nabu how are you today?"])
async def test_transcript_is_right_with_another_voice(
    real: tuple[PymicroWakeword, Silero, WhisperCpp], text: str, tmp_path: Path
) -> None:
    detector, silero, whisper = real
    try:
        spoken = await anyio.run_process(["espeak-ng", "-v", "en-us", "--stdout", text])
    except OSError:
        pytest.skip("apt-get install espeak-ng")
    (tmp_path / "question.wav").write_bytes(spoken.stdout)
    passed, found = await process(
        new_gate(detector, silero, 8), SILENCE, decode(tmp_path / "question.wav").samples, SILENCE
    )
    assert found[0] == "detected"
    assert transcript(whisper, passed) == ["how", "are", "you", "today"]


@pytest.mark.real
async def test_streams_are_judged_on_the_detectors_thread_as_on_the_same(
    real: tuple[PymicroWakeword, Silero, WhisperCpp],
) -> None:
    detector, names = real[0], ["pause", "at_once", "alone"] * 2
    found: list[list[float]] = [[] for _ in names]

    async def judge(number: int) -> None:
        stream, sound = DetectorStream(detector.stream()), clip(names[number])
        for at in range(0, len(sound), 5 * BLOCK):
            part = sound[at : at + 5 * BLOCK]
            found[number] += await stream.probabilities([part[to : to + BLOCK] for to in range(0, len(part), BLOCK)])

    async with anyio.create_task_group() as group:
        for number in range(len(names)):
            group.start_soon(judge, number)
    assert found == [list(detector.probabilities(clip(name))) for name in names]
    assert max(found[0]) >= detector.threshold
