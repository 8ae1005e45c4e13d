"""A client of the Realtime API of another server: address, TLS trust, connection, and the errors of each."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import anyio.to_thread
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from chatapi.auth import tls_pinning
from chatapi.errors import (
    BadInput,
    Busy,
    CallerError,
    ChatapiError,
    Forbidden,
    NotFound,
    NotReady,
    Unauthorized,
    Unprocessable,
    WaitAndRetry,
)

Event = dict[str, Any]

ENDPOINT = "/v1/realtime"
SCHEMES = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
PORTS = {"ws": 80, "wss": 443}
OPEN_SECONDS = 20.0
"""Longest time until the first event, in seconds; the server waits up to 10 s for its models."""
PING_SECONDS, PONG_SECONDS = 10.0, 20.0
"""Time between two pings, and longest time until the pong, in seconds: a box whose cores are all busy answers late."""
LONGEST = 16 << 20
"""Largest size of an event, in bytes."""


@dataclass(frozen=True)
class RealtimeAddress:
    """The address of a server's Realtime API, and its API key."""

    host: str
    port: int
    secure: bool
    """Whether to use TLS."""
    path: str
    """Path of the endpoint."""
    key: str | None
    """API key; None: none."""
    accept: str | None
    """Fingerprint of a certificate to accept; None: none."""
    data: Path
    """Data directory with the accepted certificates."""

    @property
    def name(self) -> str:
        """The server's URL, as a user writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def parse_address(url: str, key: str | None, accept: str | None, data: Path) -> RealtimeAddress:
    """The address of the Realtime API at a URL. Raises Unprocessable."""
    try:
        parts = urlsplit(url)
        scheme, host, port = SCHEMES.get(parts.scheme), parts.hostname, parts.port
    except ValueError:
        scheme = host = port = None
    if scheme is None or not host:
        raise Unprocessable(f"{url!r} is not a server address; expected for example https://kitchen.local:8000")
    path = parts.path.rstrip("/")
    path = path if path.endswith(ENDPOINT) else path + ENDPOINT
    if accept is not None and scheme != "wss":
        raise Unprocessable(f"--fingerprint needs an https:// address; {url} is not one")
    return RealtimeAddress(host, port or PORTS[scheme], scheme == "wss", path, key, accept, data)


class RealtimeLink:
    """A connection to the Realtime API: events in both directions."""

    def __init__(self, connection: ClientConnection, conversation: str, address: RealtimeAddress) -> None:
        self.conversation = conversation
        """Id of the conversation on the server."""
        self._connection = connection
        self._address = address

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event; ignored when the connection is closed, which `events` reports."""
        try:
            await self._connection.send(json.dumps({"type": kind, **fields}))
        except ConnectionClosed:
            return

    async def events(self) -> AsyncIterator[Event]:
        """The server's events. Raises WaitAndRetry (gone) when the connection is lost."""
        try:
            while True:
                yield _event(await self._connection.recv(), self._address)
        except ConnectionClosed as closed:
            # Which side closed it and why, such as "sent 1011 (internal error) keepalive ping timeout".
            raise WaitAndRetry(f"the connection to {self._address.name} was lost: {closed}", code="gone") from closed


@asynccontextmanager
async def open_link(
    address: RealtimeAddress, conversation: str | None, transcribes: bool = False
) -> AsyncIterator[RealtimeLink]:
    """Connect, and start or continue a conversation, or a session that only transcribes.

    Raises Unauthorized, Forbidden, NotFound (unknown_conversation), BadInput, Busy, NotReady, WaitAndRetry.
    """
    secure = await anyio.to_thread.run_sync(_secured, address, abandon_on_cancel=True) if address.secure else None
    connection = await _connected(address, conversation, secure, transcribes)
    try:
        yield RealtimeLink(connection, await _first_event(connection, address), address)
    finally:
        with anyio.move_on_after(1, shield=True):
            await connection.close()
        connection.transport.abort()


def _secured(at: RealtimeAddress) -> ssl.SSLContext:
    return tls_pinning.secured(at.host, at.port, at.data, at.accept)


class _Connect(connect):
    """Follows no redirect: the key is only for the server that was named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _connected(
    at: RealtimeAddress, conversation: str | None, secure: ssl.SSLContext | None, transcribes: bool
) -> ClientConnection:
    host = f"[{at.host}]" if ":" in at.host else at.host
    query = f"?conversation={quote(conversation)}" if conversation else "?intent=transcription" if transcribes else ""
    try:
        return await _Connect(
            f"{'wss' if at.secure else 'ws'}://{host}:{at.port}{at.path}{query}",
            ssl=secure,
            additional_headers={"Authorization": f"Bearer {at.key}"} if at.key else None,
            # A server on the local network is not behind a proxy.
            proxy=None,
            compression=None,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            max_size=LONGEST,
        )
    except InvalidStatus as error:
        raise _rejected(error, at) from error
    except InvalidHandshake as error:
        raise _not_chatapi(at) from error
    except OSError as error:
        raise tls_pinning.unreachable(at.host, at.port, error) from error


def _rejected(error: InvalidStatus, at: RealtimeAddress) -> ChatapiError:
    """The error for an HTTP response instead of a WebSocket."""
    response = error.response
    status, location = response.status_code, response.headers.get("Location")
    if status == 401 and at.key:
        return Unauthorized(f"{at.name} rejects this API key; set another with --key or CHATAPI_SERVER_API_KEY")
    if status == 401:
        return Unauthorized(f"{at.name} requires its API key: set it with --key or CHATAPI_SERVER_API_KEY")
    if location is not None:
        target = location.split(ENDPOINT)[0]
        return BadInput(f"{at.name} redirects to {target}; if that is the server, use that address")
    if status >= 500:
        return WaitAndRetry(f"{at.name} answers with status {status}", code="gone")
    try:
        message = json.loads(response.body or b"")["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return _not_chatapi(at)
    if status == 429:
        return WaitAndRetry(f"{at.name} rejects requests for now: {message}", code="rate_limited")
    return Forbidden(f"{at.name} rejects the request: {message}")


def _not_chatapi(at: RealtimeAddress) -> BadInput:
    return BadInput(f"the server at {at.name} is not chatapi; is the port right?", code="not_chatapi")


def _event(text: str | bytes, at: RealtimeAddress) -> Event:
    try:
        event = json.loads(text)
        if isinstance(event["type"], str):
            return dict(event)
    except (ValueError, LookupError, TypeError):
        pass
    raise _not_chatapi(at)


async def _first_event(connection: ClientConnection, at: RealtimeAddress) -> str:
    """The conversation's id, from the first event. Raises the error that the server sent instead."""
    first: Event = {"type": "nothing"}
    try:
        with anyio.move_on_after(OPEN_SECONDS):
            first = _event(await connection.recv(), at)
    except ConnectionClosed as closed:
        raise WaitAndRetry(f"{at.name} closed the connection at once", code="gone") from closed
    if first["type"] == "error":
        raise _server_error(first.get("error") or {}, at)
    try:
        return str(first["session"]["chatapi"]["conversation"])
    except (LookupError, TypeError):
        raise _not_chatapi(at) from None


def _server_error(error: dict[str, Any], at: RealtimeAddress) -> ChatapiError:
    code, message = str(error.get("code")), str(error.get("message", "no reason is given"))
    if code == "too_many_sessions":
        return Busy(f"{at.name} is busy: {message}; try again when a conversation has ended", code=code)
    if code == "not_ready":
        return NotReady(f"{at.name} is not ready yet: {message}")
    if code == "unknown_conversation":
        return NotFound(message, code=code)
    kind = CallerError if error.get("type") == "invalid_request_error" else WaitAndRetry
    return kind(f"{at.name} rejects the request: {message}", code=code)
