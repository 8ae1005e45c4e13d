"""Reports of skipped audio: a header, the last event of a stream, and a line of the command."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from chatapi.audio.skipped import Skipped, collect, collected, report
from conftest import FAKE_ENGINES, RunningServer
from media_files import recorded

HEADER = "x-chatapi-audio-skipped"


def damaged() -> bytes:
    """Two of its packets cannot be decoded, and there is other data before it."""
    file = bytearray(recorded("m4a"))
    start = file.index(b"mdat") + 8000
    file[start : start + 600] = b"\xff" * 600
    return b"GET / HTTP/1.1\r\n\r\n" + bytes(file)


WORDS = r"\d damaged packets? and 18 bytes that are not audio"


def test_completion_says_what_was_skipped(shared_server: RunningServer) -> None:
    for accept in ("application/json", "text/event-stream", "audio/wav"):
        headers = {"content-type": "audio/mp4", "accept": accept}
        turn = shared_server.client.post("/completion", content=damaged(), headers=headers)
        assert turn.status_code == 200
        assert_said(turn.headers.get(HEADER, ""))
        good = shared_server.client.post("/completion", content=recorded("m4a"), headers=headers)
        assert HEADER not in good.headers


def assert_said(words: str) -> None:
    assert re.fullmatch(WORDS, words), words


@pytest.mark.parametrize("form", ["json", "text", "verbose_json", "srt", "vtt"])
def test_transcription_says_what_was_skipped(shared_server: RunningServer, form: str) -> None:
    reply = transcribe(shared_server, damaged(), response_format=form)
    assert reply.status_code == 200
    assert_said(reply.headers.get(HEADER, ""))
    assert HEADER not in transcribe(shared_server, recorded("m4a"), response_format=form).headers


def transcribe(server: RunningServer, file: bytes, **fields: str) -> httpx.Response:
    data = {"model": "default", **fields}
    return server.client.post("/v1/audio/transcriptions", data=data, files={"file": ("a.m4a", file)})


@pytest.mark.parametrize("seconds", [3.0, 45.0])
def test_streamed_transcription_says_it_in_its_last_event(shared_server: RunningServer, seconds: float) -> None:
    junk = b"GET / HTTP/1.1\r\n\r\n"
    reply = transcribe(shared_server, junk + recorded("m4a", seconds=seconds), stream="true")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert events[-1]["type"] == "transcript.text.done"
    assert events[-1]["audio_skipped"] == "18 bytes that are not audio"


def test_chat_completion_says_what_was_skipped(shared_server: RunningServer) -> None:
    audio = {"data": base64.b64encode(damaged()).decode(), "format": "m4a"}
    for stream in (False, True):
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}],
            "stream": stream,
        }
        reply = shared_server.client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert_said(reply.headers.get(HEADER, ""))


def test_file_of_which_nothing_can_be_decoded_is_rejected_with_the_reason(shared_server: RunningServer) -> None:
    cut = recorded("m4a")[:10_000]
    turn = shared_server.client.post("/completion", content=cut, headers={"content-type": "audio/mp4"})
    assert (turn.status_code, turn.json()["code"]) == (400, "bad_audio")
    assert "no index" in turn.json()["detail"]
    assert "no index" in transcribe(shared_server, cut).json()["error"]["message"]


@pytest.mark.slow
def test_command_says_what_was_skipped(tmp_path: Path) -> None:
    file = tmp_path / "damaged.m4a"
    file.write_bytes(damaged())
    settings = [part for each in [*FAKE_ENGINES, f"data={tmp_path}"] for part in ("--set", each)]
    for words in (["transcribe", str(file)], ["ask", str(file)]):
        command = [sys.executable, "-m", "chatapi", *settings, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "packets and 18 bytes that are not audio" in done.stderr
        assert "skipped" not in done.stdout


def test_counts_are_those_of_the_block_they_are_reported_in() -> None:
    report(Skipped(1, 0))
    with collect() as outer:
        report(Skipped(1, 1))
        with collect() as inner:
            report(Skipped(0, 300))
        assert collected() is outer
    assert (str(outer), str(inner)) == ("1 damaged packet and 1 byte that is not audio", "300 bytes that are not audio")
    assert not collected()
