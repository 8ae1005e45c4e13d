"""`/conversions/live`: a microphone's audio in another voice over a WebSocket, while it arrives.

The client sends `{"type": "start", "voice": NAME}` as text, then 16-bit mono PCM as binary messages, then
`{"type": "end"}`; the server answers `started`, 16-bit mono PCM as binary messages, and `done` or `error`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Resampled, Samples
from chatapi.errors import (
    BadInput,
    CallerError,
    ChatapiError,
    InternalError,
    TooSlow,
    Unprocessable,
    collapse_exception_group,
    describe_validation_error,
)
from chatapi.interfaces.http.job_routes import owner_of
from chatapi.interfaces.http.json_body import json_object
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.problems import fault
from chatapi.services.voice_conversion.service import LiveConversion, mark
from chatapi.services.voice_conversion.store import MOST_NAME
from chatapi.services.voice_conversion.stream_conversion import FRAME, LIVE, StreamTiming

log = logging.getLogger(__name__)

FRAME_MS = FRAME * 1000 // RATE
LARGEST = 2 << 20
"""Longest binary message, in bytes."""


class LiveConversionStart(BaseModel):
    """The first message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["start"]
    voice: str = Field(min_length=1, max_length=MOST_NAME)
    """The id or the name of a stored voice."""
    sample_rate: int = Field(RATE, ge=8000, le=48_000)
    """Of the audio that follows, in Hz."""
    chunk_ms: int = Field(LIVE.chunk_ms, ge=40, le=2000, multiple_of=FRAME_MS)
    """Audio that is converted at once, in milliseconds, a multiple of 20."""
    lookahead_ms: int = Field(LIVE.lookahead_ms, ge=20, le=1000, multiple_of=FRAME_MS)
    """Audio after a chunk that is waited for, in milliseconds, a multiple of 20; more of it sounds better."""


def router(appliance: Appliance) -> APIRouter:
    """The route of the WebSocket."""
    routes = APIRouter()

    @routes.websocket("/conversions/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            with appliance.drain.lasting():
                await _Connection(websocket, appliance).run()
        except Exception as raised:
            error = collapse_exception_group(raised)
            if not isinstance(error, WebSocketDisconnect):
                await _close(websocket, appliance, error)

    return routes


async def _close(websocket: WebSocket, appliance: Appliance, error: BaseException) -> None:
    if not isinstance(error, ChatapiError):
        log.exception("unexpected error", exc_info=error)
        error = InternalError("internal error; the log has the details")
    appliance.metrics.errors.labels(error.code).inc()
    code = 1008 if isinstance(error, CallerError) else 1011 if isinstance(error, InternalError) else 1013
    try:
        with anyio.move_on_after(appliance.settings.server.send_seconds):
            await websocket.send_text(json.dumps({"type": "error", "error": fault(error)}))
            await websocket.close(code, error.code)
    except (WebSocketDisconnect, RuntimeError):
        # The client disconnected meanwhile.
        return


class _Connection:
    """One client's conversion. While a chunk is converted nothing is received, so a slow box holds no queue."""

    def __init__(self, websocket: WebSocket, appliance: Appliance) -> None:
        self._websocket, self._appliance = websocket, appliance
        self._sent = 0.0
        """Seconds of the audio that was sent."""

    async def run(self) -> None:
        """Serves the connection. Raises ChatapiError, WebSocketDisconnect."""
        self._appliance.require_ready()
        start, service = await self._start(), self._appliance.voice_conversion
        service.require_model()
        target = await service.target(start.voice, owner_of(self._websocket.scope[KEY_HOLDER]))
        timing = StreamTiming(start.chunk_ms, start.lookahead_ms, LIVE.context_ms)
        async with service.live(target, timing) as conversion:
            started = {
                "type": "started", "voice": target.name, "sample_rate": conversion.rate, "mark": mark(target),
                "algorithmic_latency_ms": timing.latency_ms,
            }  # fmt: skip
            await self._send_text(started)
            await self._convert(conversion, start.sample_rate)
        await self._send_text({"type": "done", "seconds": round(self._sent, 3)})
        await self._websocket.close(1000)

    async def _start(self) -> LiveConversionStart:
        message = await self._receive()
        try:
            return LiveConversionStart.model_validate(json_object((message.get("text") or "").encode(), "type start"))
        except ValidationError as error:
            wrong = describe_validation_error(error.errors(include_url=False, include_input=False)[0])
            raise Unprocessable(f"the message start {wrong}") from None

    async def _convert(self, conversion: LiveConversion, rate: int) -> None:
        async for samples in self._received(rate):
            await self._send_all(conversion.stream.feed(samples))
        await self._send_all(conversion.stream.finish())

    async def _received(self, rate: int) -> AsyncIterator[Samples]:
        """The audio at 16 kHz, until the message `end`."""
        resampled, odd = Resampled(rate, RATE), b""
        while True:
            message = await self._receive()
            if (data := message.get("bytes")) is None:
                if json_object((message.get("text") or "").encode(), "type end").get("type") != "end":
                    raise BadInput("after start there are only binary messages, and the message end")
                yield resampled.finish()
                return
            if len(data) > LARGEST:
                raise BadInput(f"a binary message has {len(data)} bytes; at most {LARGEST} are allowed")
            data, odd = odd + data, b""
            if len(data) % 2:
                data, odd = data[:-1], data[-1:]
            yield resampled.feed(np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768))

    async def _receive(self) -> Any:
        seconds = self._appliance.settings.live.idle_seconds
        with anyio.move_on_after(seconds):
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            return message
        raise TooSlow(f"the connection was idle for {seconds:g} seconds and is closed", code="idle")

    async def _send_all(self, parts: AsyncGenerator[Audio, None]) -> None:
        async with aclosing(parts):
            async for part in parts:
                self._sent += part.seconds
                await self._send(self._websocket.send_bytes, part.pcm16())

    async def _send_text(self, message: dict[str, Any]) -> None:
        await self._send(self._websocket.send_text, json.dumps(message))

    async def _send(self, send: Any, content: str | bytes) -> None:
        with anyio.move_on_after(self._appliance.settings.server.send_seconds):
            await send(content)
            return
        raise WebSocketDisconnect
