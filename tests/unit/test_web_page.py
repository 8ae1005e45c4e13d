"""Recordings on web pages: yt-dlp finds them in a process that can do nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadcaster import Broadcast, broadcasting
from chatapi.audio import RATE
from chatapi.errors import ChatapiError
from chatapi.services.transcription import web_page
from conftest import FAKE_ENGINES, TIMEOUT, encode_audio, tone

pytest.importorskip("yt_dlp", reason="yt-dlp is not installed")
PAGE = "<!DOCTYPE html><html><head><title>A talk</title></head><body>{}</body></html>"


@pytest.fixture
def site() -> Iterator[Broadcast]:
    with broadcasting() as found:
        audio = "<audio controls><source src='/media/talk.mp3' type='audio/mpeg'></audio>"
        found.files["/talk"] = PAGE.format(audio).encode()
        found.files["/media/talk.mp3"] = encode_audio(tone(2.0), RATE, "libmp3lame", "mp3")
        found.files["/none"] = PAGE.format("nothing to hear").encode()
        found.kinds |= {"/talk": "text/html", "/none": "text/html", "/media/talk.mp3": "audio/mpeg"}
        yield found


def test_the_recording_of_a_page_is_found(site: Broadcast) -> None:
    found = web_page.find(site.url("/talk"), private=True)
    assert found.url == site.url("/media/talk.mp3") and found.title.startswith("A talk")
    assert set(found.headers) <= {"user-agent", "referer"}


def test_a_page_without_a_recording_says_so(site: Broadcast) -> None:
    with pytest.raises(ChatapiError) as raised:
        web_page.find(site.url("/none"), private=True)
    assert raised.value.code == "page_without_recording"


def test_a_page_leads_to_no_private_address(site: Broadcast) -> None:
    with pytest.raises(ChatapiError) as raised:
        web_page.find(site.url("/talk"), private=False)
    assert raised.value.code == "page_without_recording" and not site.requests


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', {other}))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {other}))",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "open('/tmp/chatapi-guard', 'w')",
        "import ctypes; ctypes.CDLL('libc.so.6')",
    ],
)
def test_the_guard_ends_what_is_not_allowed(site: Broadcast, code: str) -> None:
    program = f"from chatapi.services.transcription.page_child import guard\nguard(9)\n{code.format(other=site.port)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1 and "PermissionError" in done.stderr, done.stderr


def test_the_guard_lets_the_proxy_through(site: Broadcast) -> None:
    program = (
        "import socket\nfrom chatapi.services.transcription.page_child import guard\n"
        f"guard({site.port})\nsocket.create_connection(('127.0.0.1', {site.port}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr


def test_the_command_transcribes_the_recording_of_a_page(site: Broadcast, data: Path) -> None:
    settings = [
        word for each in (*FAKE_ENGINES, f"data={data}", "transcription.private_urls=true") for word in ("--set", each)
    ]
    command = [sys.executable, "-m", "chatapi", "transcribe", site.url("/talk"), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and "heard" in done.stdout, done.stderr


def test_other_documents_are_no_pages(tmp_path: Path) -> None:
    for content, expected in ((b"\n <!DOCTYPE HTML><html>", True), (b"RIFF....WAVE", False), (b"<smil/>", False)):
        (tmp_path / "file").write_bytes(content)
        assert web_page.is_page(tmp_path / "file") is expected
