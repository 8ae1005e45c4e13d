"""HTTPS: connections are let in to the server once they have shaken hands, in bounded time and number."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import uvicorn

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10
"""From the connection's first moment to the end of its handshake."""
MOST_HANDSHAKES = 128
"""Connections that may be on their way in; one more drops the oldest, so that idlers keep nobody out."""
HEAD_BYTES = 8192
"""Of a request that came without TLS."""
TLS_RECORD = b"\x16"
"""The first byte of a TLS handshake."""
METHOD = re.compile(rb"[A-Z]{1,10}(?: |$)")
REQUEST = re.compile(rb"(?:GET|HEAD) (/[!-~]*) HTTP/1\.[01]\r\n")
HOST = re.compile(rb"\r\nHost:[ \t]*([\w.\[\]:-]+)[ \t]*\r\n", re.IGNORECASE | re.ASCII)
PLAIN = (
    b"HTTP/1.1 %s\r\n%sContent-Type: text/plain\r\nContent-Length: 40\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS: use https://...\n"
)


class SecureServer(uvicorn.Server):
    """uvicorn, with a door of its own.

    asyncio's door would give every connection a minute to shake hands and count none of them, and would answer plain
    HTTP, which is what browsers try first, with a reset.
    """

    def __init__(self, config: uvicorn.Config, secure: ssl.SSLContext) -> None:
        super().__init__(config)
        self._secure = secure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, but it is not uvicorn that accepts."""
        await super().startup(sockets=[])
        self.servers += [_Door(each, self._secure, self._protocol) for each in sockets or []]  # type: ignore[misc]

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class _Door:
    """Accepts on one socket, as far as uvicorn's shutdown needs it in the shape of an asyncio server."""

    def __init__(self, listening: socket.socket, secure: ssl.SSLContext, protocol: Callable[[], Any]) -> None:
        listening.setblocking(False)
        self._listening, self._secure, self._protocol = listening, secure, protocol
        self._entering: dict[asyncio.Task[None], socket.socket] = {}
        """In the order in which they came."""
        self._leaving: set[asyncio.Task[None]] = set()
        """Dropped, and not gone yet."""
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """Nobody comes in any more."""
        self._accepting.cancel()
        for entering in tuple(self._entering):
            self._drop(entering)

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, *self._entering, *self._leaving, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                # No file is left for it, or its sender has thought better of it.
                log.warning("a connection cannot be accepted: %s", error)
                await asyncio.sleep(0.5)
                continue
            if len(self._entering) >= MOST_HANDSHAKES:
                self._drop(next(iter(self._entering)))
            entering = asyncio.ensure_future(self._enter(sock))
            self._entering[entering] = sock
            entering.add_done_callback(self._entered)

    def _drop(self, entering: asyncio.Task[None]) -> None:
        """Its task meets the end of what comes, and tidies up: a task that is cancelled may not even have begun."""
        self._leaving.add(entering)
        with suppress(OSError):
            self._entering.pop(entering).shutdown(socket.SHUT_RDWR)

    def _entered(self, entering: asyncio.Task[None]) -> None:
        self._entering.pop(entering, None)
        self._leaving.discard(entering)
        if not entering.cancelled() and (error := entering.exception()) is not None:
            log.error("unexpected error at the door", exc_info=error)

    async def _enter(self, sock: socket.socket) -> None:
        """Shake hands; whoever does not is dropped without a word in the log, for anybody may come and do that."""
        sock.setblocking(False)
        ours, inside = True, False
        try:
            with suppress(OSError), anyio.move_on_after(HANDSHAKE_SECONDS):
                if await _speaks_tls(sock):
                    ours = False
                    # Its own time limit is only there for a handshake whose task is gone.
                    await asyncio.get_running_loop().connect_accepted_socket(
                        self._protocol, sock, ssl=self._secure, ssl_handshake_timeout=HANDSHAKE_SECONDS
                    )
                    inside = True
                else:
                    await _send_on(sock)
        finally:
            if not inside:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            if ours:
                sock.close()


async def _speaks_tls(sock: socket.socket) -> bool:
    """Looks at the first byte, and leaves it there. Raises OSError."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
    return sock.recv(1, socket.MSG_PEEK) == TLS_RECORD


async def _send_on(sock: socket.socket) -> None:
    """Tell somebody who speaks plain HTTP where to go; a browser that was given no scheme gets there by itself."""
    loop, head = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
        more = await loop.sock_recv(sock, HEAD_BYTES)
        head += more
        if not more or not METHOD.match(head):
            return
    request, host = REQUEST.match(head), HOST.search(head)
    if request is not None and host is not None:
        place = b"Location: https://" + host[1] + request[1] + b"\r\n"
        await loop.sock_sendall(sock, PLAIN % (b"307 Temporary Redirect", place))
    else:
        await loop.sock_sendall(sock, PLAIN % (b"400 Bad Request", b""))
