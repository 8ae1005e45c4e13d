"""Recordings at a URL of servers that send little, and slowly, and of those that break off."""

from __future__ import annotations

import http.server
import itertools
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


@contextmanager
def breaking(content: bytes, at_once: int, ranges: bool, tags: Iterator[str]) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that ends each connection after so many bytes, and the Range of each request. `tags`: the
    ETag of each answer."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, tag = self.headers.get("Range", ""), next(tags)
            asked.append(wanted)
            same = self.headers.get("If-Range", tag) == tag
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges and same else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.write(content[start : start + at_once])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/talk.wav", asked
        finally:
            server.shutdown()
            thread.join(TIMEOUT)


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_source, "BREAK_SECONDS", 0.0)


@pytest.mark.usefixtures("no_wait")
def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    reports: list[tuple[int, int]] = []
    with breaking(content, 3000, True, itertools.repeat('"a"')) as (url, asked):
        url_source.fetch(url, tmp_path / "source", RULES, lambda done, total: reports.append((done, total)))
    assert (tmp_path / "source").read_bytes() == content
    assert asked == ["", "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    assert reports == sorted(reports) and reports[-1] == (len(content), len(content))


@pytest.mark.usefixtures("no_wait")
def test_a_recording_that_changes_meanwhile_begins_anew(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    with breaking(content, len(content) - 1, True, iter(['"a"', '"b"', '"b"'])) as (url, asked):
        with pytest.raises(ChatapiError) as raised:
            url_source.fetch(url, tmp_path / "source", RULES, lambda done, total: None)
    assert raised.value.code == "source_unreachable" and asked == ["", f"bytes={len(content) - 1}-"]
    assert (tmp_path / "source").read_bytes() == content[:-1]


@pytest.mark.usefixtures("no_wait")
def test_a_server_without_ranges_is_asked_twice(tmp_path: Path) -> None:
    with breaking(bytes(5000), 3000, False, itertools.repeat('"a"')) as (url, asked):
        with pytest.raises(ChatapiError) as raised:
            url_source.fetch(url, tmp_path / "source", RULES, lambda done, total: None)
    assert raised.value.code == "source_unreachable" and asked == ["", "bytes=3000-"]
