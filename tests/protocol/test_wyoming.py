"""All services over Wyoming with the protocol's official client and fake engines."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient, AsyncUnixClient
from wyoming.event import Event
from wyoming.handle import Handled
from wyoming.info import Describe, Info, SelectProgram
from wyoming.intent import Recognize
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice
from wyoming.vad import VoiceStarted, VoiceStopped
from wyoming.wake import Detect, Detection

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.interfaces.wyoming import listeners
from chatapi.settings import Settings
from conftest import TIMEOUT, RunAppliance, tone
from wyoming_peer import ask, audio_events, audio_of, open_to_wyoming, types, until

pytestmark = pytest.mark.anyio
SILENCE = np.zeros(RATE, np.float32)
WAKE_WORD = tone(0.3, 2000)
"""Audio that the fake wake-word engine detects."""


def tones(*seconds: float) -> Samples:
    """Tones that the fake engines accept as speech, one second apart."""
    parts = [part for length in seconds for part in (tone(length), SILENCE)]
    return np.concatenate([SILENCE, *parts])


async def test_describe_lists_programs_models_and_voices(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        [event] = await ask(port, Describe(), end=["info"])
    info = Info.from_event(event)
    [asr], [tts], [handle], [wake] = info.asr, info.tts, info.handle, info.wake
    assert asr.supports_transcript_streaming and tts.supports_synthesize_streaming and handle.supports_handled_streaming
    assert asr.installed and tts.installed and handle.installed and wake.installed
    assert [(model.name, model.languages) for model in asr.models] == [("fake", ["en", "de"])]
    assert [(voice.name, voice.languages) for voice in tts.voices] == [("fake", ["en"]), ("fake-high", ["en"])]
    assert [(model.name, model.phrase) for model in wake.models] == [("fake", "a high tone")]
    assert all(
        artifact.attribution.name and artifact.installed for artifact in (*asr.models, *tts.voices, *wake.models)
    )


async def test_server_without_a_wake_word_rejects_detection(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("wake_word.engine=pymicro_wakeword", "wake_word.model=alexa") as appliance:
        async with open_to_wyoming(appliance) as (_, port):
            [event] = await ask(port, Describe(), end=["info"])
            assert Info.from_event(event).wake == []
            [rejected] = await ask(port, Detect(), end=["detection"])
            assert rejected.data["code"] == "no_wake_word"
            assert appliance.health()["status"] == "ok"


async def test_ping_is_answered_during_another_request(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.01") as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Synthesize("One. Two. Three. Four.").event())
            await client.write_event(Ping("still there?").event())
            received = await until(client, "audio-stop")
    assert [event.data["text"] for event in received if event.type == "pong"] == ["still there?"]
    assert (
        types(received)[-1] == "audio-stop"
        and received.index(next(e for e in received if e.type == "pong")) < len(received) - 1
    )


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(16_000, 2, 1), (22_050, 2, 2), (48_000, 4, 2), (44_100, 3, 1), (8_000, 1, 1)]
)
async def test_audio_of_every_format_is_transcribed(
    fake_appliance: RunAppliance, rate: int, width: int, channels: int
) -> None:
    silence = np.zeros(rate, np.float32)
    samples = np.concatenate([silence, tone(1.5, rate=rate), silence])
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(
            port, Transcribe(language="en"), *audio_events(samples, rate, width, channels), end=["transcript-stop"]
        )
    assert types(received) == ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    text = Transcript.from_event(received[-2]).text
    # The fake engine reports the length of its audio: the speech with its padding.
    assert 1.5 < float(text.split()[1]) < 2.1


async def test_transcript_is_streamed_during_speech(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            start, *chunks, stop = audio_events(tones(1.0, 2.0))
            for each in (Transcribe(language="de"), start, *chunks):
                await client.write_event(each.event())
            early = [*await until(client, "transcript-chunk"), *await until(client, "transcript-chunk")]
            # All speech is transcribed before audio-stop arrives.
            assert types(early) == ["transcript-start", "transcript-chunk"]
            await client.write_event(stop.event())
            last = await until(client, "transcript-stop")
    words = [event.data["text"] for event in early if event.type == "transcript-chunk"]
    assert types(last) == ["transcript", "transcript-stop"]
    assert last[0].data == {"text": "".join(words), "language": "de"}
    assert [round(float(word.split()[1])) for word in words] == [1, 2]


async def test_silence_has_an_empty_transcript(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcribe(context={"a": 1}), *audio_events(SILENCE), end=["transcript-stop"])
    assert types(received) == ["transcript-start", "transcript", "transcript-stop"]
    assert received[1].data == {"text": "", "context": {"a": 1}}


@pytest.mark.parametrize("language", ["de_DE", "de-AT", "DE", "german", "deu"])
async def test_language_may_be_written_in_any_way(fake_appliance: RunAppliance, language: str) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcribe(language=language), *audio_events(tones(1.0)), end=["transcript"])
    assert received[-1].data["language"] == "de"


async def test_model_of_another_server_is_replaced_by_that_of_the_box(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcribe(name="base-int8"), *audio_events(tones(1.0)), end=["transcript"])
    assert received[-1].data["text"].startswith("heard 1")


async def test_audio_without_a_start_is_transcribed(fake_appliance: RunAppliance) -> None:
    _, *chunks, stop = audio_events(tones(1.0), 22_050, 2, 2)
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcribe(), *chunks, stop, end=["transcript-stop"])
    assert types(received) == ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    # A second of 16 kHz is played as 22.05 kHz.
    assert 0.7 < float(received[-2].data["text"].split()[1]) < 1.3


async def test_text_is_synthesized_as_one_audio_stream(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Synthesize("One two three. Four five."), end=["audio-stop"])
    assert types(received) == ["audio-start", "audio-chunk", "audio-stop"]
    audio = audio_of(received)
    assert audio.rate == RATE and 0.25 < audio.seconds <= 0.3
    assert all(len(event.payload or b"") <= 2048 for event in received)


@pytest.mark.parametrize(
    ("voice", "hertz"),
    [(None, 440), (SynthesizeVoice(name="fake-high"), 880), (SynthesizeVoice(language="en-GB"), 440)],
)
async def test_requested_voice_is_used(fake_appliance: RunAppliance, voice: SynthesizeVoice | None, hertz: int) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Synthesize("One two three four.", voice=voice), end=["audio-stop"])
    samples = audio_of(received).samples
    crossings = np.count_nonzero(np.diff(np.signbit(samples)))
    assert abs(crossings * RATE / len(samples) / 2 - hertz) < 30


async def test_audio_is_sent_while_text_is_streamed(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(SynthesizeStart(voice=SynthesizeVoice(name="fake")).event())
            for text in ("One two ", "three. Four"):
                await client.write_event(SynthesizeChunk(text).event())
            early = await until(client, "audio-chunk")
            await client.write_event(SynthesizeChunk(" five.").event())
            # For servers without streaming; here the text is known already.
            await client.write_event(Synthesize("One two three. Four five.").event())
            await client.write_event(SynthesizeStop().event())
            received = [*early, *await until(client, "synthesize-stopped")]
            assert types(received) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
            assert 0.25 < audio_of(received).seconds <= 0.3
            await client.write_event(Synthesize("Again.").event())
            assert types(await until(client, "audio-stop")) == ["audio-start", "audio-chunk", "audio-stop"]


async def test_streamed_text_without_a_start_is_synthesized(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        sent = (SynthesizeStop(), SynthesizeChunk("One two "), SynthesizeChunk("three."), SynthesizeStop(), Ping("end"))
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for each in sent:
                await client.write_event(each.event())
            received = [*await until(client, "synthesize-stopped"), *await until(client, "synthesize-stopped")]
    spoken = [event for event in received if event.type != "pong"]
    assert types(spoken) == ["synthesize-stopped", "audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    assert 0.15 < audio_of(spoken).seconds <= 0.2


@pytest.mark.parametrize("text", ["👍", "...", "---", ""])
async def test_text_without_words_is_silence_and_the_connection_stays_open(
    fake_appliance: RunAppliance, text: str
) -> None:
    chunks = [SynthesizeChunk(text)] if text else []
    async with fake_appliance() as appliance:
        async with open_to_wyoming(appliance) as (_, port):
            received = await ask(
                port, Synthesize(text), SynthesizeStart(), *chunks, SynthesizeStop(), end=["synthesize-stopped"]
            )
    spoken = ["audio-start", "audio-chunk", "audio-stop"]
    assert types(received) == [*spoken, *spoken, "synthesize-stopped"]


async def test_long_text_may_be_sent_before_audio_is_read(fake_appliance: RunAppliance) -> None:
    words = [f"word{n} " for n in range(700)]
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(
            port, SynthesizeStart(), *map(SynthesizeChunk, words), SynthesizeStop(), end=["synthesize-stopped"]
        )
    assert audio_of(received).seconds > 600 * 0.06


async def test_wake_word_is_detected_every_time(fake_appliance: RunAppliance) -> None:
    samples = np.concatenate([tone(1.0), WAKE_WORD, SILENCE, WAKE_WORD, SILENCE])
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for each in (Detect(names=["fake"]), *audio_events(samples)[:-1]):
                await client.write_event(each.event())
            found = [Detection.from_event((await until(client, "detection"))[-1]) for _ in range(2)]
            # Another request ends the detection, as satellites do.
            await client.write_event(Detect().event())
            for each in audio_events(SILENCE):
                await client.write_event(each.event())
            assert types(await until(client, "not-detected")) == ["not-detected"]
    assert [each.name for each in found] == ["fake", "fake"]
    assert [each.timestamp for each in found] == pytest.approx([1020, 2320], abs=60)


async def test_requested_commands_are_detected(fake_appliance: RunAppliance) -> None:
    samples = np.concatenate([SILENCE, tone(0.5, 450), SILENCE, SILENCE, tone(0.5, 450), SILENCE])
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        found = [
            Detection.from_event(each)
            for each in await ask(port, Detect(names=["Beep"]), *audio_events(samples), Describe(), end=["info"])
            if each.type == "detection"
        ]
        silent = await ask(port, Detect(names=["beep"]), *audio_events(SILENCE), end=["not-detected"])
    assert [each.name for each in found] == ["beep", "beep"] and types(silent) == ["not-detected"]


async def test_wake_word_is_detected_without_an_audio_start(fake_appliance: RunAppliance) -> None:
    chunks = audio_events(np.concatenate([tone(1.0), WAKE_WORD, SILENCE]))[1:-1]
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            # A satellite sends `detect` and audio, and after each detection the same again.
            for _ in range(2):
                for each in (Detect(names=["fake"]), *chunks):
                    await client.write_event(each.event())
                [detection] = await until(client, "detection", "error")
                assert detection.type == "detection"


@pytest.mark.parametrize("name", ["ok_nabu", "ok_nabu_v0.1", "Okay Nabu", "okay_nabu"])
async def test_wake_word_may_be_written_as_other_servers_do(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("chatapi.interfaces.wyoming.handler.wake_word", lambda appliance: "okay_nabu")
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Detect(names=[name]), *audio_events(SILENCE), end=["not-detected"])
    assert types(received) == ["not-detected"]


async def test_detection_has_the_timestamp_of_the_client(fake_appliance: RunAppliance) -> None:
    start, *chunks, stop = audio_events(np.concatenate([SILENCE, WAKE_WORD]))
    timed = [AudioChunk(c.rate, c.width, c.channels, c.audio, 5_000_000 + n) for n, c in enumerate(chunks)]
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        [found] = await ask(port, Detect(), start, *timed, stop, end=["detection", "not-detected"])
    assert 5_000_015 <= found.data["timestamp"] < 5_000_000 + len(chunks)


async def test_turn_is_answered_as_a_stream(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcript("Hello server", context={"device_id": "kitchen"}), end=["handled-stop"])
    assert types(received) == ["handled-start", "handled-chunk", "handled", "handled-stop"]
    handled = Handled.from_event(received[-2])
    assert (
        handled.text
        == "You said: Hello server."
        == "".join(e.data["text"] for e in received if e.type == "handled-chunk")
    )
    assert handled.context is not None and handled.context["device_id"] == "kitchen"
    assert handled.context["conversation_id"] == received[0].data["context"]["conversation_id"]


async def test_follow_up_continues_the_conversation(fake_appliance: RunAppliance) -> None:
    context = {"conversation_id": "01JD2Q0V3Z7M"}
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        for words in ("First", "Second"):
            # Home Assistant creates the ids, and opens a connection for every turn.
            [*_, handled] = await ask(port, Transcript(words, context=context), end=["handled"])
            assert handled.data["context"] == context
        conversation_state = await appliance.history.call(lambda history: history.recall("01JD2Q0V3Z7M"))
        assert [exchange.asked for exchange in conversation_state.exchanges] == ["First", "Second"]
        [*_, other] = await ask(port, Transcript("Third"), end=["handled"])
        again = await appliance.history.call(lambda history: history.recall(other.data["context"]["conversation_id"]))
        assert [exchange.asked for exchange in again.exchanges] == ["Third"]


async def test_rejected_turn_is_not_handled(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.fault=raise") as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcript("one two"), end=["handled-stop"])
        assert types(received) == ["handled-start", "handled-chunk", "not-handled", "handled-stop"]
        assert "llm engine failed" in received[-2].data["text"]
        [empty] = await ask(port, Transcript(" "), end=["not-handled"])
        assert "prompt is empty" in empty.data["text"]
        assert 'chatapi_errors_total{code="engine_failed"} 1.0' in appliance.metrics.page().decode()


@pytest.mark.parametrize("kind", ["run-pipeline", "run-satellite", "from-the-future"])
async def test_unknown_request_is_answered_and_the_connection_stays_open(
    fake_appliance: RunAppliance, kind: str
) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Event(kind, {"x": [1]}, b"bytes"))
            await client.write_event(Synthesize("One.").event())
            received = await until(client, "audio-stop")
    assert received[0].data == {"text": f"event type {kind!r} is not supported", "code": "unknown_event"}
    assert types(received) == ["error", "audio-start", "audio-chunk", "audio-stop"]


async def test_notification_is_ignored(fake_appliance: RunAppliance) -> None:
    start, *rest = audio_events(tones(1.0))
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcribe(), start, VoiceStarted(), *rest, VoiceStopped(), end=["transcript"])
    assert types(received) == ["transcript-start", "transcript-chunk", "transcript"]


async def test_request_for_an_intent_is_not_recognized(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        [event] = await ask(port, Recognize("turn it on", context={"a": 1}), end=["not-recognized"])
    assert "intent recognition is not supported" in event.data["text"] and event.data["context"] == {"a": 1}


async def test_one_connection_serves_several_requests(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (server, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for each in (
                SelectProgram("chatapi"),
                AudioStop(),
                Synthesize("One."),
                Synthesize("Two."),
                Transcript("Hello"),
                # Cancelled by another request, and so without a response.
                Transcribe(),
                AudioStart(RATE, 2, 1),
                Describe(),
            ):
                await client.write_event(each.event())
            await client.write_event(Synthesize("Three.").event())
            received = types([*await until(client, "info"), *await until(client, "audio-stop")])
            assert server.health["connections"] == 1
    speech = ["audio-start", "audio-chunk", "audio-stop"]
    assert received == [*speech, *speech, "handled-start", "handled-chunk", "handled", "handled-stop", "info", *speech]


async def test_unix_socket_works_too(
    fake_appliance: RunAppliance, fake_settings: Callable[..., Settings], data: Path
) -> None:
    path = data / "wyoming.sock"
    listening = listeners.open_listeners(fake_settings("wyoming.host=", f"wyoming.socket={path}"))
    assert [each.family for each in listening] == [socket.AF_UNIX]
    async with fake_appliance() as appliance, open_to_wyoming(appliance, *listening) as (server, _):
        async with AsyncUnixClient(str(path)) as client:
            await client.write_event(Ping("hello").event())
            assert (await until(client, "pong"))[-1].data == {"text": "hello"}
        assert f"unix://{path}" in server.health["listening"]
    listeners.close(listening, path)
    assert not path.exists()


async def test_while_models_load_requests_are_rejected(fake_settings: Callable[..., Settings]) -> None:
    async with Appliance(fake_settings()).running() as appliance, open_to_wyoming(appliance) as (_, port):
        for request in (Describe(), Synthesize("Hello."), Transcribe()):
            [rejected] = await ask(port, request, end=["info"])
            assert (rejected.type, rejected.data["code"]) == ("error", "not_ready")
        [*_, late] = await ask(port, Transcript("Hello."), end=["not-handled"])
        assert "not loaded yet" in late.data["text"]
        with anyio.fail_after(TIMEOUT):
            await appliance.load()
        assert types(await ask(port, Synthesize("Hello."), end=["audio-stop"])) == [
            "audio-start", "audio-chunk", "audio-stop",
        ]  # fmt: skip
