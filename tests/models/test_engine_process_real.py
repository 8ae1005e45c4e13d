"""Real engines in child processes give the results that they give on threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.wer import words
from chatapi.engines import EndOfTurnDetector, Synthesizer, Transcriber, TranscriptionOptions
from chatapi.engines.call import EngineCall
from chatapi.settings import Settings
from conftest import DEFAULTS, installed_model, serving
from engine_processes import IN_PROCESSES, engine_processes
from test_completion_real import QUESTION, recorded_question
from test_whisper import clip

pytestmark = [pytest.mark.real, pytest.mark.anyio]
NAMES = ("whisper-tiny.en-ct2", "smollm2-135m-instruct", "en_US-joe-medium", "smart-turn-v3.2")


@pytest.fixture
def real_settings(data: Any) -> Callable[..., Settings]:
    """Returns settings with real engines."""
    for name in NAMES:
        installed_model(name)
    return lambda *more: settings.load([*DEFAULTS, f"data={data}", *more], environ={}).settings


@asynccontextmanager
async def loaded(chosen: Settings, *roles: str) -> AsyncIterator[Appliance]:
    async with Appliance(chosen).running() as appliance:
        await appliance.load(roles)
        yield appliance


async def test_transcripts_and_judgements_are_the_same(real_settings: Callable[..., Settings]) -> None:
    speech: Samples = np.concatenate([clip("en-quick_brown_fox"), clip("en-hello_world")])
    found = []
    for more in ((), IN_PROCESSES):
        async with loaded(real_settings(*more), "asr", "turn_detection") as appliance:
            options = TranscriptionOptions(words=True, tokens=True)
            call = EngineCall.of(Transcriber.transcribe, speech, "en", options=options)
            segments = await appliance.engines.asr.collect(call)
            judged = EngineCall.of(EndOfTurnDetector.end_of_turn_probability, clip("en-hello_world"))
            found.append((segments, await appliance.engines.turn_detection.collect(judged)))
            assert set(engine_processes()) == ({"asr", "turn_detection"} if more else set())
    (on_threads, judged), (in_process, judged_there) = found
    assert [segment.text for segment in in_process] == [segment.text for segment in on_threads]
    assert in_process[0].words and in_process[0].tokens
    assert in_process == on_threads
    assert judged_there == pytest.approx(judged, abs=1e-5)


async def test_speech_has_the_same_words(real_settings: Callable[..., Settings]) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    async with loaded(real_settings("tts.worker=process"), "asr", "tts") as appliance:
        voice = appliance.engines.tts.engine.voices[0]
        chunks = await appliance.engines.tts.collect(EngineCall.of(Synthesizer.synthesize, text, voice.name))
        assert {chunk.rate for chunk in chunks} == {voice.rate}
        samples = np.concatenate([chunk.at(RATE).samples for chunk in chunks])
        assert 1.5 < len(samples) / RATE < 5
        heard = await appliance.engines.asr.collect(EngineCall.of(Transcriber.transcribe, samples, "en"))
    said, text_words = words(" ".join(segment.text for segment in heard)), words(text)
    assert len(set(said) & set(text_words)) >= len(set(text_words)) - 2


def test_spoken_question_is_answered_with_every_engine_in_a_process(real_settings: Callable[..., Settings]) -> None:
    with serving(real_settings(*IN_PROCESSES)) as server:
        assert set(engine_processes()) == {"asr", "llm", "tts"}
        headers = {"content-type": "audio/wav"}
        url = "/completion?reply=voice&temperature=0"
        reply = server.client.post(url, content=recorded_question(), headers=headers)
        assert words(reply.headers["x-chatapi-transcript"]) == words(QUESTION)
        assert "Paris" in reply.headers["x-chatapi-reply"]
        assert decode(reply.content).seconds > 0.5
    assert engine_processes() == {}
