"""Malformed, huge, empty, slow and truncated input on every interface: a clear error without side effects."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError

from chatapi.audio import RATE, Audio, wav
from chatapi.errors import Unprocessable
from chatapi.interfaces.http.validation import reject_invalid
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.turns.completion import Turn
from chatapi.settings import Settings
from conftest import TIMEOUT, RunAppliance, RunningServer, answer, serving, tone

JSON = {"content-type": "application/json"}
WAV = {"content-type": "audio/wav"}
GOOD = wav(Audio(tone(1.0), RATE))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff\xfe{}", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"null", 422, "invalid_value"),
        (b'["prompt"]', 422, "invalid_value"),
        (b"{}", 422, "one_of_prompt_and_audio"),
        (b'{"prompt": 5}', 422, "invalid_value"),
        (b'{"prompt": null}', 422, "invalid_value"),
        (b'{"prompt": ""}', 422, "empty_prompt"),
        (b'{"prompt": " \\n\\t"}', 422, "empty_prompt"),
        (b'{"prompt": "a\\u0000b"}', 422, "invalid_value"),
        (b'{"prompt": "\\ud800"}', 422, "invalid_value"),
        (b'{"prompt": "a", "prompts": "b"}', 422, "invalid_value"),
        (b'{"prompt": "a", "max_tokens": "5"}', 422, "invalid_value"),
        (b'{"prompt": "a", "max_tokens": 0}', 422, "invalid_value"),
        (b'{"prompt": "a", "max_tokens": 1e99}', 422, "invalid_value"),
        (b'{"prompt": "a", "temperature": NaN}', 422, "invalid_value"),
        (b'{"prompt": "a", "temperature": -1}', 422, "invalid_value"),
        (b'{"prompt": "a", "stream": "yes"}', 422, "invalid_value"),
        (b'{"prompt": "a", "reply": "song"}', 422, "invalid_value"),
        (b'{"prompt": "a", "reply": "voice", "voice": "nobody"}', 422, "unknown_voice"),
        (b'{"prompt": "a", "language": "xx"}', 422, "unknown_language"),
        (b'{"prompt": "a", "conversation": "c0ffee"}', 404, "unknown_conversation"),
        (b'{"prompt": "a", "conversation": "\\ud800"}', 422, "invalid_value"),
        (json.dumps({"prompt": "a" * 8001}).encode(), 413, "prompt_too_long"),
        (json.dumps({"prompt": "word " * 1600, "max_tokens": 8000}).encode(), 413, "prompt_too_long"),
    ],
)
def test_invalid_prompt_is_rejected(shared_server: RunningServer, body: bytes, status: int, code: str) -> None:
    reply = shared_server.client.post("/completion", content=body, headers=JSON)
    document = reply.json()
    assert (reply.status_code, document["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert document["detail"] and document["title"]
    assert document["status"] == status
    assert document["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b'{"prompt": "\xff"}', "not UTF-8 text"),
        (b"{'prompt'}", "line 1, column 2"),
        (b"[]", "a JSON array"),
        (b'{"prompt": "a", "stream": "yes"}', "stream must be true or false"),
        (b'{"prompt": "a", "max_tokens": 1.5}', "max_tokens must be a whole number"),
        (b'{"prompt": "a", "temperature": 99}', "temperature must be at most 2"),
        (b'{"prompt": "a", "reply": "song"}', "reply must be 'text' or 'voice'"),
        (b'{"prompt": "a", "conversation": ""}', "conversation must have a length of at least 1"),
        (b'{"prompt": "a", "voice": "bob"}', "there is no voice 'bob'"),
        (b'{"prompt": "a", "voice": "de_DE-thorsten-medium"}', "there is no voice"),
    ],
)
def test_error_message_names_the_fault(shared_server: RunningServer, body: bytes, message: str) -> None:
    detail = shared_server.client.post("/completion", content=body, headers=JSON).json()["detail"]
    assert message in detail
    assert "Input should" not in detail


def test_curl_default_form_gets_a_hint_at_the_header(shared_server: RunningServer) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    reply = shared_server.client.post("/completion", content=b'{"prompt": "a"}', headers=headers)
    assert "-H 'Content-Type: application/json'" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("generation_options", "message"),
    [
        ({"temperature": 99.0}, "temperature is 99; it must be from 0 to 2"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
@pytest.mark.anyio
async def test_every_interface_rejects_invalid_generation_options(
    fake_appliance: RunAppliance, generation_options: dict[str, Any], message: str
) -> None:
    async with fake_appliance() as appliance:
        with pytest.raises(Unprocessable, match=message):
            await answer(appliance, Turn(prompt="a", **generation_options))


@pytest.mark.anyio
async def test_voice_that_is_not_installed_names_the_fetch_command(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        synthesis = SpeechSynthesis(appliance.engines, appliance.metrics, appliance.voice_conversion.cloned, ["parrot"])
        with pytest.raises(Unprocessable, match="not installed; fetch it with: chatapi models fetch parrot"):
            synthesis.voice("parrot")


@pytest.mark.parametrize(
    ("file", "status", "code"),
    [
        (b"", 400, "bad_audio"),
        (b"RIFF", 400, "bad_audio"),
        (GOOD[:44], 400, "bad_audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), 400, "bad_audio"),
        (wav(Audio(np.zeros(RATE, np.float32), RATE)), 422, "no_speech"),
        (wav(Audio(np.zeros(1, np.float32), RATE)), 422, "no_speech"),
        (wav(Audio(tone(125), RATE)), 413, "audio_too_long"),
    ],
)
def test_invalid_audio_is_rejected(shared_server: RunningServer, file: bytes, status: int, code: str) -> None:
    reply = shared_server.client.post("/completion", content=file, headers=WAV)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("fields", "files", "code"),
    [
        ({"prompt": "a"}, {"audio": ("a.wav", GOOD)}, "one_of_prompt_and_audio"),
        ({"reply": "text"}, {}, "one_of_prompt_and_audio"),
        ({"audio": "text"}, {}, "invalid_value"),
        ({}, {"prompt": ("p.txt", b"a")}, "invalid_value"),
        ({"song": "a"}, {"audio": ("a.wav", GOOD)}, "invalid_value"),
        ({"prompt": ["a", "b"]}, {}, "invalid_value"),
    ],
)
def test_invalid_form_is_rejected(
    shared_server: RunningServer, fields: dict[str, Any], files: dict[str, Any], code: str
) -> None:
    files = files or {"language": (None, "en")}
    reply = shared_server.client.post("/completion", data=fields, files=files)
    assert (reply.status_code, reply.json()["code"]) == (422, code)


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\nnonsense", b"--x--", b"--x\r\n\r\n" + bytes(1000)])
def test_malformed_form_is_rejected(shared_server: RunningServer, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = shared_server.client.post("/completion", content=body, headers=headers)
    assert reply.status_code in (400, 422)
    assert reply.json()["code"] in ("invalid_form", "one_of_prompt_and_audio")


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/xml", "image/png", "nonsense", "audio/midi"])
def test_unsupported_media_type_is_named(shared_server: RunningServer, media_type: str) -> None:
    headers = {"content-type": media_type} if media_type else {}
    reply = shared_server.client.post("/completion", content=b"hello", headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


def test_missing_key_response_says_how_to_send_it(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.api_key=sesame")) as server:
        rejected = server.client.get("/models")
        assert (rejected.status_code, rejected.headers["www-authenticate"]) == (401, "Bearer")
        assert (
            "Authorization: Bearer KEY" in rejected.json()["detail"] and "as the password" in rejected.json()["detail"]
        )
        for path, accept in (("/", "text/html"), ("/page/style.css", "text/css")):
            challenged = server.client.get(path, headers={"accept": accept})
            assert challenged.headers["www-authenticate"].startswith("Basic")
        assert server.client.get("/page/style.css", auth=("any", "sesame")).status_code == 200


@pytest.mark.parametrize("query", ["reply=song", "max_tokens=x", "nonsense=1", "reply=text&reply=voice", "prompt=a"])
def test_invalid_query_option_is_named(shared_server: RunningServer, query: str) -> None:
    reply = shared_server.client.post(f"/completion?{query}", content=GOOD, headers=WAV)
    assert reply.status_code == 422
    assert query.split("=")[0] in reply.json()["detail"]


def test_query_options_with_a_json_body_are_rejected(shared_server: RunningServer) -> None:
    reply = shared_server.client.post("/completion?reply=voice", json={"prompt": "a"})
    assert reply.status_code == 422


def test_invalid_values_are_named_in_the_words_of_each_api_and_counted(fake_server: RunningServer) -> None:
    own = fake_server.client.post("/completion", json={"prompt": "a", "temperature": 9, "seed": "x", "more": 1})
    assert (own.status_code, own.json()["code"]) == (422, "invalid_value")
    assert own.json()["fields"] == ["temperature", "seed", "more"]
    assert own.json()["detail"] == (
        "temperature must be at most 2.0; seed must be a whole number; there is no option 'more'"
    )
    speech = fake_server.client.post("/v1/audio/speech", json={"input": "a", "speed": 9, "more": 1})
    error = speech.json()["error"]
    assert (speech.status_code, error["code"], error["param"]) == (400, "invalid_value", "speed")
    assert error["message"] == "speed must be at most 4.0"
    unknown = fake_server.client.post("/v1/audio/speech", json={"input": "a", "voicee": 1}).json()["error"]
    assert (unknown["code"], unknown["param"]) == ("unknown_parameter", "voicee")
    page = fake_server.client.get("/metrics").text
    assert 'chatapi_errors_total{code="invalid_value"} 2.0' in page
    assert 'chatapi_errors_total{code="unknown_parameter"} 1.0' in page


@pytest.mark.anyio
async def test_parameters_that_fastapi_checks_are_named_in_the_same_words() -> None:
    app = FastAPI()
    app.add_exception_handler(RequestValidationError, reject_invalid)

    @app.get("/things")
    async def things(limit: Annotated[int, Query(le=5)]) -> int:
        return limit

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        with pytest.raises(Unprocessable, match=r"^limit must be at most 5$") as raised:
            await client.get("/things?limit=9")
        with pytest.raises(Unprocessable, match=r"^limit must be given$"):
            await client.get("/things")
    assert raised.value.details == {"fields": ["limit"]}


def test_body_larger_than_the_limit_is_rejected_before_it_is_read(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("limits.body_bytes=100000")) as server:
        reply = server.client.post("/completion", content=bytes(200_000), headers=WAV)
        assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
        assert server.client.get("/health").status_code == 200


def test_unlimited_body_is_rejected(fake_settings: Callable[..., Settings]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(10_000)

    with serving(fake_settings("limits.body_bytes=100000")) as server:
        with server.client.stream("POST", "/completion", content=_at_most(endless(), 50), headers=WAV) as reply:
            assert reply.status_code == 413
            assert json.loads(reply.read())["limit_bytes"] == 100_000


def _at_most(chunks: Iterator[bytes], number: int) -> Iterator[bytes]:
    for _, chunk in zip(range(number), chunks, strict=False):
        yield chunk


def head(headers: dict[str, str], length: int) -> bytes:
    """The head of a request whose body is sent separately."""
    media_type = headers["content-type"]
    lines = ("POST /completion HTTP/1.1", "Host: localhost", f"Content-Type: {media_type}", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def talk(server: RunningServer, data: bytes, seconds: float = 10) -> bytes:
    """Sends raw bytes, and reads until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), seconds) as plain:
        plain.sendall(data)
        received = b""
        while chunk := plain.recv(65536):
            received += chunk
        return received


def test_slow_body_times_out(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.body_seconds=0.3")) as server:
        received = talk(server, head(WAV, 1000) + b"RIFF")
        assert received.startswith(b"HTTP/1.1 408")
        assert b"body_too_slow" in received


@pytest.mark.parametrize(
    ("started", "status"), [(b"", b""), (b"POST /completion HTTP/1.1\r\nHost: local", b"HTTP/1.1 408 ")]
)
def test_connection_without_a_request_is_closed(
    fake_settings: Callable[..., Settings], started: bytes, status: bytes
) -> None:
    with serving(fake_settings("server.head_seconds=0.2")) as server:
        received = talk(server, started)
        assert received[:13] == status and (b"head_too_slow" in received) is bool(started)


def test_disconnect_during_the_body_leaks_nothing(shared_server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", shared_server.port)) as plain:
        plain.sendall(head(WAV, 1000) + b"RIFF")
    assert shared_server.client.post("/completion", json={"prompt": "a"}).status_code == 200
    assert shared_server.appliance.admission.used == 0


@pytest.mark.parametrize("line", [b"GARBAGE\r\n\r\n", b"\x00\x01\x02\r\n\r\n"])
def test_invalid_http_is_rejected_and_the_next_request_works(shared_server: RunningServer, line: bytes) -> None:
    assert talk(shared_server, line).startswith(b"HTTP/1.1 400")
    assert shared_server.client.get("/ready").status_code == 200


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


@pytest.mark.parametrize("reply", ["text", "voice"])
@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_cancels_the_turn_and_frees_the_slot(
    fake_settings: Callable[..., Settings], reply: str, stream: bool
) -> None:
    with serving(fake_settings("fake.delay=0.05", "limits.prompt_chars=100000", "llm.max_tokens=100000",
                               "llama_cpp.context=1000000")) as server:  # fmt: skip
        body = json.dumps({"prompt": "word. " * 2000, "reply": reply, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(head(JSON, len(body)) + body)
            wait_until(lambda: server.appliance.engines.llm.admission.used == 1)
            if stream:
                assert plain.recv(10)
        wait_until(lambda: server.appliance.admission.used == 0)
        wait_until(lambda: server.appliance.engines.llm.admission.used == 0)
        wait_until(lambda: server.appliance.engines.tts.admission.used == 0)
        page = server.client.get("/metrics").text
        assert f'chatapi_turns_total{{input="text",kind="request",reply="{reply}",result="disconnected"}} 1.0' in page


def test_stalled_client_is_disconnected_and_frees_the_slot(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.send_seconds=0.3", "limits.prompt_chars=1000000", "llm.max_tokens=1000000",
                               "llama_cpp.context=10000000")) as server:  # fmt: skip
        body = json.dumps({"prompt": "word. " * 60_000, "reply": "voice", "stream": True}).encode()
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with plain:
            plain.connect(("127.0.0.1", server.port))
            plain.sendall(head(JSON, len(body)) + body)
            wait_until(lambda: server.appliance.admission.used == 1)
            wait_until(lambda: server.appliance.admission.used == 0)
        assert server.client.post("/completion", json={"prompt": "a"}).status_code == 200


def test_full_queue_rejects_with_retry_after(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.delay=0.06", "limits.concurrent=1", "limits.queue=1")) as server:
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(httpx.post(server.url + "/completion", json={"prompt": "one two"}, timeout=TIMEOUT))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted({reply.status_code for reply in replies}) == [200, 503]
        rejected = [reply for reply in replies if reply.status_code == 503]
        assert all(int(reply.headers["retry-after"]) >= 1 and reply.json()["code"] == "busy" for reply in rejected)
        assert 1 <= len(rejected) <= 4


def test_while_models_load_requests_get_retry_after(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings(), load=False) as server:
        assert server.client.get("/health").json()["status"] == "loading"
        for reply in (server.client.get("/ready"), server.client.post("/completion", json={"prompt": "a"})):
            assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
            assert reply.headers["retry-after"]


@pytest.mark.parametrize("stream", [False, True])
def test_engine_failure_midway_is_reported(fake_settings: Callable[..., Settings], stream: bool) -> None:
    with serving(fake_settings("fake.fault=raise")) as server:
        for _ in range(2):
            reply = server.client.post("/completion", json={"prompt": "a", "stream": stream})
            if stream:
                assert "event: error" in reply.text and "engine_failed" in reply.text
            else:
                assert (reply.status_code, reply.json()["code"]) == (500, "engine_failed")
        assert server.client.get("/health").json()["status"] == "ok"


def test_hanging_engine_is_reported_and_replaced(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=hang", "limits.step_seconds=0.5")) as server:
        reply = server.client.post("/completion", json={"prompt": "a"})
        assert (reply.status_code, reply.json()["code"]) == (500, "engine_stuck")
        wait_until(lambda: server.client.get("/health").json()["status"] == "ok")
        assert server.client.get("/health").json()["engines"]["llm"]["rebuilt"] == 1


def test_failed_streamed_wav_is_truncated(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as server:
        with pytest.raises(httpx.HTTPError):
            reply = server.client.post("/completion", json={"prompt": "a", "reply": "voice", "stream": True})
            reply.raise_for_status()
