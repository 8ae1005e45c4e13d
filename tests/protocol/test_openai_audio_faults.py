"""OpenAI's audio routes with invalid files and forms, stalled or disconnected clients, and a full queue."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from openai import OpenAI

from chatapi.settings import Settings
from conftest import RunningServer, serving, until
from test_openai_audio import LONG, SHORT, TRANSCRIPTIONS, TRANSLATIONS


def film() -> bytes:
    """A video without an audio track."""
    made = io.BytesIO()
    with av.open(made, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32  # type: ignore[union-attr]
        for shade in (0, 255):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            out.mux(stream.encode(picture))  # type: ignore[union-attr]
        out.mux(stream.encode(None))  # type: ignore[union-attr]
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, this is no sound", "text, not audio"),
        (bytes(range(256)) * 40, "not audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "not audio"),
        (SHORT[:40], "ends in its header"),
        (film(), "no audio track"),
        (b"fLaC" + bytes(2 << 20), "damaged"),
    ],
    ids=["empty", "text", "bytes", "picture", "header", "film", "large"],
)
@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
def test_content_that_is_not_audio_is_rejected(
    shared_server: RunningServer, path: str, content: bytes, message: str
) -> None:
    reply = shared_server.client.post(path, data={"model": "whisper-1"}, files={"file": content})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "bad_audio") and message in error["message"]


@pytest.mark.parametrize("stream", ["true", "false"])
def test_too_long_recording_is_rejected(fake_settings: Callable[..., Settings], stream: str) -> None:
    with serving(fake_settings("limits.file_seconds=40")) as small:
        reply = small.client.post(TRANSCRIPTIONS, data={"stream": stream}, files={"file": LONG})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "audio_too_long")
        # Its header does not have its length.
        endless = LONG[:40] + b"\xff\xff\xff\xff" + LONG[44:]
        reply = small.client.post(TRANSCRIPTIONS, data={"stream": stream}, files={"file": endless})
        if stream == "true":
            last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
            assert last["error"]["code"] == "audio_too_long"
        else:
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "audio_too_long")


@pytest.mark.parametrize(
    ("fields", "files", "code"),
    [
        ({}, {"other": SHORT}, "missing_file"),
        ({"file": "text"}, {"other": ("a", b"")}, "invalid_form"),
        ({}, {"file": SHORT, "prompt": ("p.txt", b"a")}, "invalid_form"),
        ({str(number): "x" for number in range(60)}, {"file": SHORT}, "invalid_form"),
        ({"prompt": "a" * 100_000}, {"file": SHORT}, "invalid_form"),
    ],
)
def test_invalid_form_is_rejected(
    shared_server: RunningServer, fields: dict[str, Any], files: dict[str, Any], code: str
) -> None:
    reply = shared_server.client.post(TRANSCRIPTIONS, data=fields, files=files)
    assert reply.status_code == 400 and reply.json()["error"]["code"] in (code, "missing_file")


def form(boundary: str, content: bytes, end: str = "--") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}{end}\r\n".encode()


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"", "multipart/form-data; boundary=x", 400),
        (form("x", SHORT)[:5000], "multipart/form-data; boundary=x", 400),
        (form("y", SHORT), "multipart/form-data; boundary=x", 400),
        (form("x", SHORT), "multipart/form-data", 400),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x", 400),
        (SHORT, "audio/wav", 415),
        (b"{}", "application/json", 415),
        (b"", "", 415),
    ],
)
def test_body_that_is_not_a_form_is_rejected(
    shared_server: RunningServer, body: bytes, media_type: str, status: int
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    reply = shared_server.client.post(TRANSCRIPTIONS, content=body, headers=headers)
    assert reply.status_code == status and reply.json()["error"]["message"]


def test_hundred_megabytes_are_rejected_before_they_arrive(shared_server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", shared_server.port)) as plain:
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {100 << 20}\r\n"
        plain.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
        assert plain.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_client_that_stalls_in_its_form_times_out(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.body_seconds=0.3")) as quick:
        with socket.create_connection(("127.0.0.1", quick.port)) as plain:
            head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
            plain.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
            assert plain.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert quick.appliance.admission.used == 0


@given(
    names=st.lists(st.sampled_from(["file", "file[]", "model", "stream", "include[]", "chunking_strategy[type]", "["])),
    content=st.binary(max_size=60) | st.just(SHORT),
    cut=st.integers(0, 400) | st.none(),
)
@effort(max_examples=80, deadline=None)
def test_no_form_causes_an_internal_error(
    shared_server: RunningServer, names: list[str], content: bytes, cut: int | None
) -> None:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
        if name.startswith("file")
        else f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        for name in names
    ]
    body = b"".join(part + content + b"\r\n" for part in parts) + b"--x--\r\n"
    body = body if cut is None else body[:cut] + body[cut + 3 :]
    reply = shared_server.client.post(
        TRANSCRIPTIONS, content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert reply.status_code < 500, reply.text


@pytest.mark.parametrize("admission", ["gate", "long"])
def test_full_queue_rejects_with_retry_after(fake_settings: Callable[..., Settings], admission: str) -> None:
    with serving(fake_settings("limits.concurrent=1", "limits.queue=0", "limits.audio_seconds=10")) as full:
        held = full.appliance.admission if admission == "gate" else full.appliance.transcription_service.long_recordings
        full.run(held.acquire)
        reply = full.client.post(TRANSCRIPTIONS, files={"file": LONG})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "busy")
        assert int(reply.headers["retry-after"]) >= 1
        held.release()
        assert full.client.post(TRANSCRIPTIONS, files={"file": LONG}).status_code == 200
        counted = full.client.get("/metrics").text
        assert "chatapi_turns_refused_total 1.0" in counted
        assert 'chatapi_turns_total{input="voice",kind="file",reply="text",result="ok"} 1.0' in counted


def test_long_recordings_leave_slots_for_turns(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("limits.concurrent=2", "limits.audio_seconds=10")) as busy:
        busy.run(busy.appliance.transcription_service.long_recordings.acquire)
        with pytest.raises(openai.APITimeoutError):
            with OpenAI(base_url=busy.url + "/v1", api_key="none", max_retries=0, timeout=0.5) as client:
                client.audio.transcriptions.create(file=LONG, model="whisper-1")
        assert busy.client.post("/completion", json={"prompt": "Hello"}).status_code == 200
        assert busy.client.post(TRANSCRIPTIONS, files={"file": SHORT}).status_code == 200
        busy.run(lambda: until(lambda: busy.appliance.transcription_service.long_recordings.waiting == 0))


def test_disconnect_cancels_the_transcription(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.delay=0.002")) as slow:
        with socket.create_connection(("127.0.0.1", slow.port)) as plain:
            body = form("x", LONG)
            head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            plain.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body)
            slow.run(lambda: until(lambda: slow.appliance.engines.vad.admission.used == 1))
        slow.run(lambda: until(lambda: slow.appliance.admission.used == slow.appliance.engines.vad.admission.used == 0))
        assert slow.client.post(TRANSCRIPTIONS, files={"file": SHORT}).status_code == 200
