"""A broadcaster on this machine: streams that go on, break off and come back, and HLS streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 4096


@dataclass
class Broadcast:
    """What a broadcaster sends, and what it was asked for."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    """Path -> a file with a length."""
    broadcasts: dict[str, list[bytes]] = field(default_factory=dict)
    """Path -> what each connection in turn sends, after which it breaks off."""
    redirects: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """Path -> media type."""
    requests: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda path: None
    hold: threading.Event | None = None
    """A broadcast that has sent its last bytes stays open until it is set."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class _Handler(BaseHTTPRequestHandler):
    broadcast: Broadcast

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        broadcast, path = self.broadcast, self.path.partition("?")[0]
        broadcast.requests.append(path)
        broadcast.on_request(path)
        try:
            if path in broadcast.redirects:
                self._head(302, {"location": broadcast.redirects[path], "content-length": "0"})
            elif path in broadcast.files:
                data = broadcast.files[path]
                kind = broadcast.kinds.get(path, "application/octet-stream")
                self._head(200, {"content-length": str(len(data)), "content-type": kind})
                self.wfile.write(data)
            elif broadcast.broadcasts.get(path):
                data = broadcast.broadcasts[path].pop(0)
                self._head(200, {"icy-name": "Test radio", "content-type": "audio/mpeg"})
                for start in range(0, len(data), CHUNK):
                    self.wfile.write(data[start : start + CHUNK])
                if broadcast.hold is not None and not broadcast.broadcasts[path]:
                    self.wfile.flush()
                    broadcast.hold.wait(60)
            else:
                self._head(404, {"content-length": "0"})
        except (BrokenPipeError, ConnectionResetError):
            return

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def broadcasting() -> Iterator[Broadcast]:
    """A broadcaster until the block ends."""
    broadcast = Broadcast()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"broadcast": broadcast}))
    server.daemon_threads = True
    broadcast.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield broadcast
    finally:
        if broadcast.hold is not None:
            broadcast.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
