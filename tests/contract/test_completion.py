"""The contract of `POST /completion`, with fake engines."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from chatapi.audio import Audio, wav
from chatapi.audio.decode import decode
from chatapi.engines import TokenChunk, TokenUsage
from chatapi.interfaces.http import spooling
from chatapi.settings import Settings
from conftest import RunningServer, serving


def events(reply: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of a response, in order."""
    found = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_text_in_text_out(shared_server: RunningServer) -> None:
    reply = shared_server.client.post("/completion", json={"prompt": "hello there"})
    document = reply.json()
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert (document["reply"], document["transcript"], document["finish_reason"]) == (
        "You said: hello there.",
        None,
        "stop",
    )
    assert set(document) == {"id", "conversation", "transcript", "reply", "finish_reason", "usage", "timings"}
    assert document["id"] == reply.headers["x-request-id"]
    assert document["usage"]["completion_tokens"] > 0
    timings = document["timings"]
    assert 0 <= timings["admitted"] <= timings["first_token"] <= timings["first_sentence"] <= timings["end"]
    assert timings["first_audio"] is timings["transcript"] is timings["speech_end"] is None


def test_text_in_voice_out(shared_server: RunningServer) -> None:
    reply = shared_server.client.post("/completion", json={"prompt": "hello", "reply": "voice"})
    assert reply.headers["content-type"] == "audio/wav"
    assert unquote(reply.headers["x-chatapi-reply"]) == "You said: hello."
    timings = json.loads(reply.headers["x-chatapi-timings"])
    assert decode(reply.content).seconds == pytest.approx(timings["spoken"], abs=0.01)
    assert timings["first_audio"] <= timings["end"]


def test_wav_in_text_out(shared_server: RunningServer, beep: Audio) -> None:
    reply = shared_server.client.post("/completion", content=wav(beep), headers={"content-type": "audio/wav"})
    document = reply.json()
    assert document["transcript"].startswith("heard ")
    assert document["reply"] == f"You said: {document['transcript']}."
    assert document["timings"]["audio"] == 2.5
    assert document["timings"]["speech_end"] == pytest.approx(2.0, abs=0.1)


def test_wav_in_voice_out(shared_server: RunningServer, beep: Audio) -> None:
    reply = shared_server.client.post(
        "/completion?reply=voice", content=wav(beep), headers={"content-type": "audio/wav"}
    )
    assert decode(reply.content).seconds > 0
    assert unquote(reply.headers["x-chatapi-transcript"]).startswith("heard ")


def test_form_accepts_audio_or_a_prompt(shared_server: RunningServer, beep: Audio) -> None:
    client = shared_server.client
    spoken = client.post("/completion", files={"audio": ("a.wav", wav(beep))}, data={"language": "de"})
    assert spoken.json()["transcript"].startswith("heard ")
    written = client.post("/completion", files={"prompt": (None, "hello"), "max_tokens": (None, "2")})
    assert (written.json()["reply"], written.json()["finish_reason"]) == ("You said:", "length")


def test_text_streams_as_server_sent_events(shared_server: RunningServer, beep: Audio) -> None:
    reply = shared_server.client.post(
        "/completion?stream=true", content=wav(beep), headers={"content-type": "audio/wav"}
    )
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    stream = events(reply)
    assert [stream[0][0], stream[1][0], stream[-1][0]] == ["start", "transcript", "end"]
    written = "".join(data["text"] for name, data in stream if name == "delta")
    assert written == stream[-1][1]["reply"]
    assert stream[-1][1]["conversation"] == stream[0][1]["conversation"]


def test_voice_streams_as_a_growing_wav(shared_server: RunningServer) -> None:
    with shared_server.client.stream(
        "POST", "/completion", json={"prompt": "one two three. four five six.", "reply": "voice", "stream": True}
    ) as reply:
        assert "content-length" not in reply.headers
        assert reply.headers["x-chatapi-conversation"]
        body = reply.read()
    assert body[40:44] == b"\xff\xff\xff\xff"
    assert decode(body).seconds > 0.4


def test_text_and_voice_stream_together_as_events(shared_server: RunningServer) -> None:
    reply = shared_server.client.post(
        "/completion",
        json={"prompt": "hello", "reply": "voice", "stream": True},
        headers={"accept": "text/event-stream"},
    )
    names = [name for name, _ in events(reply)]
    assert {"start", "delta", "speech", "end"} == set(names)


@pytest.mark.parametrize(
    ("accept", "options", "media_type"),
    [
        ("audio/wav", {}, "audio/wav"),
        ("audio/*", {}, "audio/wav"),
        ("audio/wav;q=0.5, application/json", {}, "application/json"),
        ("application/json;q=0.5, audio/wav", {}, "audio/wav"),
        ("*/*", {}, "application/json"),
        ("*/*", {"reply": "voice"}, "audio/wav"),
        ("text/event-stream", {}, "text/event-stream; charset=utf-8"),
        ("text/event-stream", {"reply": "voice"}, "text/event-stream; charset=utf-8"),
        ("text/event-stream, */*;q=0.1", {"reply": "voice"}, "text/event-stream; charset=utf-8"),
        ("text/event-stream, audio/wav", {"reply": "voice"}, "audio/wav"),
        ("text/html, */*;q=0.1", {}, "application/json"),
    ],
)
def test_accept_header_selects_the_reply(
    shared_server: RunningServer, accept: str, options: dict[str, str], media_type: str
) -> None:
    reply = shared_server.client.post("/completion", json={"prompt": "hello", **options}, headers={"accept": accept})
    assert reply.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("accept", "options"),
    [
        ("audio/wav", {"reply": "text"}),
        ("application/json", {"reply": "voice"}),
        ("application/json", {"stream": True}),
        ("text/event-stream", {"stream": False}),
        ("text/event-stream", {"stream": False, "reply": "voice"}),
        ("image/png", {}),
        ("audio/wav;q=0", {"reply": "voice"}),
    ],
)
def test_contradicting_accept_is_rejected(shared_server: RunningServer, accept: str, options: dict[str, Any]) -> None:
    reply = shared_server.client.post("/completion", json={"prompt": "hello", **options}, headers={"accept": accept})
    assert (reply.status_code, reply.json()["code"]) == (406, "contradicting_accept")
    assert accept in reply.json()["detail"]


def test_conversation_is_continued_read_and_deleted(shared_server: RunningServer) -> None:
    client = shared_server.client
    first = client.post("/completion", json={"prompt": "one", "system": "Be brief."}).json()
    second = client.post("/completion", json={"prompt": "two", "conversation": first["conversation"]}).json()
    assert second["conversation"] == first["conversation"]
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    path = f"/conversations/{first['conversation']}"
    assert [m["text"] for m in client.get(path).json()["messages"]] == [
        "one", "You said: one.", "two", "You said: two.",
    ]  # fmt: skip
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == client.delete(path).status_code == 404


def test_request_id_is_in_header_and_document(shared_server: RunningServer) -> None:
    client = shared_server.client
    reply = client.post("/completion", json={"prompt": "hello"}, headers={"x-request-id": "mine-1"})
    assert reply.headers["x-request-id"] == reply.json()["id"] == "mine-1"
    odd = client.post("/completion", json={"prompt": ""}, headers={"x-request-id": "no spaces, please"})
    assert odd.json()["request_id"] == odd.headers["x-request-id"] != "no spaces, please"


def test_turn_is_counted(fake_server: RunningServer) -> None:
    client = fake_server.client
    client.post("/completion", json={"prompt": "hello", "reply": "voice"})
    client.post("/completion", json={"prompt": " "})
    page = client.get("/metrics").text
    assert 'chatapi_turns_total{input="text",kind="request",reply="voice",result="ok"} 1.0' in page
    assert 'chatapi_errors_total{code="empty_prompt"} 1.0' in page
    assert 'chatapi_turn_stage_seconds_count{stage="first_audio"} 1.0' in page
    assert 'chatapi_http_requests_total{method="POST",route="/completion",status="422"} 1.0' in page
    assert "process_resident_memory_bytes" in page


def test_models_voices_and_languages_are_listed(shared_server: RunningServer) -> None:
    known = shared_server.client.get("/models").json()
    assert {voice["name"] for voice in known["voices"]} == {"fake", "fake-high"}
    assert "en" in known["languages"]
    assert {model["role"] for model in known["models"]} >= {"asr", "llm", "tts"}


def test_answer_without_speech_gets_a_fallback_phrase(shared_server: RunningServer) -> None:
    def smiling(*_: object, **options: object) -> Iterator[TokenChunk]:
        yield TokenChunk("\U0001f600")
        yield TokenChunk("", "stop", TokenUsage(1, 1))

    shared_server.appliance.engines.llm.engine.generate = smiling  # type: ignore[method-assign]
    words = len(shared_server.appliance.generator.no_answer.split())
    for stream in (False, True):
        reply = shared_server.client.post("/completion", json={"prompt": "hello", "reply": "voice", "stream": stream})
        assert reply.status_code == 200 and decode(reply.content).seconds == pytest.approx(words * 0.06, abs=0.05)
    options = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    body = {"model": "default", "messages": [{"role": "user", "content": "hello"}], **options}
    message = shared_server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["audio"]["transcript"] == "\U0001f600"
    assert decode(base64.b64decode(message["audio"]["data"])).seconds == pytest.approx(words * 0.06, abs=0.05)


def test_allowed_origin_may_send_any_header(fake_settings: Callable[..., Settings]) -> None:
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-stainless-lang,content-type",
    }
    with serving(fake_settings("server.cors_origins=http://page.example"), load=False) as server:
        for origin, status in (("http://page.example", 200), ("http://other.example", 400)):
            reply = server.client.options("/v1/chat/completions", headers={"Origin": origin, **preflight})
            assert reply.status_code == status
            assert ("access-control-allow-origin" in reply.headers) == (status == 200)
        # A browser checks each header name it requested.
        allowed = server.client.options("/completion", headers={"Origin": "http://page.example", **preflight}).headers
        assert "x-stainless-lang" in allowed["access-control-allow-headers"].lower()


@pytest.mark.parametrize(("path", "name"), [("/completion", "audio"), ("/v1/audio/transcriptions", "file")])
def test_full_disk_rejects_the_upload(
    shared_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    # The data directory is full, and the system's temporary directory is gone.
    monkeypatch.setattr(spooling, "free", lambda folder: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    reply = shared_server.client.post(path, files={name: ("a.wav", bytes(4 << 20), "audio/wav")})
    assert reply.status_code == 507, reply.text
