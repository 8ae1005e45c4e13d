"""Connections to `/v1/realtime`: authentication, limits, invalid events, and slow, idle or disconnected clients."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import httpx
import pytest
import websockets
from websockets.asyncio.client import connect

from chatapi.interfaces.http.realtime.audio_format import encode_audio
from chatapi.settings import Settings
from conftest import RunningServer, serving, until
from realtime_client import Event, raw, receive_event, silence, speech, talking

pytestmark = pytest.mark.anyio


async def test_random_client_behaviour_leaks_nothing(fake_settings: Callable[..., Settings]) -> None:
    chance, received = random.Random(5), {"error": 0}
    acts: Sequence[Event] = [
        *[
            {"type": "input_audio_buffer.append", "audio": encode_audio(sound, "audio/pcm")}
            for sound in (speech(0.3), silence(0.5))
        ]
        * 2,
        {"type": "input_audio_buffer.commit"},
        {"type": "response.create"},
        {"type": "response.cancel"},
        {"type": "output_audio_buffer.clear"},
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
    ]

    async def act(server: RunningServer) -> None:
        async with raw(server) as plain:
            for _ in range(chance.randrange(12)):
                await plain.send(json.dumps(chance.choice(acts)))
                with anyio.move_on_after(chance.random() * 0.05):
                    received["error"] += (await receive_event(plain, "error"))["type"] == "error"
            if chance.random() < 0.7:
                plain.transport.abort()

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    with serving(fake_settings("live.sessions=8", "fake.delay=0.01")) as server:
        before = server.run(tasks)
        for _ in range(4):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(act, server)
            await until(lambda: server.appliance.live.sessions == 0)
        await until(lambda: all(worker.admission.used == 0 for worker in server.appliance.engines.all()))
        await until(lambda: server.run(tasks) == before)
    assert received["error"]


async def test_session_beyond_the_limit_is_rejected(shared_server: RunningServer) -> None:
    async with talking(shared_server) as one, talking(shared_server) as two:
        async with talking(shared_server) as third:
            assert third.events[0]["error"]["code"] == "too_many_sessions"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await third.until("nothing")
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
        for client in (one, two):
            await client.write("hello")
        for client in (one, two):
            await client.send("response.create")
        for client in (one, two):
            assert (await client.until("response.done"))["response"]["status"] == "completed"
    await until(lambda: shared_server.appliance.live.sessions == 0)


async def test_api_key_is_required(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.api_key=secret")) as server:
        async with talking(server, key="secret") as client:
            assert client.types == ["session.created"]
        async with raw(server, subprotocols=["realtime", "openai-insecure-api-key.secret"]) as plain:
            assert plain.subprotocol == "realtime"
            await receive_event(plain, "session.created")
        async with raw(server, additional_headers={"X-Api-Key": "secret"}) as plain:
            await receive_event(plain, "session.created")
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(websockets.InvalidStatus) as raised:
                async with raw(server, additional_headers=headers):
                    pass
            assert raised.value.response.status_code == 401
            assert json.loads(raised.value.response.body or b"")["error"]["code"] == "unauthorized"


async def test_api_key_with_spaces_is_percent_encoded(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.api_key=a long (one)")) as server:
        async with raw(server, subprotocols=["realtime", "openai-insecure-api-key.a%20long%20%28one%29"]) as plain:
            await receive_event(plain, "session.created")


@pytest.mark.parametrize(("host", "origin"), [("127.0.0.1", "http://evil.example"), ("evil.example", None)])
async def test_foreign_origins_are_rejected(shared_server: RunningServer, host: str, origin: Any) -> None:
    uri = f"ws://{host}:{shared_server.port}/v1/realtime"
    with pytest.raises(websockets.InvalidStatus) as raised:
        async with connect(uri, host="127.0.0.1", port=shared_server.port, origin=origin):
            pass
    assert raised.value.response.status_code == 403


async def test_unknown_model_is_rejected_and_openai_names_are_accepted(shared_server: RunningServer) -> None:
    async with talking(shared_server, model="gpt-realtime-2.1") as client:
        assert client.events[0]["session"]["model"] == "gpt-realtime-2.1"
    async with talking(shared_server, model="llama-9000") as client:
        assert client.events[0]["error"]["code"] == "model_not_found"


async def test_session_waits_for_the_models(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings(), load=False) as server:
        async with raw(server) as plain:
            server.portal.start_task_soon(server.appliance.load)
            await receive_event(plain, "session.created")
    monkeypatch.setattr("chatapi.interfaces.http.realtime.session_requests.READY_SECONDS", 0.1)
    with serving(fake_settings(), load=False) as server:
        async with raw(server) as plain:
            assert (await receive_event(plain, "error"))["error"]["code"] == "not_ready"


GARBAGE: Sequence[tuple[str | bytes, str]] = (
    ("", "invalid_json"),
    ('{"type": "response.cre', "invalid_json"),
    ("[]", "invalid_json"),
    ("[" * 10_000, "invalid_json"),
    ("[" * 100_000, "too_many_values"),
    ('{"type": "\\ud800"}', "invalid_json"),
    ('{"type": NaN}', "invalid_json"),
    (b"\x00\x01\x02", "binary_frame"),
    ("{}", "invalid_value"),
    ('{"type": 7, "event_id": []}', "invalid_value"),
    ('{"type": "response.dance"}', "invalid_value"),
    ('{"type": "response.create", "respons": 1}', "unknown_parameter"),
    ('{"type": "input_audio_buffer.append"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_audio"),
    ('{"type": "input_audio_buffer.append", "audio": "ö"}', "invalid_audio"),
    ('{"type": "session.update", "session": {"tools": [{"type": "function"}]}}', "invalid_value"),
    ('{"type": "session.update", "session": {"audio": {"input": {"turn_detections": 1}}}}', "unknown_parameter"),
    ('{"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}}', "unknown_voice"),
    ('{"type": "session.update", "session": {"audio": {"output": {"speed": 2}}}}', "invalid_value"),
    ('{"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": "tlh"}}}}}',
     "unknown_language"),
    ('{"type": "session.update", "session": {"type": "dictation"}}', "invalid_value"),
    ('{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1}',
     "item_truncate_invalid_item_id"),
    ('{"type": "conversation.item.create", "item": {"type": "function_call"}}', "invalid_value"),
)  # fmt: skip


async def test_invalid_events_get_errors_and_the_session_continues(shared_server: RunningServer) -> None:
    async with raw(shared_server) as plain:
        for text, code in GARBAGE:
            await plain.send(text)
            assert (await receive_event(plain, "error"))["error"]["code"] == code, text[:80]
        document = {"type": "session.update", "session": {"tools": [1]}, "event_id": "here"}
        await plain.send(json.dumps(document))
        error = (await receive_event(plain, "error"))["error"]
        assert (error["event_id"], error["param"], error["type"]) == (
            "here",
            "session.tools.0",
            "invalid_request_error",
        )
        await plain.send(json.dumps({"type": "response.create"}))
        assert (await receive_event(plain, "response.done"))["response"]["status"] == "completed"


async def test_server_shutdown_closes_sessions(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings()) as server:
        plain = await connect(f"ws://127.0.0.1:{server.port}/v1/realtime")
        await receive_event(plain, "session.created")
    # The event loop of this client stood still, so that it has not answered the close.
    error = json.loads(await plain.recv())["error"]
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await plain.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    assert error["code"] == "shutting_down"
    await plain.wait_closed()


async def test_huge_message_closes_only_its_connection(shared_server: RunningServer) -> None:
    async with talking(shared_server) as other:
        async with raw(shared_server) as plain:
            await receive_event(plain, "session.created")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await plain.send("x" * (17 << 20))
                await receive_event(plain, "nothing")
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
        await until(lambda: shared_server.appliance.live.sessions == 1)
        await other.write("still here")


async def test_audio_beyond_the_limit_is_rejected(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("limits.audio_seconds=1")) as server:
        async with talking(server) as client:
            await client.detect(None)
            await client.say(silence(0.9))
            await client.say(silence(0.9))
            assert (await client.until("error"))["error"]["code"] == "input_audio_buffer_full"
            await client.send("input_audio_buffer.commit")
            await client.until("input_audio_buffer.committed")


async def test_idle_client_is_closed_by_the_idle_timeout_only(
    fake_settings: Callable[..., Settings],
) -> None:
    idle = 3.0
    with serving(fake_settings(f"live.idle_seconds={idle}", "server.body_seconds=0.2")) as server:
        async with raw(server) as plain:
            await receive_event(plain, "session.created")
            await anyio.sleep(1)
            active = time.monotonic()
            await plain.send(json.dumps({"type": "input_audio_buffer.clear"}))
            await receive_event(plain, "input_audio_buffer.cleared")
            assert (await receive_event(plain, "error"))["error"]["code"] == "session_idle"
            assert time.monotonic() - active > idle * 0.9, "the event began a new wait"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await plain.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
        await until(lambda: server.appliance.live.sessions == 0)


@pytest.mark.parametrize("moment", ["created", "speaking", "answered"])
async def test_disconnected_client_leaks_nothing(slow_server: RunningServer, moment: str) -> None:
    async with raw(slow_server) as plain:
        await receive_event(plain, "session.created")
        if moment == "speaking":
            audio = encode_audio(speech(1.0), "audio/pcm")
            await plain.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await receive_event(plain, "input_audio_buffer.speech_started")
        elif moment == "answered":
            await plain.send(json.dumps({"type": "response.create"}))
            await receive_event(plain, "response.output_audio_transcript.delta")
        assert slow_server.appliance.live.sessions == 1
        plain.transport.abort()
        await until(lambda: slow_server.appliance.live.sessions == 0)
    await until(lambda: all(worker.admission.used == 0 for worker in slow_server.appliance.engines.all()))


async def test_stalled_client_is_disconnected(fake_settings: Callable[..., Settings]) -> None:
    many = "one two three four five six seven eight nine ten " * 300
    with serving(fake_settings("server.send_seconds=0.5", "llm.max_tokens=9000", "llama_cpp.context=20000")) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await anyio.to_thread.run_sync(_send_without_reading, plain, many)
            await until(lambda: server.appliance.live.sessions == 1)
            await until(lambda: server.appliance.live.sessions == 0)


def _send_without_reading(plain: socket.socket, text: str) -> None:
    lines = (
        "GET /v1/realtime HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(b'0' * 16).decode()}", "", "",
    )  # fmt: skip
    plain.sendall("\r\n".join(lines).encode())
    # Frames may follow only after the handshake response.
    assert plain.recv(12) == b"HTTP/1.1 101"
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
        body = json.dumps(event).encode()
        size = bytes([0xFE]) + len(body).to_bytes(2, "big") if len(body) > 125 else bytes([0x80 | len(body)])
        plain.sendall(b"\x81" + size + b"\0\0\0\0" + body)


def test_plain_http_request_is_not_found(shared_server: RunningServer) -> None:
    assert httpx.get(f"{shared_server.url}/v1/realtime").status_code == 404
