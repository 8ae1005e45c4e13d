"""The upstream engine against servers that behave, servers that do not, and a real llama.cpp server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from conftest import model

from chatapi.engines import ContextOverflow, Message, Piece, Sampling, Usage
from chatapi.engines.openai_upstream import OpenAIUpstream
from chatapi.errors import Busy, EngineFailed, NotReady, SettingsFault
from chatapi.settings import OpenAIUpstream as Table
from chatapi.settings import Settings

HELLO = [Message("system", "Be brief."), Message("user", "Hello")]
Script = Callable[[socket.socket], None]


def response(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def events(*data: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(item)}\n\n" for item in data]
    return "".join([*lines, "data: [DONE]\n\n"] if done else lines).encode()


def delta(text: str, reason: str | None = None) -> dict[str, object]:
    return {"object": "chat.completion.chunk", "choices": [{"delta": {"content": text}, "finish_reason": reason}]}


def stream(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body


class Upstream:
    """A server that plays back bytes: to a chat the script's, to anything else its list of models."""

    def __init__(self, script: bytes | Script, models: bytes | None = None) -> None:
        self._script = script
        self._models = models or response(json.dumps({"data": [{"id": "tiny"}, {"id": "large"}]}).encode())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    def __enter__(self) -> Upstream:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def chats(self) -> list[dict[str, object]]:
        return [json.loads(body) for line, _, body in self.requests if line.startswith("POST")]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            line = file.readline().decode().strip()
            headers = {}
            while (field := file.readline().decode().strip()) != "":
                name, _, value = field.partition(": ")
                headers[name.lower()] = value
            self.requests.append((line, headers, file.read(int(headers.get("content-length", 0)))))
            answer = self._script if line.startswith("POST") else self._models
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)


def engine(url: str, **table: object) -> OpenAIUpstream:
    return OpenAIUpstream(Settings(openai_upstream=Table(url=url, **table)), [])


def ask(upstream: Upstream, sampling: Sampling | None = None, **table: object) -> list[Piece]:
    asked = engine(upstream.url, **table)
    try:
        return list(asked.generate(HELLO, sampling or Sampling(max_tokens=20)))
    finally:
        asked.close()


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def refusal(error: object, status: str = "400 Bad Request", more: str = "") -> bytes:
    return response(json.dumps(error).encode(), status, more=more)


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}},
}


def test_the_answer_comes_in_pieces_with_reason_and_usage():
    with Upstream(stream(events(delta("Hi"), delta(" there"), delta("", "stop"), USAGE))) as upstream:
        assert ask(upstream) == [Piece("Hi"), Piece(" there"), Piece("", "stop", Usage(9, 2, 5))]


def test_the_request_says_everything_the_caller_asked_for():
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        ask(upstream, Sampling(7, 0.5, seed=3, stop_texts=("END",)), model="large", api_key="s3cret")
        [(line, headers, _)] = upstream.requests
        [chat] = upstream.chats()
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "Bearer s3cret"
    assert (chat["model"], chat["max_tokens"], chat["temperature"], chat["seed"], chat["stop"]) == (
        "large",
        7,
        0.5,
        3,
        ["END"],
    )
    assert chat["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_nothing_that_was_not_asked_for_is_sent():
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        ask(upstream)
        assert {"seed", "stop"}.isdisjoint(upstream.chats()[0])
        assert all("authorization" not in headers for _, headers, _ in upstream.requests)


def test_the_first_model_that_is_served_is_asked_for_when_none_is_set_and_looked_up_once():
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        asked = engine(upstream.url)
        for _ in range(2):
            list(asked.generate(HELLO, Sampling(max_tokens=5)))
        asked.close()
        assert [chat["model"] for chat in upstream.chats()] == ["tiny", "tiny"]
        assert len(upstream.requests) == 3


def test_the_server_need_not_be_up_when_the_engine_is_built():
    engine("http://127.0.0.1:9/v1").close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "", "ftp://box/v1", "http://"])
def test_an_address_that_is_none_is_refused_by_name(url: str):
    with pytest.raises(SettingsFault, match=r"openai_upstream\.url"):
        engine(url)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_events_may_be_cut_anywhere_and_carry_any_text(size: int):
    body = events(delta("Zoë "), delta("日本語 🙂"), delta("", "stop")).replace(b"\\u65e5", "日".encode())

    def trickle(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(stream(b""))
        for start in range(0, len(body), size):
            connection.sendall(body[start : start + size])

    with Upstream(trickle) as upstream:
        assert text(ask(upstream)) == "Zoë 日本語 🙂"


def test_separators_that_python_takes_for_line_ends_stay_within_their_event():
    body = json.dumps(delta("a\u2028b\x85c", "stop"), ensure_ascii=False)
    with Upstream(stream(f"data: {body}\r\n\r\ndata: [DONE]\r\n\r\n".encode())) as upstream:
        assert text(ask(upstream)) == "a\u2028b\x85c"


def test_comments_other_fields_and_events_of_several_lines_are_read():
    body = (
        b': ping\n\nevent: x\nid: 4\ndata: {"choices":\ndata:[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    )
    with Upstream(stream(body + b": ping\n\n")) as upstream:
        assert text(ask(upstream)) == "Hi"


def test_usage_is_counted_in_pieces_when_the_server_does_not_tell():
    with Upstream(stream(events(delta("a"), delta("b", "length")))) as upstream:
        assert ask(upstream)[-1] == Piece("", "length", Usage(completion_tokens=2))


def test_a_missing_reason_is_forgiven_when_the_end_is_marked():
    with Upstream(stream(events(delta("a")))) as upstream:
        assert ask(upstream)[-1].finish_reason == "stop"


def test_thoughts_roles_and_half_characters_are_not_part_of_the_answer():
    thought = {"choices": [{"delta": {"role": "assistant", "reasoning_content": "hmm", "content": None}}]}
    with Upstream(stream(events(thought, delta("ok\ufffd", "stop")))) as upstream:
        assert text(ask(upstream)) == "ok"


def test_an_answer_that_comes_at_once_is_taken_too():
    whole = {
        "choices": [{"message": {"content": "All of it."}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3},
    }
    with Upstream(response(json.dumps(whole).encode())) as upstream:
        assert ask(upstream) == [Piece("All of it.", "length", Usage(1, 3))]


def test_no_server_is_said_with_its_address_and_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    asked = engine(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(NotReady, match=rf"127\.0\.0\.1:{port}/v1.*start that server.*openai_upstream\.url"):
        list(asked.generate(HELLO, Sampling(max_tokens=5)))
    asked.close()


def test_a_server_without_a_model_is_not_ready():
    with Upstream(b"", models=response(b'{"data": []}')) as upstream, pytest.raises(NotReady, match="no model yet"):
        ask(upstream)


def test_a_list_of_models_that_is_none_is_an_error():
    with (
        Upstream(b"", models=response(b"<html>", kind="text/html")) as upstream,
        pytest.raises(EngineFailed, match="list of models"),
    ):
        ask(upstream)


def test_a_refused_key_names_the_setting():
    answer = refusal({"error": {"message": "Invalid API Key"}}, "401 Unauthorized")
    with Upstream(answer) as upstream, pytest.raises(EngineFailed, match=r"openai_upstream\.api_key"):
        ask(upstream)


UNKNOWN_MODEL = [
    pytest.param({"error": {"message": "The model `nope` does not exist.", "code": 404}}, "404 Not Found", id="vllm"),
    pytest.param({"error": {"message": 'model "nope" not found, try pulling it first'}}, "404 Not Found", id="ollama"),
    pytest.param({"object": "error", "message": "The requested model nope is not served"}, "400 Bad Request", id="mlc"),
]


@pytest.mark.parametrize(("error", "status"), UNKNOWN_MODEL)
def test_a_model_that_is_not_there_is_answered_with_those_that_are(error: object, status: str):
    with Upstream(refusal(error, status)) as upstream, pytest.raises(EngineFailed, match=r"'nope'.*tiny, large"):
        ask(upstream, model="nope")


def test_an_address_without_a_chat_is_told_apart_from_a_missing_model():
    missing = response(b"not here", "404 Not Found", kind="text/plain")
    with Upstream(missing, models=missing) as upstream, pytest.raises(EngineFailed, match="goes up to /v1"):
        ask(upstream, model="nope")


def test_another_model_is_found_after_the_server_was_restarted_with_it():
    gone = refusal({"error": {"message": "The model `old` does not exist."}}, "404 Not Found")
    with Upstream(gone) as upstream:
        asked = engine(upstream.url)
        for _ in range(2):
            with pytest.raises(EngineFailed):
                list(asked.generate(HELLO, Sampling(max_tokens=5)))
        asked.close()
        assert sum(line.startswith("GET") for line, _, _ in upstream.requests) >= 3


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_too_much_to_do_is_busy_for_as_long_as_the_server_says(status: str):
    answer = refusal({"error": {"message": "slow down"}}, status, more="Retry-After: 7\r\n")
    with Upstream(answer) as upstream, pytest.raises(Busy, match="slow down") as caught:
        ask(upstream)
    assert caught.value.retry_after == 7


def test_retry_after_may_be_a_date():
    answer = refusal({}, "429 Too Many Requests", more=f"Retry-After: {formatdate(0, usegmt=True)}\r\n")
    with Upstream(answer) as upstream, pytest.raises(Busy) as caught:
        ask(upstream)
    assert caught.value.retry_after == 0


def test_a_server_that_still_loads_is_not_ready():
    answer = refusal({"error": {"message": "Loading model", "code": 503}}, "503 Service Unavailable")
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
def test_what_does_not_fit_is_told_in_every_dialect(error: object, numbers: tuple[int, int]):
    with Upstream(refusal(error)) as upstream, pytest.raises(ContextOverflow) as caught:
        ask(upstream)
    assert (caught.value.needed, caught.value.context) == numbers


def test_an_error_within_the_stream_is_told_too():
    error = {"object": "error", "message": "Request prompt has 354 tokens, larger than the model input length limit 80"}
    with Upstream(stream(events(error))) as upstream, pytest.raises(ContextOverflow):
        ask(upstream)


def test_what_surely_does_not_fit_is_not_even_sent():
    with Upstream(b"") as upstream:
        asked = engine(upstream.url, context=256)
        with pytest.raises(ContextOverflow) as caught:
            list(asked.generate([Message("user", "word " * 1000)], Sampling(max_tokens=6)))
        asked.close()
        assert upstream.requests == []
    assert caught.value.needed == 1250 + 4 + 6


def test_any_other_error_is_passed_on_with_its_words():
    with (
        Upstream(response(b"CUDA out of memory", "500 Oops", kind="text/plain")) as upstream,
        pytest.raises(EngineFailed, match="500: CUDA out of memory"),
    ):
        ask(upstream)


def pieces_until_failure(upstream: Upstream, **table: object) -> tuple[list[Piece], EngineFailed]:
    asked = engine(upstream.url, **table)
    taken: list[Piece] = []
    with pytest.raises(EngineFailed) as caught:
        taken.extend(asked.generate(HELLO, Sampling(max_tokens=20)))
    asked.close()
    return taken, caught.value


def test_an_answer_that_breaks_off_is_an_error_after_what_came():
    with Upstream(stream(events(delta("Half"), done=False))) as upstream:
        taken, error = pieces_until_failure(upstream)
    assert text(taken) == "Half"
    assert "broke off after 1 pieces" in error.message


def test_a_connection_that_is_reset_is_an_error():
    def reset(connection: socket.socket) -> None:
        half = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall(half + events(delta("Half"), done=False))

    with Upstream(reset) as upstream:
        taken, error = pieces_until_failure(upstream)
    assert text(taken) == "Half"
    assert "broke off" in error.message


@pytest.mark.parametrize("noise", [b"", b": still here\n\n"])
def test_silence_is_an_error_also_when_the_connection_is_kept_open(noise: bytes):
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        connection.sendall(stream(events(delta("One"), done=False)))
        connection.settimeout(0.02)
        with contextlib.suppress(OSError):
            while not over.is_set():
                connection.sendall(noise)
                over.wait(0.02)

    with Upstream(silent) as upstream:
        taken, error = pieces_until_failure(upstream, timeout=0.3)
        over.set()
    assert text(taken) == "One"
    assert "silent for 0.3 seconds" in error.message


@pytest.mark.parametrize("body", [b"data: nonsense\n\n", b"data: 5\n\n", b"data: " + b"x" * 3_000_000])
def test_events_that_are_no_answer_are_an_error(body: bytes):
    with Upstream(stream(body)) as upstream, pytest.raises(EngineFailed, match="event"):
        ask(upstream)


@pytest.mark.parametrize("before", [b"", stream(b""), stream(events(delta("One"), done=False))])
def test_stop_cuts_the_connection_while_the_server_is_silent(before: bytes):
    arrived, closed = threading.Event(), threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.sendall(before)
        arrived.set()
        connection.settimeout(30)
        if connection.recv(1) == b"":
            closed.set()

    with Upstream(wait) as upstream:
        asked = engine(upstream.url, model="tiny")
        pieces = list(asked.generate(HELLO, Sampling(max_tokens=20), arrived.is_set))
        assert closed.wait(10)
        asked.close()
    assert all(piece.finish_reason is None for piece in pieces)


def test_leaving_early_cuts_the_connection_of_a_server_that_talks_on():
    closed = threading.Event()

    def endless(connection: socket.socket) -> None:
        connection.sendall(stream(b""))
        try:
            while True:
                connection.sendall(events(delta("word "), done=False))
        except OSError:
            closed.set()

    with Upstream(endless) as upstream:
        asked = engine(upstream.url, model="tiny")
        answer = asked.generate(HELLO, Sampling(max_tokens=20))
        assert next(answer).text == "word "
        answer.close()
        assert closed.wait(10)
        asked.close()


def test_a_closed_engine_says_so():
    asked = engine("http://127.0.0.1:9/v1")
    asked.close()
    with pytest.raises(EngineFailed, match="was closed"):
        list(asked.generate(HELLO, Sampling(max_tokens=5)))


@pytest.fixture(scope="module")
def llama_server() -> Iterator[tuple[str, str]]:
    """A real llama.cpp server on a loopback port: its address and key."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    (params.model.path,) = map(str, model("smollm2-135m-instruct").files.values())
    params.n_ctx, params.verbosity, params.api_keys = 512, -1, ["key"]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1", "key"
    del server


@pytest.mark.real
def test_a_real_server_answers(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key=llama_server[1])
    question = [
        Message("system", "You answer in one short sentence."),
        Message("user", "What is the capital of France?"),
    ]
    pieces = list(asked.generate(question, Sampling(20, temperature=0)))
    asked.close()
    assert "Paris" in text(pieces)
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == len(pieces)


@pytest.mark.real
def test_a_real_server_refuses_what_does_not_fit(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key=llama_server[1])
    with pytest.raises(ContextOverflow) as caught:
        list(asked.generate([Message("user", "a " * 600)], Sampling(20)))
    asked.close()
    assert caught.value.context == 512
    assert caught.value.needed > 600


@pytest.mark.real
def test_a_real_server_refuses_a_wrong_key(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key="wrong", model="any")
    with pytest.raises(EngineFailed, match=r"openai_upstream\.api_key"):
        list(asked.generate(HELLO, Sampling(20)))
    asked.close()


@pytest.mark.real
def test_a_real_server_is_free_again_after_stop(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key=llama_server[1])
    answer = asked.generate([Message("user", "Tell me a very long story.")], Sampling(400))
    next(answer)
    answer.close()
    assert text(list(asked.generate(HELLO, Sampling(5)))) != ""
    asked.close()
