"""How bodies are written: audio as base64 of every form, and compressed bodies."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from conftest import RunningServer
from test_openai_parameters import CHAT, FILE, TRANSCRIPTIONS, USER, ask, chat_server

__all__ = ["chat_server"]


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (base64.encodebytes(FILE).decode(), "WAV"), (f"data:audio/wav;base64,{base64.b64encode(FILE).decode()}", "wav"),
        (base64.urlsafe_b64encode(FILE).decode().rstrip("="), "audio/x-wav"),
    ],
)  # fmt: skip
def test_audio_is_base64_of_every_form(chat_server: RunningServer, data: str, form: str) -> None:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": form}}
    reply = ask(chat_server, messages=[{"role": "user", "content": [part]}])
    assert reply.json()["choices"][0]["message"]["content"] == "You said: heard 1.50 seconds.."


def compressed(server: RunningServer, body: bytes, encoding: str, path: str = CHAT) -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return server.client.post(path, content=body, headers=headers)


@pytest.mark.parametrize("path", [CHAT, "/completion"])
@pytest.mark.parametrize("size", [10, 3 << 20])
def test_compressed_body_is_decompressed(chat_server: RunningServer, path: str, size: int) -> None:
    plain = json.dumps({"messages": [USER], "user": "u" * size} if path == CHAT else {"prompt": "hello"}).encode()
    for encoding, body in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain)), ("Identity", plain)):
        assert compressed(chat_server, body, encoding, path).status_code == 200
    assert compressed(chat_server, plain, "br", path).status_code == 415


@pytest.mark.parametrize("level", [0, 1, 9])
def test_deflate_may_have_any_header_or_none(chat_server: RunningServer, level: int) -> None:
    plain = json.dumps({"messages": [USER]}).encode()
    for bits in (zlib.MAX_WBITS, zlib.MAX_WBITS | 16, -zlib.MAX_WBITS):
        compressor = zlib.compressobj(level, wbits=bits)
        body = compressor.compress(plain) + compressor.flush()
        assert compressed(chat_server, body, "deflate").status_code == 200
        assert compressed(chat_server, body[:-9], "deflate").status_code == 400


def test_compressed_form_is_decompressed(chat_server: RunningServer) -> None:
    request = httpx.Request("POST", "http://x", data={"model": "whisper-1"}, files={"file": FILE})
    headers = {"content-type": request.headers["content-type"], "content-encoding": "gzip"}
    reply = chat_server.client.post(TRANSCRIPTIONS, content=gzip.compress(request.read()), headers=headers)
    assert reply.json()["text"].startswith("heard 1.50 seconds")


@pytest.mark.parametrize("change", [lambda body: body[:-9], lambda body: body + b"more", lambda body: b"x" + body[1:]])
def test_damaged_compressed_body_is_rejected(chat_server: RunningServer, change: Any) -> None:
    body = gzip.compress(json.dumps({"messages": [USER]}).encode())
    reply = compressed(chat_server, change(body), "gzip")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_encoding")


@pytest.mark.slow
def test_bomb_is_rejected_at_the_limit_of_a_body(chat_server: RunningServer) -> None:
    bomb = gzip.compress(bytes(1 << 30), 9)
    assert len(bomb) < 2 << 20
    reply = compressed(chat_server, bomb, "gzip")
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert ask(chat_server).status_code == 200


# Defaults of the box
