"""Streamed responses that cancel their work when the client disconnects, and their ASGI messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar

import anyio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chatapi.errors import ChatapiError, collapse_exception_group
from chatapi.observability.metrics import Metrics
from chatapi.runtime.drain import Drain

_drain: ContextVar[Drain] = ContextVar("drain")
"""Of the server that sends the response."""


class CancellableResponse(Response):
    """A response that is produced while it is sent; cancels the work when the client disconnects."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _drain.set(scope["app"].state.drain)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_on_disconnect, receive, group.cancel_scope)
                await self.reply(send)
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def reply(self, send: Send) -> None:
        """Sends the whole response; an error raised before the first message gets its own response."""
        raise NotImplementedError


def start(media_type: str, headers: Mapping[str, str] | None = None) -> Message:
    """The first message of a successful response."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    content_type = media_type + ("; charset=utf-8" if media_type.startswith("text/") else "")
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type.encode()), *raw]}


def body(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def encoded(value: object) -> bytes:
    """The value as JSON bytes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def data_of(value: object) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + encoded(value) + b"\n\n"


def event_of(name: str, data: object) -> bytes:
    """A server-sent event."""
    return b"event: " + name.encode() + b"\n" + data_of(data)


EVENTS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of an event stream, so that no proxy buffers it."""


class EventStream:
    """The server-sent events of one response. An error before the first of them gets a status of its own; a later one
    becomes an event."""

    def __init__(self, send: Send, metrics: Metrics, error_event: Callable[[ChatapiError], bytes]) -> None:
        self.started = False
        self._send = send
        self._metrics = metrics
        self._error_event = error_event

    async def start(self) -> None:
        """Send the status, unless it was sent."""
        if not self.started:
            self.started = True
            await self._send(start("text/event-stream", EVENTS))

    async def send(self, data: bytes) -> None:
        """Send one or more events, as bytes of `data_of` or `event_of`."""
        await self.start()
        await self._send(body(data))

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """Send an error of the block as the last event, also that of a shutdown (shutting_down), and end the
        response after the block."""
        try:
            with _drain.get().finishing():
                yield
        except ChatapiError as error:
            if not self.started:
                raise
            self._metrics.errors.labels(error.code).inc()
            await self._send(body(self._error_event(error)))
        await self._send(body(b"", more=False))


async def _cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
