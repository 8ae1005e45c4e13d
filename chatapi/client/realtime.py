"""The way to a box elsewhere: its Realtime door, found, trusted, opened, and told in one sentence when it is not."""

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

from chatapi.client import tls_pinning
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

DOOR = "/v1/realtime"
SCHEMES = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
PORTS = {"ws": 80, "wss": 443}
GREETING = 20.0
"""Seconds until the box has said something: it waits for its models for 10 s."""
ALIVE = 10.0
"""Seconds between two pings, and to the answer of one."""
LONGEST = 16 << 20
"""Bytes of one event."""


@dataclass(frozen=True)
class RealtimeAddress:
    """A box, and how to be let in."""

    host: str
    port: int
    secure: bool
    path: str
    """Up to the door."""
    key: str | None
    accept: str | None
    """The fingerprint of a certificate to accept."""
    data: Path
    """Where it is kept what was accepted."""

    @property
    def name(self) -> str:
        """As its user would write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def place(url: str, key: str | None, accept: str | None, data: Path) -> RealtimeAddress:
    """Where a URL leads. Raises Unprocessable."""
    try:
        parts = urlsplit(url)
        scheme, host, port = SCHEMES.get(parts.scheme), parts.hostname, parts.port
    except ValueError:
        scheme = host = port = None
    if scheme is None or not host:
        raise Unprocessable(f"{url!r} is no address of a box; it looks like https://kitchen.local:8000")
    path = parts.path.rstrip("/")
    path = path if path.endswith(DOOR) else path + DOOR
    if accept is not None and scheme != "wss":
        raise Unprocessable(f"--fingerprint needs an https:// address, which {url} is not")
    return RealtimeAddress(host, port or PORTS[scheme], scheme == "wss", path, key, accept, data)


class RealtimeLink:
    """An open door: events in both directions."""

    def __init__(self, connection: ClientConnection, conversation: str, at: RealtimeAddress) -> None:
        self.conversation = conversation
        """The id under which the box keeps what is said."""
        self._connection = connection
        self._place = at

    async def send(self, kind: str, **fields: Any) -> None:
        """Nothing is raised when the box is gone: `events` says so."""
        try:
            await self._connection.send(json.dumps({"type": kind, **fields}))
        except ConnectionClosed:
            return

    async def events(self) -> AsyncIterator[Event]:
        """What the box tells. Raises WaitAndRetry (gone) once it is no longer there."""
        try:
            while True:
                yield _event(await self._connection.recv(), self._place)
        except ConnectionClosed as closed:
            raise WaitAndRetry(f"the box at {self._place.name} is gone", code="gone") from closed


@asynccontextmanager
async def opened(at: RealtimeAddress, conversation: str | None) -> AsyncIterator[RealtimeLink]:
    """Raises Unauthorized, Forbidden, NotFound (unknown_conversation), BadInput, Busy, NotReady, WaitAndRetry."""
    secure = await anyio.to_thread.run_sync(_secured, at, abandon_on_cancel=True) if at.secure else None
    connection = await _connected(at, conversation, secure)
    try:
        yield RealtimeLink(connection, await _greeted(connection, at), at)
    finally:
        with anyio.move_on_after(1, shield=True):
            await connection.close()
        connection.transport.abort()


def _secured(at: RealtimeAddress) -> ssl.SSLContext:
    return tls_pinning.secured(at.host, at.port, at.data, at.accept)


class _Connect(connect):
    """Follows nobody elsewhere: the key is for the box that was named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _connected(at: RealtimeAddress, conversation: str | None, secure: ssl.SSLContext | None) -> ClientConnection:
    host = f"[{at.host}]" if ":" in at.host else at.host
    query = f"?conversation={quote(conversation)}" if conversation else ""
    try:
        return await _Connect(
            f"{'wss' if at.secure else 'ws'}://{host}:{at.port}{at.path}{query}",
            ssl=secure,
            additional_headers={"Authorization": f"Bearer {at.key}"} if at.key else None,
            # A box at home is not behind the proxy through which one sees the world.
            proxy=None,
            compression=None,
            open_timeout=GREETING,
            ping_interval=ALIVE,
            ping_timeout=ALIVE,
            max_size=LONGEST,
        )
    except InvalidStatus as refused:
        raise _refused(refused, at) from refused
    except InvalidHandshake as error:
        raise _stranger(at) from error
    except OSError as error:
        raise tls_pinning.unreachable(at.host, at.port, error) from error


def _refused(refused: InvalidStatus, at: RealtimeAddress) -> ChatapiError:
    """What an HTTP answer instead of an open door means."""
    response = refused.response
    status, elsewhere = response.status_code, response.headers.get("Location")
    if status == 401 and at.key:
        return Unauthorized(f"{at.name} does not take this API key; --key or CHATAPI_SERVER_API_KEY gives another")
    if status == 401:
        return Unauthorized(f"{at.name} wants its API key: give it as --key or CHATAPI_SERVER_API_KEY")
    if elsewhere is not None:
        return BadInput(f"{at.name} sends on to {elsewhere.split(DOOR)[0]}; if that is the box, give that address")
    if status >= 500:
        return WaitAndRetry(f"{at.name} answers with status {status}", code="gone")
    try:
        told = json.loads(response.body or b"")["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return _stranger(at)
    if status == 429:
        return WaitAndRetry(f"{at.name} refuses for now: {told}", code="rate_limited")
    return Forbidden(f"{at.name} refuses: {told}")


def _stranger(at: RealtimeAddress) -> BadInput:
    return BadInput(f"what answers at {at.name} is not chatapi; is the port right?", code="not_chatapi")


def _event(text: str | bytes, at: RealtimeAddress) -> Event:
    try:
        event = json.loads(text)
        if isinstance(event["type"], str):
            return dict(event)
    except (ValueError, LookupError, TypeError):
        pass
    raise _stranger(at)


async def _greeted(connection: ClientConnection, at: RealtimeAddress) -> str:
    """The conversation's id. Raises what the box said instead of a greeting."""
    first: Event = {"type": "nothing"}
    try:
        with anyio.move_on_after(GREETING):
            first = _event(await connection.recv(), at)
    except ConnectionClosed as closed:
        raise WaitAndRetry(f"{at.name} hung up at once", code="gone") from closed
    if first["type"] == "error":
        raise _told(first.get("error") or {}, at)
    try:
        return str(first["session"]["chatapi"]["conversation"])
    except (LookupError, TypeError):
        raise _stranger(at) from None


def _told(fault: dict[str, Any], at: RealtimeAddress) -> ChatapiError:
    code, message = str(fault.get("code")), str(fault.get("message", "it does not say why"))
    if code == "too_many_sessions":
        return Busy(f"{at.name} is taken: {message}; try again when one is over", code=code)
    if code == "not_ready":
        return NotReady(f"{at.name} is not ready yet: {message}")
    if code == "unknown_conversation":
        return NotFound(message, code=code)
    kind = CallerError if fault.get("type") == "invalid_request_error" else WaitAndRetry
    return kind(f"{at.name} refuses: {message}", code=code)
