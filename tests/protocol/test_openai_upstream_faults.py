"""The upstream engine against servers that reject requests, disconnect, hang, or send invalid data."""

from __future__ import annotations

import contextlib
import socket
import threading
from email.utils import formatdate

import httpx
import pytest

from chat_server import HELLO, Upstream, ask, delta, engine, error_response, events, response, stream, text
from chatapi.engines import ContextOverflow, PromptMessage, Sampling, TokenChunk
from chatapi.engines.llm.upstream_stream import ResponseHead
from chatapi.errors import Busy, EngineFailed, NotReady


def test_unreachable_server_is_reported_with_address_and_setting():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    upstream_engine = engine(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(NotReady, match=rf"127\.0\.0\.1:{port}/v1.*start that server.*openai_upstream\.url"):
        list(upstream_engine.generate(HELLO, Sampling(max_tokens=5)))
    upstream_engine.close()


def test_server_without_a_model_is_not_ready():
    with Upstream(b"", models=response(b'{"data": []}')) as upstream, pytest.raises(NotReady, match="no model yet"):
        ask(upstream)


def test_invalid_model_list_is_an_error():
    with (
        Upstream(b"", models=response(b"<html>", kind="text/html")) as upstream,
        pytest.raises(EngineFailed, match="list of models"),
    ):
        ask(upstream)


def test_rejected_key_names_the_setting():
    answer = error_response({"error": {"message": "Invalid API Key"}}, "401 Unauthorized")
    with Upstream(answer) as upstream, pytest.raises(EngineFailed, match=r"openai_upstream\.api_key"):
        ask(upstream)


UNKNOWN_MODEL = [
    pytest.param({"error": {"message": "The model `nope` does not exist.", "code": 404}}, "404 Not Found", id="vllm"),
    pytest.param({"error": {"message": 'model "nope" not found, try pulling it first'}}, "404 Not Found", id="ollama"),
    pytest.param({"object": "error", "message": "The requested model nope is not served"}, "400 Bad Request", id="mlc"),
]


@pytest.mark.parametrize(("error", "status"), UNKNOWN_MODEL)
def test_unknown_model_lists_the_available_ones(error: object, status: str):
    with Upstream(error_response(error, status)) as upstream, pytest.raises(EngineFailed, match=r"'nope'.*tiny, large"):
        ask(upstream, model="nope")


def test_missing_chat_route_differs_from_a_missing_model():
    missing = response(b"not here", "404 Not Found", kind="text/plain")
    with Upstream(missing, models=missing) as upstream, pytest.raises(EngineFailed, match="ends with /v1"):
        ask(upstream, model="nope")


def test_new_model_is_found_after_a_server_restart():
    gone = error_response({"error": {"message": "The model `old` does not exist."}}, "404 Not Found")
    with Upstream(gone) as upstream:
        upstream_engine = engine(upstream.url)
        for _ in range(2):
            with pytest.raises(EngineFailed):
                list(upstream_engine.generate(HELLO, Sampling(max_tokens=5)))
        upstream_engine.close()
        assert sum(line.startswith("GET") for line, _, _ in upstream.requests) >= 3


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_busy_server_gives_its_retry_after(status: str):
    answer = error_response({"error": {"message": "slow down"}}, status, more="Retry-After: 7\r\n")
    with Upstream(answer) as upstream, pytest.raises(Busy, match="slow down") as raised:
        ask(upstream)
    assert raised.value.retry_after == 7


@pytest.mark.parametrize("header", ["²", "Fri, 01 Jan 2999 00:00:00 GMT", "soon", "-5"])
def test_implausible_retry_after_is_ignored(header: str):
    assert ResponseHead.of(httpx.Response(429, headers={"Retry-After": header.encode()})).retry_after is None
    assert ResponseHead.of(httpx.Response(429, headers={"Retry-After": "9" * 400})).retry_after == 3600


def test_retry_after_may_be_a_date():
    answer = error_response({}, "429 Too Many Requests", more=f"Retry-After: {formatdate(0, usegmt=True)}\r\n")
    with Upstream(answer) as upstream, pytest.raises(Busy) as raised:
        ask(upstream)
    assert raised.value.retry_after == 0


def test_loading_server_is_not_ready():
    answer = error_response({"error": {"message": "Loading model", "code": 503}}, "503 Service Unavailable")
    with Upstream(answer) as upstream, pytest.raises(NotReady, match="loading"):
        ask(upstream)


OVERFLOWS = [
    pytest.param(
        {
            "object": "error",
            "message": "This model's maximum context length is 100 tokens. However, you requested 130 tokens "
            "(110 in the messages, 20 in the completion). Please reduce the length of the messages or completion.",
        },
        (130, 100),
        id="vllm",
    ),
    pytest.param(
        {"error": {"message": "max_tokens must be at least 1, got -186.", "code": 400}}, (4097, 4096), id="vllm old"
    ),
    pytest.param(
        {"object": "error", "message": "Request prompt has 354 tokens in total, larger than the model input length "
         "limit 80.", "code": 400},
        (354, 80),
        id="mlc_llm",
    ),
    pytest.param(
        {"error": {"type": "exceed_context_size_error", "message": "request (300 tokens) exceeds the available context "
         "size (256 tokens), try increasing it", "n_prompt_tokens": 300, "n_ctx": 256}},
        (320, 256),
        id="llama.cpp",
    ),
    pytest.param({"error": "input length exceeds the context length"}, (4097, 4096), id="ollama"),
    pytest.param({"error": {"message": "too long", "code": "context_length_exceeded"}}, (4097, 4096), id="openai"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "numbers"), OVERFLOWS)
def test_too_long_prompt_is_recognized_in_every_format(error: object, numbers: tuple[int, int]):
    with Upstream(error_response(error)) as upstream, pytest.raises(ContextOverflow) as raised:
        ask(upstream)
    assert (raised.value.needed, raised.value.context) == numbers


def test_error_within_the_stream_is_reported():
    error = {"object": "error", "message": "Request prompt has 354 tokens, larger than the model input length limit 80"}
    with Upstream(stream(events(error))) as upstream, pytest.raises(ContextOverflow):
        ask(upstream)


def test_surely_too_long_prompt_is_not_sent():
    with Upstream(b"") as upstream:
        upstream_engine = engine(upstream.url, context=256)
        with pytest.raises(ContextOverflow) as raised:
            list(upstream_engine.generate([PromptMessage("user", "word " * 1000)], Sampling(max_tokens=6)))
        upstream_engine.close()
        assert upstream.requests == []
    assert raised.value.needed == 1250 + 4 + 6


def test_other_errors_are_forwarded_with_their_message():
    with (
        Upstream(response(b"CUDA out of memory", "500 Oops", kind="text/plain")) as upstream,
        pytest.raises(EngineFailed, match="500: CUDA out of memory"),
    ):
        ask(upstream)


def pieces_until_failure(upstream: Upstream, **table: object) -> tuple[list[TokenChunk], EngineFailed]:
    upstream_engine = engine(upstream.url, **table)
    received: list[TokenChunk] = []
    with pytest.raises(EngineFailed) as raised:
        received.extend(upstream_engine.generate(HELLO, Sampling(max_tokens=20)))
    upstream_engine.close()
    return received, raised.value


def test_truncated_answer_is_an_error_after_its_text():
    with Upstream(stream(events(delta("Half"), done=False))) as upstream:
        received, error = pieces_until_failure(upstream)
    assert text(received) == "Half"
    assert "disconnected after 1 chunks" in error.message


def test_connection_reset_is_an_error():
    def reset(connection: socket.socket) -> None:
        half = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall(half + events(delta("Half"), done=False))

    with Upstream(reset) as upstream:
        received, error = pieces_until_failure(upstream)
    assert text(received) == "Half"
    assert "disconnected" in error.message


@pytest.mark.parametrize("noise", [b"", b": still here\n\n"])
def test_silent_server_times_out(noise: bytes):
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        connection.sendall(stream(events(delta("One"), done=False)))
        connection.settimeout(0.02)
        with contextlib.suppress(OSError):
            while not over.is_set():
                connection.sendall(noise)
                over.wait(0.02)

    with Upstream(silent) as upstream:
        received, error = pieces_until_failure(upstream, timeout=1)
        over.set()
    assert text(received) == "One"
    assert "sent nothing for 1 seconds" in error.message


@pytest.mark.parametrize("body", [b"data: nonsense\n\n", b"data: 5\n\n", b"data: " + b"x" * 3_000_000])
def test_invalid_events_are_an_error(body: bytes):
    with Upstream(stream(body)) as upstream, pytest.raises(EngineFailed, match="event"):
        ask(upstream)


@pytest.mark.parametrize("before", [b"", stream(b""), stream(events(delta("One"), done=False))])
def test_stop_closes_the_connection_of_a_silent_server(before: bytes):
    arrived, closed = threading.Event(), threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.sendall(before)
        arrived.set()
        connection.settimeout(30)
        if connection.recv(1) == b"":
            closed.set()

    with Upstream(wait) as upstream:
        upstream_engine = engine(upstream.url, model="tiny")
        pieces = list(upstream_engine.generate(HELLO, Sampling(max_tokens=20), arrived.is_set))
        assert closed.wait(60)
        upstream_engine.close()
    assert all(piece.finish_reason is None for piece in pieces)


def test_early_exit_closes_the_connection():
    closed = threading.Event()

    def endless(connection: socket.socket) -> None:
        connection.sendall(stream(b""))
        try:
            while True:
                connection.sendall(events(delta("word "), done=False))
        except OSError:
            closed.set()

    with Upstream(endless) as upstream:
        upstream_engine = engine(upstream.url, model="tiny")
        answer = upstream_engine.generate(HELLO, Sampling(max_tokens=20))
        assert next(answer).text == "word "
        answer.close()
        assert closed.wait(60)
        upstream_engine.close()
