"""Recordings at a URL of servers that send little, and slowly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatapi.errors import ChatapiError
from chatapi.services.transcription import url_source
from chatapi.services.transcription.url_source import UrlRules
from conftest import TIMEOUT

DRIP_SECONDS = 0.01
RULES = UrlRules(private=True, most_bytes=1 << 30, most_seconds=TIMEOUT)


class Stopped(Exception):
    """What ends a job that is cancelled."""


@contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """The URL of a server that sends a head, and then a byte now and then until the client closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(head)
                while not over.wait(DRIP_SECONDS):
                    connection.sendall(b"x")
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/talk.wav"
    finally:
        over.set()
        thread.join(TIMEOUT)
        listener.close()
    assert not thread.is_alive()


def test_a_body_that_drips_ends_with_the_time(tmp_path: Path) -> None:
    rules = UrlRules(private=True, most_bytes=1 << 30, most_seconds=0.2)
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n") as url, pytest.raises(ChatapiError) as raised:
        url_source.fetch(url, tmp_path / "source", rules, lambda done, total: None)
    assert "within 0.2 seconds" in raised.value.message


def test_a_body_that_drips_lets_the_job_be_cancelled(tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        assert 0 < done < total == 1_000_000
        raise Stopped

    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n") as url, pytest.raises(Stopped):
        url_source.fetch(url, tmp_path / "source", RULES, progress)


def test_a_head_that_drips_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(url_source, "SILENT_SECONDS", 0.2)
    with dripping(b"HTTP/1.1 200 OK\r\nX-Long: ") as url, pytest.raises(ChatapiError) as raised:
        url_source.fetch(url, tmp_path / "source", RULES, lambda done, total: None)
    assert raised.value.code == "source_unreachable" and threading.active_count() == before
