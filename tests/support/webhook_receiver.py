"""A receiver of webhooks that records what it gets, and fails on request."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ReceivedWebhook:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class WebhookReceiver:
    port: int = 0
    received: list[ReceivedWebhook] = field(default_factory=list)
    """Every request, in order."""
    statuses: list[int] = field(default_factory=list)
    """Status codes of the next responses; then 204."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the responses."""
    hang: threading.Event | None = None
    """No response before it is set."""

    @property
    def events(self) -> list[str]:
        return [each.document["type"] for each in self.received]


class _Handler(BaseHTTPRequestHandler):
    receiver: WebhookReceiver

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.received.append(ReceivedWebhook(self.path, headers, body))
        if self.receiver.hang is not None:
            self.receiver.hang.wait(60)
        self.send_response(self.receiver.statuses.pop(0) if self.receiver.statuses else 204)
        for name, value in self.receiver.headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - http.server's name


@contextmanager
def receiving(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[WebhookReceiver]:
    """A receiver on this machine, over HTTPS when a server's TLS context is given."""
    receiver = WebhookReceiver()
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"receiver": receiver}))
    receiver.port = server.server_address[1]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        if receiver.hang is not None:
            receiver.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()
