"""A fake chat server that sends given bytes, and helpers of the upstream engine."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

from chatapi.engines import PromptMessage, Sampling, TokenChunk
from chatapi.engines.llm.openai_upstream import OpenAIUpstream
from chatapi.settings import OpenAIUpstreamSettings as Table
from chatapi.settings import Settings

HELLO = [PromptMessage("system", "Be brief."), PromptMessage("user", "Hello")]
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
    """A server that runs a script for each chat request, and otherwise sends its list of models."""

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
            thread.join(timeout=60)
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


def ask(upstream: Upstream, sampling: Sampling | None = None, **table: object) -> list[TokenChunk]:
    asked = engine(upstream.url, **table)
    try:
        return list(asked.generate(HELLO, sampling or Sampling(max_tokens=20)))
    finally:
        asked.close()


def text(chunks: list[TokenChunk]) -> str:
    return "".join(piece.text for piece in chunks)


def error_response(error: object, status: str = "400 Bad Request", more: str = "") -> bytes:
    return response(json.dumps(error).encode(), status, more=more)
