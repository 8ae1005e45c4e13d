"""HTTPS: accepts connections with a limit on the time and number of TLS handshakes."""

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

from chatapi.interfaces.http.draining import DrainingServer, FurtherServer
from chatapi.runtime.drain import Drain

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10
"""Timeout of the TLS handshake, from the accepted connection on, in seconds."""
MOST_HANDSHAKES = 128
"""Most concurrent handshakes; one more drops the oldest, so that idle clients do not block others."""
HEAD_BYTES = 8192
"""Largest head of a request without TLS, in bytes."""
TLS_RECORD = b"\x16"
"""The first byte of a TLS handshake."""
METHOD = re.compile(rb"[A-Z]{1,10}(?: |$)")
REQUEST = re.compile(rb"(?:GET|HEAD) (/[!-~]*) HTTP/1\.[01]\r\n")
HOST = re.compile(rb"\r\nHost:[ \t]*([\w.\[\]:-]+)[ \t]*\r\n", re.IGNORECASE | re.ASCII)
PLAIN = (
    b"HTTP/1.1 %s\r\n%sContent-Type: text/plain\r\nContent-Length: 40\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS: use https://...\n"
)


class _TlsServer(uvicorn.Server):
    """uvicorn's server with a TLS listener of its own.

    asyncio's listener gives every connection a minute for its handshake, does not limit their number, and resets plain
    HTTP connections, which browsers try first.
    """

    _secure: ssl.SSLContext

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts as uvicorn does, but with our listener."""
        await super().startup(sockets=[])
        self.servers += [_TlsListener(each, self._secure, self._protocol) for each in sockets or []]  # type: ignore[misc]

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


class SecureServer(_TlsServer, DrainingServer):
    """The box's own server with TLS."""

    def __init__(self, config: uvicorn.Config, drain: Drain, secure: ssl.SSLContext) -> None:
        super().__init__(config, drain)
        self._secure = secure


class SecureFurtherServer(_TlsServer, FurtherServer):
    """A server beside the box's own with TLS."""

    def __init__(self, config: uvicorn.Config, drain: Drain, secure: ssl.SSLContext) -> None:
        super().__init__(config, drain)
        self._secure = secure


class _TlsListener:
    """Accepts TLS connections on one socket; has the methods of an asyncio server that uvicorn's shutdown needs."""

    def __init__(self, listener: socket.socket, secure: ssl.SSLContext, protocol: Callable[[], Any]) -> None:
        listener.setblocking(False)
        self._listening, self._secure, self._protocol = listener, secure, protocol
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}
        """Handshakes in progress, the oldest first."""
        self._dropped: set[asyncio.Task[None]] = set()
        """Dropped handshakes whose tasks have not ended yet."""
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """Stops accepting and drops the handshakes in progress."""
        self._accepting.cancel()
        for handshake in tuple(self._handshakes):
            self._drop(handshake)

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, *self._handshakes, *self._dropped, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                # No file descriptor is left, or the client has disconnected.
                log.warning("connection not accepted: %s", error)
                await asyncio.sleep(0.5)
                continue
            if len(self._handshakes) >= MOST_HANDSHAKES:
                self._drop(next(iter(self._handshakes)))
            handshake = asyncio.ensure_future(self._handshake(sock))
            self._handshakes[handshake] = sock
            handshake.add_done_callback(self._handshake_ended)

    def _drop(self, handshake: asyncio.Task[None]) -> None:
        """Shuts the socket down, so that the task ends and cleans up: a cancelled task may not even have started."""
        self._dropped.add(handshake)
        with suppress(OSError):
            self._handshakes.pop(handshake).shutdown(socket.SHUT_RDWR)

    def _handshake_ended(self, handshake: asyncio.Task[None]) -> None:
        self._handshakes.pop(handshake, None)
        self._dropped.discard(handshake)
        if not handshake.cancelled() and (error := handshake.exception()) is not None:
            log.error("unexpected error in a TLS handshake", exc_info=error)

    async def _handshake(self, sock: socket.socket) -> None:
        """Performs the handshake; drops a client that fails, without a log line, which could flood the log."""
        sock.setblocking(False)
        ours, accepted = True, False
        try:
            with suppress(OSError), anyio.move_on_after(HANDSHAKE_SECONDS):
                if await _speaks_tls(sock):
                    ours = False
                    # asyncio's own timeout matters only for a handshake whose task is gone.
                    await asyncio.get_running_loop().connect_accepted_socket(
                        self._protocol, sock, ssl=self._secure, ssl_handshake_timeout=HANDSHAKE_SECONDS
                    )
                    accepted = True
                else:
                    await _redirect_to_https(sock)
        finally:
            if not accepted:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            if ours:
                sock.close()


async def _speaks_tls(sock: socket.socket) -> bool:
    """Whether the first byte starts a TLS handshake; the byte stays in the buffer. Raises OSError."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
    return sock.recv(1, socket.MSG_PEEK) == TLS_RECORD


async def _redirect_to_https(sock: socket.socket) -> None:
    """Redirects plain HTTP to HTTPS, so that a browser without a scheme in the address gets there by itself."""
    loop, head = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
        more = await loop.sock_recv(sock, HEAD_BYTES)
        head += more
        if not more or not METHOD.match(head):
            return
    request, host = REQUEST.match(head), HOST.search(head)
    if request is not None and host is not None:
        location = b"Location: https://" + host[1] + request[1] + b"\r\n"
        await loop.sock_sendall(sock, PLAIN % (b"307 Temporary Redirect", location))
    else:
        await loop.sock_sendall(sock, PLAIN % (b"400 Bad Request", b""))
