"""The byte budget of all connections: its limits, temporary files of large bodies, and released memory."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatapi import auth, settings
from chatapi.audio import RATE, Audio, wav
from chatapi.errors import Busy
from chatapi.interfaces.http import json_body
from chatapi.runtime.byte_budget import FREE, ByteBudget
from chatapi.settings import Settings
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, serving, tone
from test_bad_input import WAV, head, talk, wait_until
from test_connections import open_connections, process, replies

MIB = 1 << 20
LARGE = wav(Audio(tone(60.0), RATE))
"""One minute of audio: 1.9 MB, more than is kept in memory."""


def test_held_bytes_are_counted_until_they_are_released() -> None:
    budget = ByteBudget(10 * MIB)
    one, other = budget.open("192.0.2.1"), budget.open("192.0.2.2")
    one.hold(FREE)
    assert budget.held == 0, "the first bytes are free"
    one.add(4 * MIB)
    other.hold(5 * MIB + FREE)
    assert budget.held == 9 * MIB
    with pytest.raises(Busy) as busy:
        budget.open("192.0.2.3").hold(2 * MIB)
    assert (busy.value.code, busy.value.retry_after) == ("busy", 2.0)
    other.release()
    budget.open("192.0.2.3").hold(2 * MIB)
    one.release()
    one.release()
    assert budget.held == 2 * MIB - FREE


def test_one_address_holds_at_most_half_and_this_machine_all() -> None:
    budget = ByteBudget(10 * MIB)
    budget.open("192.0.2.1").hold(4 * MIB)
    with pytest.raises(Busy, match="uploads of one address are limited to 5242880 bytes"):
        budget.open("192.0.2.1").hold(2 * MIB)
    budget.open("192.0.2.2").hold(4 * MIB)
    local = ByteBudget(10 * MIB)
    local.open().hold(9 * MIB)


def test_memory_is_trimmed_after_a_large_reservation() -> None:
    budget, swept = ByteBudget(10 * MIB), []
    budget.on_large_release = lambda: swept.append(True)
    for size in (1000, 2 * MIB):
        one = budget.open()
        one.hold(size)
        one.release()
    assert swept == [True]


def test_uploads_beyond_the_limit_are_rejected_and_short_requests_are_served(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings(f"limits.inflight_bytes={4 * MIB}")) as server:
        with open_connections(server.port, 2) as slow:
            for each in slow:
                each.sendall(head(WAV, 2 * MIB)[:-2] + b"Expect: 100-continue\r\n\r\n")
                assert each.recv(100).startswith(b"HTTP/1.1 100")
                each.sendall(bytes(3 * MIB // 2))
            wait_until(lambda: server.appliance.byte_budget.held > 2 * MIB)
            rejected = server.client.post("/completion", content=bytes(2 * MIB), headers=WAV)
            assert (rejected.status_code, rejected.json()["code"]) == (503, "busy")
            assert int(rejected.headers["retry-after"]) == 2
            openai = server.client.post("/v1/audio/transcriptions", files={"file": LARGE})
            assert (openai.status_code, openai.json()["error"]["code"]) == (503, "busy")
            assert server.client.post("/completion", json={"prompt": "a"}).status_code == 200
            assert "chatapi_inflight_bytes 3.01" in server.client.get("/metrics").text
        wait_until(lambda: server.appliance.byte_budget.held == 0)
        assert server.client.post("/completion", content=LARGE, headers=WAV).status_code == 200


def test_announced_bytes_are_not_held(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings(f"limits.inflight_bytes={4 * MIB}")) as server:
        with open_connections(server.port, 30) as silent:
            for each in silent:
                each.sendall(head(WAV, 2 * MIB) + b"RIFF")
            assert server.client.post("/completion", content=LARGE, headers=WAV).status_code == 200
            wait_until(lambda: server.appliance.byte_budget.held == 0)


def test_many_uploads_at_once_are_served_or_get_retry_after(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings(f"limits.inflight_bytes={4 * MIB}", "limits.queue=64")) as server:
        found: list[httpx.Response] = []

        def send() -> None:
            found.append(httpx.post(f"{server.url}/completion", content=LARGE, headers=WAV, timeout=TIMEOUT))

        threads = [threading.Thread(target=send) for _ in range(12)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        statuses = [reply.status_code for reply in found]
        assert set(statuses) == {200, 503} and len(statuses) == 12
        assert all("retry-after" in reply.headers for reply in found if reply.status_code == 503)
        wait_until(lambda: server.appliance.byte_budget.held == 0)


@pytest.mark.parametrize("way", ["body", "form", "json", "transcription"])
def test_large_upload_is_in_a_temporary_file(shared_server: RunningServer, data: Path, way: str) -> None:
    before = nameless()
    for _ in range(2):
        if way == "body":
            reply = shared_server.client.post("/completion", content=LARGE, headers=WAV)
        elif way == "form":
            reply = shared_server.client.post("/completion", files={"audio": LARGE})
        elif way == "transcription":
            reply = shared_server.client.post("/v1/audio/transcriptions", files={"file": LARGE})
        else:
            sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(LARGE).decode(), "format": "wav"}}
            reply = shared_server.client.post(
                "/v1/chat/completions", json={"messages": [{"role": "user", "content": [sound]}]}
            )
        assert reply.status_code == 200, reply.text
    wait_until(lambda: shared_server.appliance.byte_budget.held == 0)
    wait_until(lambda: nameless() == before, 10)
    assert [each for each in data.iterdir() if each.name.startswith("tmp")] == []


def nameless() -> list[str]:
    """Open files that are deleted."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(each.readlink()))
    return sorted(name for name in found if name.startswith("/") and name.endswith("(deleted)"))


def test_read_only_data_directory_does_not_block_uploads(shared_server: RunningServer, data: Path) -> None:
    mode = data.stat().st_mode
    data.chmod(0o500)
    try:
        assert shared_server.client.post("/completion", content=LARGE, headers=WAV).status_code == 200
    finally:
        data.chmod(mode)


@pytest.mark.parametrize("repeated", [1, 3000])
def test_base64_is_decoded_in_every_form_of_clients_and_no_other(repeated: int) -> None:
    content = bytes(range(256)) * repeated + b"\xfb\xff"
    whole = base64.b64encode(content).decode()
    assert (len(whole) > json_body.PART) == (repeated > 1)
    forms = (
        whole, base64.encodebytes(content).decode(), whole.replace("=", ""), base64.urlsafe_b64encode(content).decode(),
        f"data:audio/wav;base64,{whole}", whole[:100] + "\r\n" + whole[100:],
    )  # fmt: skip
    for form in forms:
        assert json_body.decode_base64(form) == content
    for wrong in ("QQ==" + whole, whole + "!", whole[:9], "data:" + whole, whole[:8] + "é" + whole[8:]):
        with pytest.raises(ValueError, match=r".+"):
            json_body.decode_base64(wrong)


# Clients that disconnect


@pytest.mark.parametrize(
    ("path", "media_type", "sent"),
    [
        ("/completion", "audio/wav", b"RIFF"),
        ("/completion", "application/json", b'{"prompt": '),
        ("/completion", "multipart/form-data; boundary=x", b"--x\r\n"),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=x", b"--x\r\n"),
        ("/v1/chat/completions", "application/json", b'{"messages": ['),
    ],
)
def test_disconnect_during_the_body_is_counted_as_499(
    fake_server: RunningServer, caplog: pytest.LogCaptureFixture, path: str, media_type: str, sent: bytes
) -> None:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {media_type}", "Content-Length: 1000", "", "")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", fake_server.port)) as plain:
            plain.sendall("\r\n".join(lines).encode() + sent)
    label = f'chatapi_http_requests_total{{method="POST",route="{path}",status="499"}} 3.0'
    wait_until(lambda: label in fake_server.client.get("/metrics").text)
    page = fake_server.client.get("/metrics").text
    assert "chatapi_errors_total{" not in page
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING
                if record.name.startswith("chatapi")]  # fmt: skip


def test_invalid_chunk_is_rejected_and_ends_the_request(
    shared_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    request = (
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    received = talk(shared_server, request + b"4\r\nRIFF\r\nnot a length\r\n")
    assert received.startswith(b"HTTP/1.1 400") and b"invalid_http" in received
    wait_until(lambda: shared_server.appliance.byte_budget.held == 0)
    assert not [record for record in caplog.records if record.exc_info]


# Invalid requests


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "invalid_http"),
        (b"GET /?" + b"a=1&" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nCookie: " + b"a" * 200_000, 431, "head_too_large"),
    ],
)
def test_invalid_head_gets_a_problem_document(
    shared_server: RunningServer, sent: bytes, status: int, code: str
) -> None:
    received = talk(shared_server, sent)
    first, _, document = received.partition(b"\r\n\r\n")
    assert first.split()[1] == str(status).encode() and b"application/problem+json" in first
    assert json.loads(document)["code"] == code
    assert shared_server.client.get("/ready").status_code == 200


KEY = base64.b64encode(bytes(16)).decode()
HANDSHAKE: dict[str, Any] = {
    "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec-WebSocket-Key": "schlüssel"},
        {"Sec-WebSocket-Key": "a"},
        {"Sec-WebSocket-Key": None},
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Version": None},
        {"Connection": "Upgrade, ;"},
        {"Upgrade": "websocket", "Sec-WebSocket-Protocol": "a b"},
        {"X-Long": "a" * 9000},
        {f"X-{number}": "b" for number in range(200)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_invalid_handshake_is_rejected_after_authentication(
    fake_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture, changed: dict[str, str | None]
) -> None:
    with serving(fake_settings("server.api_key=sesame")) as server:
        for key, status, code in ((None, b"401", "unauthorized"), ("sesame", b"400", "bad_handshake")):
            headers = {**HANDSHAKE, **changed, "X-API-Key": key}
            lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
            request = "\r\n".join(("GET /v1/realtime HTTP/1.1", *lines, "Connection: close" * 0, "", ""))
            with open_connections(server.port, 1) as plain:
                [reply] = replies(plain, request.replace("\r\n\r\n\r\n", "\r\n\r\n").encode())
            assert reply.split()[1] == status, reply
            assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == code
    assert not [record for record in caplog.records if record.exc_info]


PATHS = (
    "/metrics",
    "/metrics/",
    "//metrics",
    "/audio-device/press",
    "/metrics?x=/ready",
    "/%6detrics",
    "http://localhost/metrics",
)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "DELETE", "get", "PROPFIND"])
def test_no_method_or_path_spelling_bypasses_the_scope(closed: tuple[RunningServer, str], method: str) -> None:
    server, talking = closed
    for path in PATHS:
        for key, status in (("", b"401"), (f"X-API-Key: {talking}\r\n", b"403")):
            received = talk(
                server, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}Connection: close\r\n\r\n".encode()
            )
            assert received.split()[1] == status, (method, path, received)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, str]]:
    """A server with API keys, and a key with the scope talk."""
    folder = tmp_path_factory.mktemp("data")
    key = auth.add(folder, "kitchen", ["talk"])
    with serving(settings.load([*FAKE_ENGINES, f"data={folder}"], environ={}).settings) as running:
        yield running, key


@pytest.mark.alone
def test_memory_returns_after_uploads_beyond_the_limit(tmp_path: Path) -> None:
    content = bytes(20 * MIB)

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as plain, suppress(OSError):
            plain.sendall(head(WAV, len(content)))
            plain.sendall(content)
            plain.recv(1000)

    def flood(port: int) -> None:
        threads = [threading.Thread(target=send, args=[port]) for _ in range(30)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    with process(tmp_path, 4096) as (server, port):
        flood(port)
        time.sleep(4)
        before = server.memory_info().rss
        flood(port)
        wait_until(lambda: server.memory_info().rss <= 1.1 * before)
        assert before < 400 * MIB
