"""Wyoming with real models: transcription, synthesis, wake word and conversation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop
from wyoming.wake import Detect, Detection

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.wer import word_error_rate
from conftest import RunningServer
from paths import CORPUS
from test_completion_real import words
from wyoming_peer import ask, audio_events, audio_of, open_to_wyoming, types, until

pytestmark = [pytest.mark.real, pytest.mark.anyio]
SILENCE = np.zeros(RATE, np.float32)
FOX = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def port(real_server: RunningServer) -> Iterator[int]:
    with real_server.portal.wrap_async_context_manager(open_to_wyoming(real_server.appliance)) as (_, number):
        yield number


def clip(name: str) -> Samples:
    return np.concatenate([SILENCE, decode(CORPUS / name).samples, SILENCE])


async def test_describe_has_the_attribution_of_the_models(port: int) -> None:
    [event] = await ask(port, Describe(), end=["info"])
    info = Info.from_event(event)
    [asr], [voice], [wake], [llm] = info.asr[0].models, info.tts[0].voices, info.wake[0].models, info.handle[0].models
    assert (asr.name, asr.attribution.name, asr.languages) == ("whisper-tiny.en-ct2", "openai", ["en"])
    assert (voice.name, voice.languages) == ("en_US-joe-medium", ["en"])
    assert (wake.name, wake.phrase, wake.attribution.name) == ("okay_nabu", "okay nabu", "esphome")
    assert llm.name == "smollm2-135m-instruct" and llm.version and asr.version


async def test_recorded_speech_is_transcribed(port: int) -> None:
    came = await ask(
        port, Transcribe(language="en"), *audio_events(clip("real/en-quick_brown_fox.flac")), end=["transcript-stop"]
    )
    assert types(came) == ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    assert word_error_rate([(FOX, came[-2].data["text"])]) <= 0.3


async def test_sentences_are_transcribed_before_the_audio_ends(port: int) -> None:
    first, second = clip("real/two_cities-00.flac"), clip("real/en-quick_brown_fox.flac")
    start, *chunks, stop = audio_events(np.concatenate([first, second]))
    async with AsyncTcpClient("127.0.0.1", port) as client:
        for each in (Transcribe(language="en-US"), start, *chunks):
            await client.write_event(each.event())
        early = [*await until(client, "transcript-chunk"), *await until(client, "transcript-chunk")]
        await client.write_event(stop.event())
        last = await until(client, "transcript")
    text = "".join(event.data["text"] for event in [*early, *last] if event.type == "transcript-chunk")
    assert text == last[-1].data["text"]
    assert word_error_rate([(f"It was the best of times, it was the worst of times {FOX}", text)]) <= 0.3


async def test_streamed_synthesis_is_transcribed_again(port: int) -> None:
    text = f"The capital of France is Paris. {FOX}"
    words = [SynthesizeChunk(f"{word} ") for word in text.split()]
    spoken = await ask(port, SynthesizeStart(), *words, Synthesize(text), SynthesizeStop(), end=["synthesize-stopped"])
    assert types(spoken) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    audio = audio_of(spoken)
    assert audio.rate == 22_050
    came = await ask(port, Transcribe(), *audio_events(audio.samples, audio.rate, 2, 2), end=["transcript"])
    assert word_error_rate([(text, came[-1].data["text"])]) <= 0.3


async def test_wake_word_is_detected_and_other_words_are_not(port: int) -> None:
    [found, *_] = await ask(port, Detect(["okay_nabu"]), *audio_events(clip("wake/alone.flac")), end=["detection"])
    detection = Detection.from_event(found)
    # The wake word ends 1.1 to 1.6 s after half a second of silence; here the silence is one second.
    assert detection.name == "okay_nabu" and detection.timestamp is not None and 1600 < detection.timestamp < 2100
    came = await ask(
        port, Detect(), *audio_events(clip("real/en-quick_brown_fox.flac")), end=["not-detected", "detection"]
    )
    assert types(came) == ["not-detected"]


async def test_conversation_from_audio_to_audio(port: int) -> None:
    spoken = audio_of(await ask(port, Synthesize("What is the capital of France?"), end=["audio-stop"]))
    transcript = (await ask(port, Transcribe(), *audio_events(spoken.samples, spoken.rate), end=["transcript"]))[
        -1
    ].data["text"]
    context = {"conversation_id": "01JD2Q0V3Z7MABCDEFGH"}
    came = await ask(port, Transcript(transcript, context=context), end=["handled-stop", "not-handled"])
    assert types(came) == ["handled-start", "handled-chunk", "handled", "handled-stop"]
    # The transcript of the synthesized speech may miss a word.
    assert {"paris", "capital"} & {*words(came[-2].data["text"])} and came[-2].data["context"] == context
    answer = await ask(port, Synthesize(came[-2].data["text"]), end=["audio-stop"])
    assert audio_of(answer).seconds > 0.8
