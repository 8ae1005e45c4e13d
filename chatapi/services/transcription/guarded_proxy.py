"""A SOCKS proxy on this machine that connects by the rules of `url_source`, for one program with its password."""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

import httpx

from chatapi.errors import ChatapiError
from chatapi.services.transcription import url_source

CONNECT_SECONDS, IDLE_SECONDS = 20.0, 60.0
MOST_BYTES = 64 << 20
"""Most bytes that one connection brings: pages are small, and recordings are not fetched through it."""
MOST_CONNECTIONS = 200
PORTS = (80, 443, 8000, 8080, 8443)
"""Ports of public hosts that are connected to; on private ones, where they are allowed, every port."""


class _Server(ThreadingTCPServer):
    daemon_threads = True
    private = False
    password = ""
    connections = 0


class _Connection(BaseRequestHandler):
    """SOCKS 5 (RFC 1928) with a password (RFC 1929), the command CONNECT, and names, which are resolved here."""

    server: _Server

    def handle(self) -> None:
        self.server.connections += 1
        with suppress(OSError, EOFError, UnicodeError):
            self.request.settimeout(IDLE_SECONDS)
            if self.server.connections <= MOST_CONNECTIONS and self._authenticated():
                self._connect()

    def _authenticated(self) -> bool:
        version, count = self._read(2)
        methods = self._read(count)
        if version != 5 or 2 not in methods:
            self.request.sendall(b"\5\xff")
            return False
        self.request.sendall(b"\5\2")
        self._read(1)
        self._read(self._read(1)[0])
        given = self._read(self._read(1)[0])
        right = hmac.compare_digest(given, self.server.password.encode())
        self.request.sendall(b"\1\0" if right else b"\1\1")
        return right

    def _connect(self) -> None:
        _, command, _, kind = self._read(4)
        if command != 1 or kind not in (1, 3, 4):
            return self._reply(7)
        raw = self._read(self._read(1)[0] if kind == 3 else 4 if kind == 1 else 16)
        host = (
            raw.decode("ascii")
            if kind == 3
            else socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, raw)
        )
        port = int.from_bytes(self._read(2), "big")
        if not self.server.private and port not in PORTS:
            return self._reply(2)
        try:
            named = f"[{host}]" if ":" in host else host
            address = url_source.resolved(httpx.URL(f"https://{named}:{port}/"), self.server.private)
            target = socket.create_connection((address, port), CONNECT_SECONDS)
        except (ChatapiError, OSError, httpx.InvalidURL):
            return self._reply(2)
        with target:
            target.settimeout(IDLE_SECONDS)
            self._reply(0)
            upwards = threading.Thread(target=_copy, args=(self.request, target, MOST_BYTES), daemon=True)
            upwards.start()
            _copy(target, self.request, MOST_BYTES)
        return None

    def _reply(self, code: int) -> None:
        self.request.sendall(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            data = self.request.recv(count - len(found))
            if not data:
                raise EOFError
            found += data
        return found


def _copy(source: socket.socket, target: socket.socket, most: int) -> None:
    """Copy until the end, an error or `most` bytes."""
    with suppress(OSError):
        while most > 0 and (data := source.recv(65536)):
            target.sendall(data)
            most -= len(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def guarded_proxy(private: bool) -> Iterator[tuple[int, str]]:
    """The port and the password of a proxy, until the block ends. `private`: whether private addresses are allowed."""
    server = _Server(("127.0.0.1", 0), _Connection)
    server.private, server.password = private, secrets.token_urlsafe(24)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], server.password
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
