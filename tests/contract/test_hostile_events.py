"""Hostile events over WebSockets and Wyoming: their memory is bounded, and other clients are not delayed."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import websockets.exceptions
import websockets.sync.client

from chatapi.errors import ChatapiError
from chatapi.interfaces.http.realtime import client_events
from chatapi.interfaces.http.realtime.session_config import SessionConfig
from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, serving
from realtime_client import raw, receive_event
from test_bad_input import wait_until
from test_bytes_in_flight import HANDSHAKE

pytestmark = pytest.mark.anyio
LONG = "9" * 400
MIB = 1 << 20


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


METADATA = {str(number): "x" for number in range(17)}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (event("session.update", session={"tools": [0] * 4_000_000}), "too_many_values"),
        (event("session.update", session={"noise_reduction": {"type": "x" * MIB}}), "event_too_large"),
        (event("response.create", response={"metadata": {"a": "x" * MIB}}), "event_too_large"),
        ('{"type": "session.update", "session": {"tracing": {"a": ' + "[" * 100 + "]" * 100 + "}}}", "invalid_json"),
        (event("response.create", response={"metadata": METADATA}), "invalid_value"),
        (event("response.create", response={"metadata": {"a": "x" * 513}}), "invalid_value"),
        (event("response.create", response={"metadata": {"x" * 65: "a"}}), "invalid_value"),
        (event("conversation.item.create", item={"type": "function_call_output", "call_id": "a",
                                                 "output": "x" * 100_001}), "invalid_value"),
        (event("conversation.item.retrieve", item_id="x" * 1000), "invalid_value"),
        (event("input_audio_buffer.append", audio="!" * (12 * MIB)), "invalid_audio"),
        ('{"type": "chatapi.played", "audio_end_ms": ' + LONG + "}", "invalid_value"),
        ('{"type": "chatapi.played", "audio_end_ms": -1}', "invalid_value"),
        ('{"type": "chatapi.played", "audio_end_ms": 1e308}', "invalid_value"),
        ('{"type": "chatapi.played", "audio_end_ms": 1e999}', "invalid_value"),
        ('{"type": "chatapi.played", "audio_end_ms": NaN}', "invalid_json"),
        ('{"type": "chatapi.played", "audio_end_ms": Infinity}', "invalid_json"),
        ('{"type": "chatapi.played", "audio_end_ms": "' + LONG + '"}', "invalid_value"),
        ('{"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": ' + LONG + "}",
         "invalid_value"),
        ('{"type": "session.update", "session": {"audio": {"output": {"speed": ' + LONG + "}}}}", "invalid_value"),
        ('{"type": "session.update", "session": {"max_output_tokens": ' + LONG + "}}", "invalid_value"),
    ],
    ids=range(20),
)  # fmt: skip
async def test_oversized_events_are_rejected_and_the_session_continues(
    shared_server: RunningServer, sent: str, code: str
) -> None:
    async with raw(shared_server) as plain:
        await plain.send(sent)
        assert (await receive_event(plain, "error"))["error"]["code"] == code
        await plain.send(event("input_audio_buffer.clear"))
        await receive_event(plain, "input_audio_buffer.cleared")


def test_every_number_of_every_event_has_an_upper_bound() -> None:
    unbounded = []

    def check_schema(name: str, schema: Any) -> None:
        if isinstance(schema, list):
            for each in schema:
                check_schema(name, each)
        elif isinstance(schema, dict):
            if schema.get("type") in ("integer", "number") and "maximum" not in schema and "const" not in schema:
                unbounded.append(name)
            for key, value in schema.items():
                check_schema(f"{name}.{key}", value)

    for model in {SessionConfig, *client_events.EVENTS.values()}:
        check_schema(model.__name__, model.model_json_schema())
    assert unbounded == []


def test_every_text_except_audio_has_an_upper_bound() -> None:
    unbounded = []

    def check_schema(name: str, schema: Any) -> None:
        if isinstance(schema, list):
            for each in schema:
                check_schema(name, each)
        elif isinstance(schema, dict):
            free = schema.get("type") == "string" and not {"maxLength", "enum", "const", "pattern"} & set(schema)
            if free and not name.endswith((".type", "Append.properties.audio", "Content.properties.audio")):
                unbounded.append(name)
            for key, value in schema.items():
                check_schema(f"{name}.{key}", value)

    for model in {SessionConfig, *client_events.EVENTS.values()}:
        check_schema(model.__name__, model.model_json_schema())
    assert unbounded == []


async def test_unlimited_items_are_rejected_before_they_fill_the_memory(shared_server: RunningServer) -> None:
    text = {"type": "input_text", "text": "x" * 20_000}
    async with raw(shared_server) as plain:
        for _ in range(8):
            item = {"type": "message", "role": "user", "content": [text] * 10}
            await plain.send(event("conversation.item.create", item=item))
        assert (await receive_event(plain, "error"))["error"]["code"] == "conversation_too_large"


@contextmanager
def raw_websocket(server: RunningServer) -> Iterator[socket.socket]:
    """A raw WebSocket connection after its handshake."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain:
        plain.sendall(f"GET /v1/realtime HTTP/1.1\r\n{lines}\r\n".encode())
        received = b""
        while b"session.created" not in received:
            received += plain.recv(65536)
        yield plain


def frame(opcode: int, size: int, fin: bool = True) -> bytes:
    """The header of a client's frame, with a mask of zeros."""
    first = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        return first + bytes([0x80 | size]) + bytes(4)
    if size < 65536:
        return first + b"\xfe" + struct.pack(">H", size) + bytes(4)
    return first + b"\xff" + struct.pack(">Q", size) + bytes(4)


def closed_with(plain: socket.socket) -> int:
    """The code of the close frame that ends the connection."""
    received = b""
    try:
        while data := plain.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    at = received.rindex(b"\x88")
    return int.from_bytes(received[at + 2 : at + 4], "big")


@pytest.mark.parametrize(
    "frames",
    [frame(9, 0) * 20_000, frame(1, 1, fin=False) + b"x" + (frame(0, 1, fin=False) + b"x") * 20_000],
    ids=["pings", "fragments"],
)
def test_many_tiny_frames_close_the_connection(shared_server: RunningServer, frames: bytes) -> None:
    with raw_websocket(shared_server) as plain:
        with suppress(BrokenPipeError, ConnectionResetError):
            plain.sendall(frames)
        assert closed_with(plain) == 1008
    assert shared_server.client.get("/ready").status_code == 200


def test_incomplete_message_times_out(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.body_seconds=0.5")) as server, raw_websocket(server) as plain:
        plain.sendall(frame(1, 10 * MIB) + bytes(MIB))
        wait_until(lambda: server.appliance.byte_budget.held > MIB // 2)
        assert closed_with(plain) == 1008
        wait_until(lambda: server.appliance.byte_budget.held == 0)


def test_messages_beyond_the_byte_budget_are_rejected(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings(f"limits.inflight_bytes={2 * MIB}")) as server, raw_websocket(server) as plain:
        with suppress(BrokenPipeError, ConnectionResetError):
            plain.sendall(frame(1, 10 * MIB) + bytes(10 * MIB))
        assert closed_with(plain) == 1013
        wait_until(lambda: server.appliance.byte_budget.held == 0)


def test_frames_before_the_handshake_response_are_ignored(
    shared_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    with socket.create_connection(("127.0.0.1", shared_server.port), TIMEOUT) as plain:
        plain.sendall(f"GET /v1/realtime HTTP/1.1\r\n{lines}\r\n".encode() + b"\xff" * 5000)
        plain.sendall(b"\xff" * 5000)
        time.sleep(0.1)
    assert shared_server.client.get("/ready").status_code == 200
    wait_until(lambda: shared_server.appliance.live.sessions == 0)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.alone
def test_hostile_events_do_not_block_the_event_loop(shared_server: RunningServer) -> None:
    """Each of these events could block the event loop for seconds."""
    sent = [
        event("session.update", session={"tools": [{"a": [0] * 50}] * 60_000}),
        event("session.update", session={"tools": [0] * 9_000, "include": ["x"] * 10_000}),
        event("input_audio_buffer.append", audio=base64.b64encode(bytes(8 * MIB)).decode()),
        event("session.update", session={"instructions": "\\n" * 5_000_000}),
    ]
    worst = {text[:60]: _lag(shared_server, text) for text in sent}
    print({name: f"{late:.3f}" for name, late in worst.items()})
    assert max(worst.values()) < 1.0


def _lag(server: RunningServer, text: str) -> float:
    """The longest delay of a request while this event was processed, in seconds."""
    import threading

    late, done = [0.0], threading.Event()

    def probe() -> None:
        while not done.is_set():
            started = time.monotonic()
            server.client.get("/ready")
            late.append(time.monotonic() - started)

    thread = threading.Thread(target=probe)
    with websockets.sync.client.connect(f"ws://127.0.0.1:{server.port}/v1/realtime", max_size=None) as plain:
        plain.recv()
        thread.start()
        plain.send(text)
        plain.send(event("input_audio_buffer.clear"))
        while json.loads(plain.recv(TIMEOUT))["type"] != "input_audio_buffer.cleared":
            pass
    done.set()
    thread.join()
    return max(late)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 1000, '{"a":' * 1000, "NaN", "1e999"])
def test_invalid_json_is_rejected(text: str) -> None:
    with pytest.raises(ChatapiError):
        client_events.parse_json(text)


def test_text_frame_that_is_not_utf8_closes_only_its_connection(
    shared_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        with websockets.sync.client.connect(shared_server.url.replace("http", "ws") + "/v1/realtime") as client:
            client.send(event("response.create", response={"instructions": "Say much."}))
            client.socket.sendall(b"\x81\x82\0\0\0\0\xff\xfe")
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
                while True:
                    client.recv(TIMEOUT)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1007
    assert shared_server.client.get("/ready").status_code == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("wanted", ["bytes=5-1", "bytes=", "bytes=9999999-", "bytes=0-4,-1", "x"])
@pytest.mark.parametrize("path", ["/", "/page/app.js"])
def test_range_header_for_a_page_file_is_no_error(shared_server: RunningServer, path: str, wanted: str) -> None:
    whole = shared_server.client.get(path)
    assert whole.headers["cache-control"] == "no-cache"
    part = shared_server.client.get(path, headers={"range": wanted})
    assert (part.status_code, part.content) == (200, whole.content)
