"""A web server on this machine that misbehaves on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Item:
    """A file, and how it is served."""

    content: bytes
    etag: str = '"one"'
    ranges: bool = True
    stated: int | None = None
    """Content-Length to state; None: the true one; -1: none at all."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which an answer breaks off, one for each answer; none left: it is sent whole."""
    statuses: list[int] = field(default_factory=list)
    """Answers before the good one."""
    location: str = ""
    """Where it is redirected to."""
    refused_agent: str = "nobody"
    shift: int = 0
    """How far a range starts from where it was asked for."""
    hold: bool = False
    """Whether an answer that was cut stays open, silent, until it is let go."""


@dataclass
class Depot:
    """What is served, and what was asked for."""

    address: str = ""
    items: dict[str, Item] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range header, in order."""
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released each time an answer is held."""
    let_go: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, content: bytes, **generation_options: object) -> str:
        """Serve it, and return its address."""
        self.items[path] = Item(content, **generation_options)  # type: ignore[arg-type]
        return f"{self.address}/{path}"


class _Handler(BaseHTTPRequestHandler):
    depot: Depot
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests read `asked` instead."""

    def do_GET(self) -> None:
        path, wanted = self.path.lstrip("/").split("#")[0], self.headers.get("Range", "")
        self.depot.asked.append((path, wanted))
        item = self.depot.items.get(path)
        self.close_connection = True
        if item is None or item.refused_agent in self.headers.get("User-Agent", ""):
            self.send_error(404 if item is None else 403)
        elif item.statuses:
            self.send_error(item.statuses.pop(0))
        elif item.location:
            self.send_response(302)
            self.send_header("Location", item.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._serve(item, wanted)

    def _serve(self, item: Item, wanted: str) -> None:
        fresh = self.headers.get("If-Range", item.etag) == item.etag
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and item.ranges and fresh else 0
        if start >= len(item.content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        start += item.shift if start else 0
        body = item.content[start:]
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(item.content) - 1}/{len(item.content)}")
        if item.stated != -1:
            self.send_header("Content-Length", str(len(body) if item.stated is None else item.stated))
        if item.etag:
            self.send_header("ETag", item.etag)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        cut = item.cuts.pop(0) if item.cuts else None
        self.wfile.write(body[:cut])
        if cut is not None and item.hold:
            self.wfile.flush()
            self.depot.held.release()
            self.depot.let_go.wait(60)


@contextmanager
def opened() -> Iterator[Depot]:
    """A depot at an address of its own."""
    depot = Depot()

    class Handler(_Handler):
        pass

    Handler.depot = depot
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are what is tested
    depot.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield depot
    finally:
        depot.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
