"""The transport of the events of one connection: a WebSocket, or the data channel of a call."""

from __future__ import annotations

import json
from typing import Any, Protocol

import anyio
from starlette.websockets import WebSocket

from chatapi.errors import ChatapiError
from chatapi.interfaces.http.problems import fault
from chatapi.services.live.conversation_item import new_id


class RealtimeClosed(Exception):
    """The client stalled or disconnected."""


class EventChannel(Protocol):
    """Carries events as JSON texts."""

    async def receive(self) -> str | None:
        """The next message; None for one that is no text. Raises RealtimeClosed when the client has disconnected."""

    async def send(self, text: str) -> None:
        """Sends a message. Raises RealtimeClosed when the client does not receive it in time."""


class WebSocketChannel:
    """Carries events over a WebSocket."""

    def __init__(self, websocket: WebSocket, send_seconds: float) -> None:
        """`send_seconds`: the longest time that a client may take to receive an event."""
        self._websocket = websocket
        self._send_seconds = send_seconds

    async def receive(self) -> str | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise RealtimeClosed
        text: str | None = message.get("text")
        return text

    async def send(self, text: str) -> None:
        with anyio.move_on_after(self._send_seconds):
            await self._websocket.send({"type": "websocket.send", "text": text})
            return
        raise RealtimeClosed


async def send_last_error(channel: EventChannel, error: ChatapiError) -> None:
    """Sends the error that ends a connection, which is that of no event. Raises what `send` raises."""
    event: dict[str, Any] = {"type": "error", "event_id": new_id("event"), "error": {**fault(error), "event_id": None}}
    await channel.send(json.dumps(event))
