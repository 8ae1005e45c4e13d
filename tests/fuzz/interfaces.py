"""Inputs for every interface, generated from the seed and a number."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from fuzz import documents, media, texts
from fuzz.inputs import FORM, JSON, Input, as_json, form, request
from fuzz.pools import Pools
from fuzz.sessions import realtime, wyoming_bytes, wyoming_events

AUDIO = (
    "audio/wav",
    "audio/flac",
    "audio/ogg",
    "audio/mpeg",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "application/ogg",
)
ACCEPTS = (
    "",
    "*/*",
    "application/json",
    "audio/wav",
    "text/event-stream",
    "audio/*;q=0.5, text/*",
    "image/png",
    "q=;,",
)
PATHS = (
    "/", "/page/app.js", "/page/style.css", "/page/../../etc/passwd", "/page/%2e%2e/%2e%2e/etc/passwd",
    "/page/", "/page",
    "/page/..%5c..%5cx", "/page/%00", "/page/app.js%00.css", "//page//app.js", "/icon.svg", "/favicon.ico", "/nothing",
    "/openapi.json", "/metrics", "/health", "/ready", "/models", "/certificate", "/audio-device", "/%ff%fe",
    "/page/" + "a" * 300,
    "/conversations", "/conversations/" + "../" * 50, "/v1/models/%2e%2e", "/v1/models/" + "x" * 1000,
    "/page/é", "/?" + "a&" * 500,
)  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {"Range": "bytes=5-1"}, {"If-None-Match": '"x"'}, {"Accept-Encoding": "gzip"}, {"X-Request-Id": "a" * 100},
    {"Origin": "http://evil.example"}, {"Authorization": "Basic =="}, {"Accept": "text/html"},
)  # fmt: skip
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get")
SMALL = {"max_tokens": 4}
COMPLETION = {
    "prompt": "Hello there.", "reply": "text", "stream": False, "system": "Be short.", "max_tokens": 4,
    "temperature": 0.5, "seed": 7, "voice": "default", "language": "en",
}  # fmt: skip
FUNCTION = {
    "name": "look",
    "description": "Look.",
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
}
CHAT: dict[str, Any] = {
    "model": "default", "max_tokens": 4, "temperature": 0, "top_p": 0.9, "seed": 1, "stop": ["x"], "n": 1,
    "stream": False,
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto", "logprobs": True, "top_logprobs": 2,
    "logit_bias": {"5": 1.0}, "frequency_penalty": 0.1, "presence_penalty": 0.1, "metadata": {"a": "b"},
    "response_format": {"type": "text"}, "modalities": ["text"], "stream_options": {"include_usage": True},
}  # fmt: skip
SPEECH = {"input": "Good morning.", "voice": "default", "model": "tts-1", "response_format": "wav", "speed": 1.0}
FIELDS = {
    "model": ("whisper-1", "default", "x", ""), "language": ("en", "de", "xx", ""), "prompt": ("a", "b" * 9000, ""),
    "response_format": ("json", "text", "srt", "vtt", "verbose_json", "x"), "temperature": ("0", "0.5", "nan", "1e400"),
    "timestamp_granularities[]": ("word", "segment", "x"), "stream": ("true", "false", "x"), "include[]": ("logprobs",),
    "chunking_strategy": ("auto", '{"type":"server_vad"}', '{"type":"server_vad","threshold":9}', "{" * 500),
    "file": ("text",), "keywords": ("x",), "\u0000": ("x",), "a[b][c]": ("x",), "model[": ("x",),
}  # fmt: skip


class InputGenerator:
    """Generates input number n of a run."""

    def __init__(self, seed: int, pools: Pools) -> None:
        self._seed, self._pools = seed, pools
        self.conversations: list[str] = []
        """Ids of conversations to continue."""
        self.blocked: set[str] = set()
        """Interfaces to skip, because their findings are known."""
        self._weights: Sequence[tuple[int, Callable[[random.Random], Input]]] = (
            (12, self.completion), (6, self.completion_form), (8, self.completion_audio), (4, self.conversation),
            (12, self.chat), (6, self.chat_schema), (4, self.chat_audio), (8, self.transcription), (8, self.speech),
            (5, self.models_and_voices), (5, self.page), (12, self.operation), (6, self.raw), (4, self.disconnecting),
            (2, self.live), (4, self.wyoming), (3, self.wyoming_broken),
        )  # fmt: skip
        self._pool = [make for weight, make in self._weights for _ in range(weight)]

    def make(self, number: int) -> Input:
        """The same input for the same number, except for the ids of conversations."""
        rng = random.Random(f"{self._seed}:{number}")
        for _ in range(50):
            made = rng.choice(self._pool)(rng)
            if made.interface not in self.blocked:
                return made
        return self.page(rng)

    def _text(self, rng: random.Random) -> str:
        return rng.choice(self._pools.texts) if rng.random() < 0.2 else texts.text(rng)

    def _document(self, rng: random.Random, document: dict[str, Any]) -> bytes:
        pool = documents.HOSTILE if rng.random() < 0.5 else self._pools.values
        return documents.encode_json(rng, documents.changed(rng, document, pool))

    def completion(self, rng: random.Random) -> Input:
        document = dict(COMPLETION)
        for name in rng.sample(list(document), rng.choice((0, 3, 5))):
            del document[name]
        document["prompt"] = self._text(rng)[:4000]
        document["stream"] = rng.random() < 0.4
        document["reply"] = rng.choice(("text", "text", "voice"))
        if self.conversations and rng.random() < 0.3:
            document["conversation"] = rng.choice(self.conversations[-50:])
        body = self._document(rng, document) if rng.random() < 0.6 else as_json(document)
        headers = {**JSON, "Accept": rng.choice(ACCEPTS)}
        name = "completion stream" if document["stream"] else "completion JSON"
        return Input("http", name, "document", (request("POST", "/completion", body, headers),), take=_take(rng))

    def completion_form(self, rng: random.Random) -> Input:
        fields: list[tuple[str, str | bytes]] = [
            (name, str(value)) for name, value in COMPLETION.items() if rng.random() < 0.4 and name != "prompt"
        ]
        files = []
        if rng.random() < 0.5:
            fields.append(("prompt", self._text(rng).encode("utf-8", "replace")))
        if rng.random() < 0.6:
            files.append(("audio", "a.wav", media.hostile(rng)[1]))
        body = bytearray(form(fields, files))
        if rng.random() < 0.3:
            media.change(rng, body)
        sent = request("POST", "/completion", bytes(body), FORM)
        return Input("http", "completion form", "form", (sent,))

    def completion_audio(self, rng: random.Random) -> Input:
        name, data = media.hostile(rng)
        query = rng.choice(("", "", "?reply=voice&stream=true", "?max_tokens=4", "?reply=x", "?language=en&seed=1"))
        sent = request("POST", f"/completion{query}", data, {"Content-Type": rng.choice(AUDIO)})
        return Input("http", "completion audio", name, (sent,), take=_take(rng))

    def conversation(self, rng: random.Random) -> Input:
        known = rng.choice(self.conversations[-50:]) if self.conversations else "c0ffee"
        name = rng.choice((known, known, "x" * 200, "%00", "..", "%ff", "é", known.upper()))
        return _get(rng, "conversations", rng.choice(("GET", "GET", "DELETE")), f"/conversations/{name}")

    def chat(self, rng: random.Random) -> Input:
        document = {
            name: value for name, value in CHAT.items() if name in ("messages", "max_tokens") or rng.random() < 0.4
        }
        if rng.random() < 0.5:
            document["messages"] = [{"role": "user", "content": self._text(rng)[:4000]}]
        document["stream"] = rng.random() < 0.3
        body = self._document(rng, document) if rng.random() < 0.8 else as_json(document)
        return self._chat(rng, "chat", "document", body)

    def chat_schema(self, rng: random.Random) -> Input:
        roll = rng.random()
        if roll < 0.8:
            name, schema = "schema", rng.choice(self._pools.schemas)
        elif roll < 0.97:
            depth, keyword = rng.choice((2, 5, 12, 40, 200)), rng.choice(("anyOf", "oneOf", "allOf", "properties"))
            name, schema = f"{keyword} doubling {depth}", documents.doubling(depth, keyword)
        else:
            name, schema = "nested", {"type": "object", "const": documents.nested(rng.choice((50, 300)))}
        document: dict[str, Any] = {**SMALL, "messages": [{"role": "user", "content": "Hello."}]}
        if rng.random() < 0.7:
            document["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        else:
            document["tools"] = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
            document["tool_choice"] = "required"
        return self._chat(rng, "chat schema", name, as_json(document))

    def chat_audio(self, rng: random.Random) -> Input:
        name, data = media.hostile(rng)
        sound = {"data": base64.b64encode(data).decode(), "format": rng.choice(("wav", "mp3"))}
        content = [{"type": "input_audio", "input_audio": sound}]
        document: dict[str, Any] = {**SMALL, "messages": [{"role": "user", "content": content}]}
        if rng.random() < 0.2:
            form = rng.choice(("wav", "mp3", "flac", "opus", "aac"))
            document |= {"modalities": ["text", "audio"], "audio": {"voice": "default", "format": form}}
        return self._chat(rng, "chat audio", name, as_json(document))

    def _chat(self, rng: random.Random, interface: str, name: str, body: bytes) -> Input:
        sent = request("POST", "/v1/chat/completions", body, JSON)
        return Input("http", interface, name, (sent,), take=_take(rng))

    def transcription(self, rng: random.Random) -> Input:
        name, data = media.hostile(rng)
        fields: list[tuple[str, str | bytes]] = []
        for _ in range(rng.choice((0, 1, 2, 4))):
            field = rng.choice(list(FIELDS))
            fields.append((field, rng.choice(FIELDS[field])))
        body = bytearray(form(fields, [("file", rng.choice(("a.wav", "a.mp4", "é", "")), data)]))
        if rng.random() < 0.15:
            media.change(rng, body)
        route = rng.choice(("transcriptions", "transcriptions", "translations"))
        sent = request("POST", f"/v1/audio/{route}", bytes(body), FORM)
        return Input("http", route, name, (sent,), take=_take(rng))

    def speech(self, rng: random.Random) -> Input:
        document: dict[str, Any] = {**SPEECH, "input": self._text(rng)[: rng.choice((40, 40, 400))]}
        document["response_format"] = rng.choice(("mp3", "opus", "aac", "flac", "wav", "pcm"))
        document["stream_format"] = rng.choice(("audio", "sse"))
        body = self._document(rng, document) if rng.random() < 0.4 else as_json(document)
        return Input("http", "speech", "document", (request("POST", "/v1/audio/speech", body, JSON),), take=_take(rng))

    def models_and_voices(self, rng: random.Random) -> Input:
        path = rng.choice(("/v1/models", "/v1/models/default", "/v1/models/x", "/v1/audio/voices", "/models", "/ready"))
        return _get(rng, "models and voices", rng.choice(METHODS[:6]), path)

    def page(self, rng: random.Random) -> Input:
        return _get(rng, "page and paths", rng.choice(METHODS), rng.choice(PATHS))

    def operation(self, rng: random.Random) -> Input:
        return rng.choice(self._pools.operations)

    def raw(self, rng: random.Random) -> Input:
        """A request with a malformed head."""
        good = request("POST", "/completion", as_json({"prompt": "a", **SMALL}), JSON)
        data = bytearray(good)
        roll = rng.random()
        if roll < 0.5:
            for _ in range(rng.choice((1, 2))):
                media.change(rng, data)
        elif roll < 0.8:
            line = rng.choice(HEADS)
            data = bytearray(good.replace(b"\r\nHost", b"\r\n" + line + b"\r\nHost", 1))
        elif roll < 0.9:
            data = bytearray(rng.choice(UPGRADES))
        else:
            data = bytearray(rng.randbytes(rng.choice((1, 100, 70_000))))
        return Input("bytes", "raw HTTP", "head", (bytes(data),), whole=False)

    def disconnecting(self, rng: random.Random) -> Input:
        """A client that disconnects while it sends, or before the answer."""
        made = rng.choice((self.completion, self.completion_audio, self.transcription, self.chat))(rng)
        data = made.frames[0]
        end = data.find(b"\r\n\r\n") + 4
        cut = rng.choice((len(data), rng.randrange(end, len(data) + 1), rng.randrange(1, end)))
        return Input("bytes", "disconnects", made.interface, (data[:cut],), whole=False, take=0)

    def live(self, rng: random.Random) -> Input:
        return realtime(rng, self._pools.values, self._text)

    def wyoming(self, rng: random.Random) -> Input:
        return wyoming_events(rng, self._pools.values, self._text)

    def wyoming_broken(self, rng: random.Random) -> Input:
        return wyoming_bytes(rng, self._text)


def _get(rng: random.Random, interface: str, method: str, path: str) -> Input:
    """A request without a body; one that is not valid HTTP need not have a code."""
    sent = request(method, path, None, rng.choice(HEADERS))
    return Input("http", interface, f"{method} {path[:40]}", (sent,), whole=path.isascii() and method.isupper())


def _take(rng: random.Random) -> int:
    """A client sometimes disconnects during a streamed answer."""
    return rng.choice((0, 500)) if rng.random() < 0.05 else -1


HEADS = (
    b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 5\r\nContent-Length: 6",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked", b"X: \x00",
    b"X: \xff\xfe", b"X" * 70_000, b"X: " + b"a" * 60_000, b"\r\nX: y", b" folded: y", b"Expect: 100-continue",
    b"Connection: close, keep-alive, upgrade", b"Host: evil.example", b"X-Request-Id: \xe9",
    b"Authorization: Bearer \xe9",
    b"Authorization: Basic \xff", b"Origin: null", b"Accept: " + b"a/b;q=1," * 2000, b"Content-Type: \xe9",
    b"Content-Type: multipart/form-data; boundary=", b"traceparent: " + b"0" * 500, b"Cookie: \xff",
    b"\r\n".join(b"X-%d: y" % n for n in range(300)),
)  # fmt: skip
_UPGRADE = b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
UPGRADES = (
    _UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xe9\xe9\r\n\r\n",
    _UPGRADE + b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: ZnV6emZ1enpmdXp6ZnV6eg==\r\n\r\n",
    _UPGRADE + b"\r\n",
    _UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: \xff,,\r\n\r\n",
    _UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"
    b"\r\nSec-WebSocket-Key: ZnV6emZ1enpmdXp6ZnV6eg==\r\n\r\n",
    _UPGRADE.replace(b"/v1/realtime", b"/nothing") + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
    _UPGRADE.replace(b"realtime ", b"realtime?conversation=%00&model=%ff&model=x ") + b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: ZnV6emZ1enpmdXp6ZnV6eg==\r\n\r\n",
)  # fmt: skip


def conversation_of(body: bytes) -> str:
    """The conversation id in a reply of `/completion`; empty if there is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return found.get("conversation", "") if isinstance(found, dict) else ""
