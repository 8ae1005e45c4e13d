"""`/v1/audio/speech` with OpenAI's official client, on fake engines, and a round trip through ASR on real models."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from openai import OpenAI

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.audio.encoding import FORMATS, PCM_RATE
from chatapi.bench.wer import words
from chatapi.settings import Settings
from conftest import RunningServer, serving, until

TEXT = "One two three four five. Six seven eight nine. Ten."
SPOKEN = 10 * 0.06
"""Length of its speech with the fake voice, in seconds."""


@pytest.fixture
def client(shared_server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=shared_server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def seconds(form: str, file: bytes) -> float:
    return len(file) / 2 / PCM_RATE if form == "pcm" else decode(file).seconds


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_encoded(client: OpenAI, form: Any) -> None:
    reply = client.audio.speech.create(input=TEXT, model="tts-1", voice="alloy", response_format=form)
    assert reply.response.headers["content-type"] == FORMATS[form].media_type
    assert SPOKEN - 0.01 < seconds(form, reply.read()) < SPOKEN + 0.15


WORDLESS = ("👍", "...", "---", "***", "```", "", " \n\t", "🙂🙂", "?!", "—", "…", "“”", "。", "( )", "♪ *** -- !?")


@pytest.mark.parametrize("text", WORDLESS)
def test_text_without_words_is_a_short_silence(client: OpenAI, text: str) -> None:
    sound = decode(client.audio.speech.create(input=text, model="tts-1", voice="alloy", response_format="wav").read())
    assert 0.1 < sound.seconds < 0.5 and not np.any(sound.samples)


@pytest.mark.parametrize("form", FORMATS)
def test_silence_has_the_requested_format(client: OpenAI, fake_server: RunningServer, form: Any) -> None:
    reply = client.audio.speech.create(input="👍", model="tts-1", voice="fake-high", response_format=form, speed=4)
    assert reply.response.headers["content-type"] == FORMATS[form].media_type
    assert 0.1 < seconds(form, reply.read()) < 0.5
    body = {"input": "👍", "response_format": form, "stream_format": "sse"}
    lines = [line for line in fake_server.client.post("/v1/audio/speech", json=body).text.splitlines() if line]
    assert [json.loads(line.removeprefix("data: "))["type"] for line in lines[-1:]] == ["speech.audio.done"]


@pytest.mark.parametrize("text", ["Hello there.", "👍", "One two three four"])
def test_wav_of_one_sentence_is_sent_whole_with_its_sizes(client: OpenAI, text: str) -> None:
    for form in FORMATS:
        reply: Any = client.audio.speech.create(input=text, model="tts-1", voice="alloy", response_format=form)  # type: ignore[arg-type]
        assert ("content-length" in reply.response.headers) == (form == "wav") and len(reply.read())
    file = client.audio.speech.create(input=text, model="tts-1", voice="alloy", response_format="wav").read()
    with wave.open(io.BytesIO(file)) as read:
        assert read.getnframes() * 2 == len(file) - 44 and read.getframerate() == RATE
    assert int.from_bytes(file[4:8], "little") == len(file) - 8


@pytest.mark.parametrize("text", ["One two. Three four five six.", "word " * 60])
def test_longer_text_is_streamed_without_sizes(client: OpenAI, text: str) -> None:
    reply = client.audio.speech.create(input=text, model="tts-1", voice="alloy", response_format="wav")
    assert "content-length" not in reply.response.headers
    assert reply.read()[4:8] == b"\xff" * 4


def test_mp3_is_the_default_format(client: OpenAI) -> None:
    reply = client.audio.speech.create(input=TEXT, model="tts-1", voice="alloy")
    assert reply.response.headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize(("speed", "length"), [(0.25, 4), (0.5, 2), (1, 1), (4, 0.25)])
def test_speed_changes_the_length(client: OpenAI, speed: float, length: float) -> None:
    reply = client.audio.speech.create(input=TEXT, model="tts-1", voice="alloy", response_format="wav", speed=speed)
    assert decode(reply.read()).seconds == pytest.approx(SPOKEN * length, rel=0.02)


@pytest.mark.parametrize(
    ("body", "hertz"),
    [
        ({"model": "tts-1", "voice": "alloy"}, 440),
        ({"model": "tts-1", "voice": "fake-high"}, 880),
        ({"model": "tts-1", "voice": "Fake-HIGH"}, 880),
        ({"model": "tts-1", "voice": "Alloy"}, 440),
        ({"model": "default", "voice": {"id": "fake-high"}}, 880),
        ({"model": "fake-high", "voice": "default"}, 880),
        ({"model": "fake-high", "voice": "fake"}, 440),
    ],
)
def test_voice_is_selected_by_name_id_or_model(client: OpenAI, body: Any, hertz: int) -> None:
    sound = decode(client.audio.speech.create(input="word " * 20, response_format="wav", **body).read())
    found = float(np.abs(np.fft.rfft(sound.samples)).argmax()) / sound.seconds
    assert found == pytest.approx(hertz, abs=20)


def test_events_carry_the_same_file_and_end_with_the_usage(shared_server: RunningServer, client: OpenAI) -> None:
    body = {"input": TEXT, "model": "tts-1", "voice": "alloy", "response_format": "wav", "stream_format": "sse"}
    with shared_server.client.stream("POST", "/v1/audio/speech", json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in reply.iter_lines() if line]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"} and len(deltas) > 1
    whole = client.audio.speech.create(input=TEXT, model="tts-1", voice="alloy", response_format="wav").read()
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == whole
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 10, "output_tokens": 12, "total_tokens": 22},
    }


def test_audio_is_streamed_and_a_disconnect_cancels_the_synthesis(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings("fake.delay=0.05")) as slow:
        tts, before = slow.appliance.engines.tts, slow.appliance.engines.tts.items_produced
        body = {"input": "This is said. " * 100, "model": "tts-1", "voice": "alloy", "response_format": "pcm"}
        with slow.client.stream("POST", "/v1/audio/speech", json=body) as reply:
            assert next(reply.iter_bytes())
            assert tts.items_produced - before < 100
        slow.run(lambda: until(lambda: tts.admission.used == slow.appliance.admission.used == 0))
        assert tts.items_produced - before < 100


def test_voices_are_listed_with_their_languages(client: OpenAI, shared_server: RunningServer) -> None:
    listed = shared_server.client.get("/v1/audio/voices").json()
    assert [(voice["id"], voice["language"], voice["rate"], voice["default"]) for voice in listed["data"]] == [
        ("fake", "en", RATE, True),
        ("fake-high", "en", RATE, False),
    ]


@pytest.mark.parametrize(
    ("changed", "status", "code", "param"),
    [
        ({"input": None}, 400, "invalid_value", "input"),
        ({"input": 5}, 400, "invalid_value", "input"),
        ({"input": "a" * 8001}, 413, "prompt_too_long", "input"),
        ({"model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"voice": "nobody"}, 400, "unknown_voice", "voice"),
        ({"voice": {"name": "echo"}}, 400, "invalid_value", "voice"),
        ({"voice": 7}, 400, "invalid_value", "voice"),
        ({"response_format": "midi"}, 400, "invalid_value", "response_format"),
        ({"speed": "fast"}, 400, "invalid_value", "speed"),
        ({"speed": 5}, 400, "invalid_value", "speed"),
        ({"speed": 0}, 400, "invalid_value", "speed"),
        ({"stream_format": "smoke"}, 400, "invalid_value", "stream_format"),
        ({"ref_audio": "AAAA"}, 400, "unsupported_parameter", "ref_audio"),
        ({"speeed": 2}, 400, "unknown_parameter", "speeed"),
        ({"sample_rate": 8000, "response_format": "pcm"}, 400, "unsupported_value", "sample_rate"),
    ],
)
def test_invalid_parameter_is_named_in_openai_format(
    shared_server: RunningServer, changed: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    body = {"input": TEXT, "model": "tts-1", "voice": "alloy", **changed}
    reply = shared_server.client.post("/v1/audio/speech", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"input": "\\ud800\\u0000", "voice": "alloy"}', "application/json", 400),
        (b'{"input": "hello \\ud800", "voice": "alloy"}', "application/json", 400),
        (b'{"input": "hello \\u0000", "voice": "alloy"}', "application/json", 400),
        (b"input=hello", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
    ],
)
def test_invalid_body_is_rejected(shared_server: RunningServer, content: bytes, media_type: str, status: int) -> None:
    headers = {"content-type": media_type} if media_type else {}
    reply = shared_server.client.post("/v1/audio/speech", content=content, headers=headers)
    assert reply.status_code == status and reply.json()["error"]["message"]


def test_failure_midway_is_an_event_or_a_truncated_file(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings("fake.delay=0.05", "limits.turn_seconds=0.3")) as slow:
        body = {"input": "One. " * 40, "model": "tts-1", "voice": "alloy", "response_format": "wav", "speed": 4}
        with slow.client.stream("POST", "/v1/audio/speech", json={**body, "stream_format": "sse"}) as reply:
            events = [json.loads(line.removeprefix("data: ")) for line in reply.iter_lines() if line]
        assert [event["type"] for event in (events[0], events[-1])] == ["speech.audio.delta", "error"]
        assert events[-1]["error"]["code"] == "deadline_exceeded"
        with pytest.raises(httpx.RemoteProtocolError):
            slow.client.post("/v1/audio/speech", json=body)
        counted = slow.client.get("/metrics").text
        assert 'chatapi_turns_total{input="text",kind="file",reply="voice",result="deadline_exceeded"} 2.0' in counted


def test_full_queue_rejects_with_retry_after(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("limits.concurrent=1", "limits.queue=0")) as full:
        full.run(full.appliance.admission.acquire)
        with OpenAI(base_url=full.url + "/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.audio.speech.create(input=TEXT, model="tts-1", voice="alloy")
            assert caught.value.status_code == 503 and int(caught.value.response.headers["retry-after"]) >= 1
            full.appliance.admission.release()
            assert client.audio.speech.create(input=TEXT, model="tts-1", voice="alloy").read()


@given(
    body=st.dictionaries(
        st.sampled_from(["input", "model", "voice", "response_format", "speed", "stream_format", "other"]),
        st.none() | st.booleans() | st.floats() | st.text(max_size=30) | st.dictionaries(st.text(), st.text()),
    )
)
@effort(max_examples=60, deadline=None)
def test_no_request_causes_an_internal_error(shared_server: RunningServer, body: dict[str, Any]) -> None:
    reply = shared_server.client.post(
        "/v1/audio/speech", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert reply.status_code < 500, reply.text


@pytest.mark.real
@pytest.mark.parametrize("form", FORMATS)
def test_speech_in_every_format_is_transcribed_again(real_server: RunningServer, form: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog. It was the best of times."
    with OpenAI(base_url=real_server.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        spoken = client.audio.speech.create(input=text, model="tts-1", voice="nova", response_format=form).read()
        if form == "pcm":
            spoken = wav(Audio(np.frombuffer(spoken, "<i2").astype(np.float32) / 32767, PCM_RATE))
        transcript = client.audio.transcriptions.create(file=spoken, model="whisper-1").text
    # Piper's synthesis varies, and the smallest ASR model may miss a word.
    assert jiwer.wer(" ".join(words(text)), " ".join(words(transcript))) < 0.3


@pytest.mark.real
def test_real_voice_follows_the_speed(real_server: RunningServer) -> None:
    body = {"input": "This is said at some speed, and it takes a while.", "voice": "alloy", "response_format": "wav"}
    slow, plain, fast = (
        decode(real_server.client.post("/v1/audio/speech", json={**body, "speed": speed}).content).seconds
        for speed in (0.5, 1, 2)
    )
    # Each phoneme lasts a whole number of frames, at least one.
    assert 1.5 < slow / plain < 2.2 and 1.4 < plain / fast < 2.2
