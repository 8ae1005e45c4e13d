"""A file server that fails on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ServedFile:
    """A file and the faults with which it is served."""

    content: bytes
    etag: str = '"one"'
    ranges: bool = True
    stated: int | None = None
    """The stated Content-Length; None: the true one; -1: none."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which each response is cut off; once the list is empty, responses are complete."""
    statuses: list[int] = field(default_factory=list)
    """Status codes of the responses before the successful one."""
    location: str = ""
    """Target of a redirect."""
    rejected_agent: str = "none"
    shift: int = 0
    """Offset between the requested and the sent range, in bytes."""
    stall: bool = False
    """Whether a response that was cut off stays open until `resume` is set."""


@dataclass
class FileServer:
    """A file server that records its requests."""

    address: str = ""
    items: dict[str, ServedFile] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range header of every request, in order."""
    stalled: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released each time a response stalls."""
    resume: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, content: bytes, **generation_options: object) -> str:
        """Serves a file and returns its address."""
        self.items[path] = ServedFile(content, **generation_options)  # type: ignore[arg-type]
        return f"{self.address}/{path}"


class _Handler(BaseHTTPRequestHandler):
    file_server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Logs nothing: tests read `requests`."""

    def do_GET(self) -> None:
        path, wanted = self.path.lstrip("/").split("#")[0], self.headers.get("Range", "")
        self.file_server.requests.append((path, wanted))
        item = self.file_server.items.get(path)
        self.close_connection = True
        if item is None or item.rejected_agent in self.headers.get("User-Agent", ""):
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

    def _serve(self, item: ServedFile, wanted: str) -> None:
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
        if cut is not None and item.stall:
            self.wfile.flush()
            self.file_server.stalled.release()
            self.file_server.resume.wait(60)


@contextmanager
def serve_files() -> Iterator[FileServer]:
    """Runs a file server on a free port."""
    file_server = FileServer()

    class Handler(_Handler):
        pass

    Handler.file_server = file_server
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients disconnect on purpose
    file_server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield file_server
    finally:
        file_server.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()
