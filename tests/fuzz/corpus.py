"""Inputs of earlier findings, sent to every interface that accepts them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz import documents, media
from fuzz.inputs import FORM, JSON, Input, as_json, form, load_input, request, wyoming

FOLDER = Path(__file__).parent / "corpus"
MEDIA = {".wav": "audio/wav", ".webm": "audio/webm", ".mp4": "audio/mp4", ".flac": "audio/flac", ".ogg": "audio/ogg"}


def corpus() -> list[Input]:
    """All inputs of the corpus."""
    return [
        *_media(),
        *_texts(),
        *_schemas(),
        *_events(),
        *(load_input(path) for path in sorted(FOLDER.glob("*.json"))),
    ]


def sounds() -> Iterator[tuple[str, bytes]]:
    """Media files by name: those of the folder, and generated ones."""
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in MEDIA:
            yield path.name, path.read_bytes()
    for tables in ("stsz", "stsc"):
        yield f"bomb-{tables}.mp4", media.bomb(50_000_000, 1, tables)
        yield f"bomb-{tables}-4-tracks.mp4", media.bomb(20_000_000, 4, tables)


def _media() -> Iterator[Input]:
    for name, data in sounds():
        kind = MEDIA[Path(name).suffix]
        sound = {"data": base64.b64encode(data).decode(), "format": "wav"}
        chat = {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}]}
        upload = form([], [("audio", name, data)])
        yield _http("completion audio", name, "/completion", data, {"Content-Type": kind})
        yield _http("completion form", name, "/completion", upload, FORM)
        for route in ("transcriptions", "translations"):
            yield _http(route, name, f"/v1/audio/{route}", form([], [("file", name, data)]), FORM)
        yield _http("chat audio", name, "/v1/chat/completions", as_json({**chat, "max_tokens": 4}), JSON)


def dotted() -> Iterator[str]:
    """Texts for a voice: each line has a count and the part that is repeated."""
    for line in (FOLDER / "dotted.txt").read_text().splitlines():
        times, _, part = line.partition(" ")
        yield part.replace("\\s", " ") * int(times)


def _texts() -> Iterator[Input]:
    for text in dotted():
        name = f"{text[:8]!r}, {len(text)} characters"
        speech = {"input": text, "voice": "default", "model": "tts-1", "response_format": "wav"}
        yield _http("speech", name, "/v1/audio/speech", as_json(speech), JSON)
        if len(text) < 260:
            yield Input("wyoming", "Wyoming", name, (wyoming("synthesize", {"text": text}),))


def _schemas() -> Iterator[Input]:
    for keyword in ("anyOf", "oneOf", "allOf", "properties"):
        schema: Any = documents.doubling(40, keyword)
        name = f"{keyword} doubling 40"
        question = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}
        format_ = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
        tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
        called = {"tools": [tool], "tool_choice": "required"}
        for more in (format_, called):
            yield _http("chat schema", name, "/v1/chat/completions", as_json({**question, **more}), JSON)


def _events() -> Iterator[Input]:
    digits = b'{"type": "chatapi.played", "audio_end_ms": ' + b"9" * 400 + b"}"
    yield Input("websocket", "Realtime", "400 digits", (digits,))
    big = json.dumps({"type": "response.create", "response": {"metadata": {str(n): "x" * 60 for n in range(20_000)}}})
    yield Input("websocket", "Realtime", "metadata of 1.4 MB", (big.encode(),))
    head = b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = head + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xe9\xe9\r\n\r\n"
    yield Input("bytes", "raw HTTP", "WebSocket key beyond ASCII", (key,), whole=False)
    body = request("POST", "/completion", bytes(5000), {"Content-Type": "audio/wav"})
    yield Input("bytes", "disconnects", "in mid-body", (body[:-2000],), whole=False, take=0)


def _http(interface: str, name: str, path: str, body: bytes, headers: dict[str, str]) -> Input:
    return Input("http", interface, name, (request("POST", path, body, headers),))
