"""Replies in stored voices over every interface, on the fake engines: the tone of the answer is that of the voice."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeVoice

from chatapi.appliance import Appliance
from chatapi.audio import Audio, wav
from chatapi.auth import add as add_key
from chatapi.services.voice_conversion.references import ReferenceClip
from chatapi.settings import Settings
from conftest import RunAppliance, RunningServer, serving
from realtime_client import RATE as REALTIME_RATE
from realtime_client import talking
from test_cli import run
from test_voices import CONSENT, add, clip, hertz
from wyoming_peer import ask, audio_of, open_to_wyoming

VOICE = 1500.0
"""Frequency of the stored voice; the fake TTS voices have others."""


@pytest.fixture
def server(shared_server: RunningServer) -> Iterator[RunningServer]:
    reply = add(shared_server, "anna", clip(hertz=VOICE))
    assert reply.status_code == 201, reply.text
    yield shared_server
    shared_server.client.delete("/voices/anna")


def test_stored_voices_are_listed_after_those_of_the_engine(server: RunningServer) -> None:
    listed = server.client.get("/v1/audio/voices").json()["voices"]
    assert [each["name"] for each in listed] == ["fake", "fake-high", "anna"]
    assert [each["default"] for each in listed] == [True, False, False]
    assert "anna" in [each["name"] for each in server.client.get("/models").json()["voices"]]
    assert "anna" in [each["id"] for each in server.client.get("/v1/models").json()["data"]]


@pytest.mark.parametrize("form", ["wav", "flac", "opus"])
def test_speech_has_the_voice_and_says_that_it_is_converted(server: RunningServer, form: str) -> None:
    request = {"model": "tts-1", "input": "One two three. Four five six.", "voice": "Anna", "response_format": form}
    reply = server.client.post("/v1/audio/speech", json=request)
    assert reply.status_code == 200, reply.text
    assert hertz(reply.content) == pytest.approx(VOICE, abs=10)
    assert b"converted speech, voice anna, chatapi " in reply.content
    plain = server.client.post("/v1/audio/speech", json={**request, "voice": "fake"})
    assert hertz(plain.content) != pytest.approx(VOICE, abs=50) and b"converted speech" not in plain.content


def test_short_speech_states_its_size(server: RunningServer) -> None:
    request = {"model": "tts-1", "input": "Hello.", "voice": "anna", "response_format": "wav"}
    content = server.client.post("/v1/audio/speech", json=request).content
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    data = content.index(b"data")
    assert int.from_bytes(content[data + 4 : data + 8], "little") == len(content) - data - 8 > 0


@pytest.mark.parametrize("stream", [False, True])
def test_completion_answers_in_the_voice(server: RunningServer, stream: bool) -> None:
    request = {"prompt": "hello there", "voice": "anna", "stream": stream}
    reply = server.client.post("/completion", json=request, headers={"Accept": "audio/wav"})
    assert reply.status_code == 200, reply.text
    assert hertz(reply.content) == pytest.approx(VOICE, abs=10)
    assert b"converted speech, voice anna" in reply.content[:200]


def test_chat_completion_answers_in_the_voice(server: RunningServer) -> None:
    request = {
        "model": "default", "messages": [{"role": "user", "content": "hello"}], "modalities": ["text", "audio"],
        "audio": {"voice": "anna", "format": "wav"},
    }  # fmt: skip
    reply = server.client.post("/v1/chat/completions", json=request).json()
    content = base64.b64decode(reply["choices"][0]["message"]["audio"]["data"])
    assert hertz(content) == pytest.approx(VOICE, abs=10) and b"converted speech" in content


@pytest.mark.anyio
async def test_live_conversation_answers_in_the_voice(server: RunningServer) -> None:
    async with talking(server) as client:
        await client.update(audio={"output": {"voice": "anna"}})
        await client.write("hello there")
        await client.send("response.create")
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        deltas = [each["delta"] for each in client.events if each["type"] == "response.output_audio.delta"]
    pcm = np.frombuffer(b"".join(base64.b64decode(each) for each in deltas), np.int16)
    samples = (pcm / 32768).astype(np.float32)
    assert hertz(wav(Audio(samples, REALTIME_RATE))) == pytest.approx(VOICE, abs=10)


@pytest.mark.anyio
async def test_wyoming_lists_the_voice_and_speaks_with_it(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        await appliance.voice_conversion.add("anna", CONSENT, [ReferenceClip("a", clip(hertz=VOICE))])
        [event] = await ask(port, Describe(), end=["info"])
        assert [each.name for each in Info.from_event(event).tts[0].voices] == ["fake", "fake-high", "anna"]
        events = await ask(port, Synthesize("Hello.", voice=SynthesizeVoice("anna")), end=["audio-stop"])
    assert hertz(wav(audio_of(events))) == pytest.approx(VOICE, abs=10)


def test_command_line_says_a_text_in_the_voice(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(clip(hertz=VOICE))
    roles = ("voice_converter", "vad", "speaker", "tts")
    fake, data = [part for role in roles for part in ("--set", f"{role}.engine=fake")], tmp_path / "data"
    assert run(*fake, "voices", "add", "anna", str(tmp_path / "clip.wav"), "--consent", CONSENT, data=data) == 0
    output = tmp_path / "out.wav"
    assert run(*fake, "say", "Hello there.", "--voice", "anna", "-o", str(output), data=data) == 0
    assert hertz(output.read_bytes()) == pytest.approx(VOICE, abs=10) and b"converted speech" in output.read_bytes()


@pytest.mark.anyio
async def test_without_the_model_the_error_names_the_command(
    fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    # A data directory without the link to the machine's models.
    (tmp_path / "data" / "models").unlink(missing_ok=True)
    async with Appliance(fake_settings()).running() as appliance:
        await appliance.load()
        await appliance.voice_conversion.add("anna", CONSENT, [ReferenceClip("a", clip())])
    with serving(fake_settings("voice_converter.engine=knn_vc")) as running:
        for path, request in (
            ("/v1/audio/speech", {"model": "tts-1", "input": "Hello.", "voice": "anna"}),
            ("/completion", {"prompt": "hello", "voice": "anna"}),
        ):
            reply = running.client.post(path, json=request)
            assert reply.status_code in (400, 422), reply.text
            assert "converter_missing" in reply.text and "chatapi models fetch knn-vc-whisper-base" in reply.text


def test_a_key_speaks_with_its_own_voices_and_those_of_the_box(fake_settings: Callable[..., Settings]) -> None:
    chosen = fake_settings()
    keys = {name: add_key(chosen.data, name, ["voices", "talk"]) for name in ("one", "two")}
    with serving(chosen) as running:
        assert add(running, "mine", clip(hertz=VOICE), key=keys["one"]).status_code == 201
        stored = running.appliance.voice_conversion.store
        for key, status in (("one", 200), ("two", 400)):
            request = {"model": "tts-1", "input": "Hello.", "voice": "mine", "response_format": "wav"}
            headers = {"X-API-Key": keys[key]}
            reply = running.client.post("/v1/audio/speech", json=request, headers=headers)
            assert reply.status_code == status, reply.text
            listed = running.client.get("/v1/audio/voices", headers=headers).json()["voices"]
            assert ("mine" in [each["name"] for each in listed]) == (status == 200)
        assert [each.name for each in stored.known()] == ["mine"]


def test_a_deleted_voice_is_unknown_at_once(server: RunningServer) -> None:
    request = {"model": "tts-1", "input": "Hello.", "voice": "anna", "response_format": "wav"}
    assert server.client.post("/v1/audio/speech", json=request).status_code == 200
    server.client.delete("/voices/anna")
    reply = server.client.post("/v1/audio/speech", json=request)
    assert reply.status_code in (400, 422) and "unknown_voice" in reply.text
