"""The Python client against other servers, failing servers and arbitrary bytes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import hypothesis
import pytest
from hypothesis import strategies as st

from chatapi.client import (
    AsyncClient,
    Client,
    ClientError,
    EndEvent,
    wire,
)
from chatapi.client.sse import LONGEST, EventParser
from test_client import client_error


@contextmanager
def replying(*replies: bytes, reset: bool = False) -> Iterator[str]:
    """A server that reads a request and sends one of these replies on each connection, then disconnects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            listening.settimeout(20)
            for reply in replies:
                with suppress(OSError), listening.accept()[0] as connection:
                    connection.settimeout(20)
                    connection.recv(65536)
                    if reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    connection.sendall(reply)
                    if not reset:
                        # Unread data would make the system reset the connection.
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join(60)
            assert not thread.is_alive()


def http(body: bytes, media_type: str = "application/json", status: int = 200, *more: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *more)
    return "\r\n".join((*lines, "", "")).encode() + body


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"", "broken_off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not_chatapi"),
        (http(b"<h1>Please sign in</h1>", "text/html"), "not_chatapi"),
        (http(b"{}"), "not_chatapi"),
        (http(b"[" * 100_000), "not_chatapi"),
        (http(b'{"conversation": 5}'), "not_chatapi"),
        (http(b"\xff\xfe", status=500), "not_chatapi"),
        (http(b"Bad gateway", "text/html", 502), "not_chatapi"),
        (http(b'"a"', "application/problem+json", 400), "not_chatapi"),
        (http(b"", "text/html", 302, "Location: http://evil.example/"), "not_chatapi"),
        (http(b"{}")[:-1], "broken_off"),
        (http(b"\x1f\x8b\x08", "application/json", 200, "Content-Encoding: gzip"), "not_chatapi"),
        (http(b"x" * (17 << 20)), "not_chatapi"),
        (http(b'{"code": "busy", "detail": "later"}', "application/problem+json", 503, "Retry-After: 7"), "busy"),
    ],
    ids=range(14),
)
def test_response_of_another_server_is_reported(reply: bytes, code: str) -> None:
    with replying(reply) as url, Client(url) as client:
        error = client_error(lambda: client.completion("hello"))
        assert error.code == code
        assert code != "busy" or (error.status, error.retry_after) == (503, 7)


START = b'event: start\ndata: {"id": "a", "conversation": "c1"}\n\n'


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("events", "code"),
    [
        (b"", "broken_off"),
        (START, "broken_off"),
        (START + b"event: delta\ndata: {}\n\n", "not_chatapi"),
        (START + b"event: delta\ndata: nonsense\n\n", "not_chatapi"),
        (START + b"event: delta\ndata: \xff\n\n", "not_chatapi"),
        (START + b'event: speech\ndata: {"audio": "!", "rate": 1, "text": ""}\n\n', "not_chatapi"),
        (START + b'event: error\ndata: {"status": 1e999}\n\n', "not_chatapi"),
        (START + b'event: error\ndata: {"status": 503, "code": "busy", "detail": "later"}\n\n', "busy"),
        (START + b"data: " + b"x" * (LONGEST + 1), "not_chatapi"),
        (START + (b"data: " + b"x" * 65536 + b"\n") * 129, "not_chatapi"),
    ],
    ids=range(10),
)
async def test_invalid_events_end_the_answer(events: bytes, code: str) -> None:
    reply = http(events, "text/event-stream")
    with replying(reply, reply) as url:
        with Client(url) as client, client.stream("hello") as stream:
            assert client_error(lambda: list(stream)).code == code
        async with AsyncClient(url) as client:
            with pytest.raises(ClientError) as raised:
                async with client.stream("hello") as stream:
                    async for _ in stream:
                        pass
            assert raised.value.code == code


def test_server_that_ends_during_an_answer_is_reported() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    for reset in (False, True):
        reply = (head % b"text/event-stream") + b"%x\r\n%s\r\n" % (len(START), START)
        with replying(reply, reset=reset) as url, Client(url) as client:
            with pytest.raises(ClientError) as raised, client.stream("hello") as events:
                list(events)
            assert raised.value.code == "broken_off" and raised.value.status is None
    with (
        replying((head % b"audio/wav") + b"4\r\nRIFF\r\n") as url,
        Client(url) as client,
        client.wav("hello") as pieces,
    ):
        assert next(pieces) == b"RIFF"
        assert client_error(lambda: next(pieces)).code == "broken_off"
    assert client_error(lambda: Client(url).ready()).code == "unreachable"


def test_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.2) as client:
            assert client_error(client.ready).code == "timed_out"


@hypothesis.given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
@hypothesis.example(START, [1] * 20)
def test_any_bytes_are_events_or_an_error(content: bytes, cuts: list[int]) -> None:
    events, parsed = EventParser(), []
    try:
        for size in (*cuts, len(content)):
            parsed += list(events.feed(content[:size]))
            content = content[size:]
        events.close()
    except ClientError as error:
        assert error.code in ("not_chatapi", "broken_off")
    else:
        assert isinstance(parsed[-1], EndEvent)


@hypothesis.given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["usage", "timings", "transcript", "models", "voices", "code"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_document_is_read_or_rejected(document: object) -> None:
    body = json.dumps(document).encode()
    for read in (wire.completion, wire.models, wire.voices, wire.messages):
        with suppress(ClientError):
            assert read(body) is not None
    assert wire.error_response(500, {}, body).code
