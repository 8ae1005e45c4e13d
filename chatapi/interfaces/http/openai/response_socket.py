"""`/v1/responses` over a WebSocket: one response after another, as LiveKit and Pipecat request them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatapi.appliance import Appliance
from chatapi.errors import BadInput, Busy, ChatapiError, InternalError, TooSlow, Unprocessable, collapse_exception_group
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import LARGE, json_object
from chatapi.interfaces.http.openai import response_request
from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.interfaces.http.openai.response_document import StreamEvent
from chatapi.interfaces.http.openai.response_parameters import ResponsesRequest
from chatapi.interfaces.http.openai.response_request import ParsedResponseRequest
from chatapi.interfaces.http.openai.response_run import ResponseRun
from chatapi.interfaces.http.problems import OpenAIProblem, fault
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.http.streaming import encoded
from chatapi.runtime.drain import shutting_down
from chatapi.services.turns.response_history import ResponseHistory, StoredResponse

log = logging.getLogger(__name__)

RESTARTING = 1012
"""WebSocket close code of a server that shuts down (service restart)."""
CREATE, CANCEL = "response.create", "response.cancel"


class ClientGone(Exception):
    """The client disconnected or receives nothing."""


class ConnectionResponses(ResponseHistory):
    """The stored responses, and the last one of a connection, which can be continued there without being stored."""

    last: StoredResponse | None = None

    async def get(self, response: str) -> StoredResponse:
        """The response with this id. Raises NotFound (response_not_found)."""
        if self.last is not None and response == self.last.id:
            return self.last
        return await super().get(response)


def router(appliance: Appliance) -> APIRouter:
    """The route of the WebSocket."""
    routes = APIRouter()

    @routes.websocket("/v1/responses")
    async def responses(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            with appliance.drain.lasting():
                await ResponsesConnection(websocket, appliance).run()
        except Exception as raised:
            error = collapse_exception_group(raised)
            if isinstance(error, (ClientGone, WebSocketDisconnect)):
                return
            if not isinstance(error, ChatapiError):
                log.exception("unexpected error", exc_info=error)
                error = InternalError("internal error; the log has the details")
            await _close(websocket, appliance, error)

    return routes


class ResponsesConnection:
    """One client's connection; `run` serves it until the client disconnects."""

    def __init__(self, websocket: WebSocket, appliance: Appliance) -> None:
        self._websocket = websocket
        self._appliance = appliance
        self._history = ConnectionResponses(appliance.history)
        self._parsing = anyio.CapacityLimiter(1)
        self._texts, self._requests = anyio.create_memory_object_stream[str](1)
        self._scope: anyio.CancelScope | None = None
        """Cancels the response that is generated."""
        self._run: ResponseRun | None = None

    async def run(self) -> None:
        """Serves the connection. Raises TooSlow when the client is idle for too long, ClientGone."""
        async with self._texts, self._requests, anyio.create_task_group() as group:
            group.start_soon(self._respond_to_all)
            await self._read()

    async def _read(self) -> None:
        idle = self._appliance.settings.live.idle_seconds
        while True:
            message = None
            with anyio.move_on_after(idle):
                message = await self._websocket.receive()
            if message is None and self._scope is None:
                raise TooSlow(f"the connection was idle for {idle:g} seconds and is closed", code="idle")
            if message is None:
                continue
            if message["type"] == "websocket.disconnect":
                raise ClientGone
            try:
                await self._handle(message.get("text"))
            except ChatapiError as error:
                await self._send_error(error)

    async def _handle(self, text: str | None) -> None:
        """Handles a message: requests wait for the response before them, a cancellation does not."""
        if text is None:
            raise BadInput("events must be text frames", code="binary_frame")
        if len(text) < LARGE and (event := json_object(text.encode(), CREATE)).get("type") == CANCEL:
            # A response that has ended meanwhile needs no error, which would be taken for that of the next one.
            if self._scope is not None and event.get("response_id") in (None, self._run and self._run.growing.id):
                self._scope.cancel()
            return
        try:
            self._texts.send_nowait(text)
        except anyio.WouldBlock:
            message = "a response is generated and another request waits; send requests one after another"
            raise Busy(message, code="responses_waiting", retry_after=1) from None

    async def _respond_to_all(self) -> None:
        async for text in self._requests:
            spool = Spool(self._appliance.settings.data, self._parsing)
            try:
                with anyio.CancelScope() as self._scope:
                    await self._respond(text, spool)
                if self._scope.cancelled_caught:
                    await self._end_cancelled()
            except ChatapiError as error:
                await self._fail(error)
            finally:
                self._scope = self._run = None
                spool.close()

    async def _end_cancelled(self) -> None:
        if self._run is None:
            raise Unprocessable("the request was cancelled before its response began", code="cancelled")
        begin = () if self._run.begun else self._run.growing.begin()
        await self._emit([*begin, self._run.growing.cancelled()])

    async def _respond(self, text: str, spool: Spool) -> None:
        """Generates the response to one request. Raises ChatapiError."""
        request = await self._parsed(text, spool)
        run = self._run = ResponseRun(self._appliance, self._history, request)
        await run.run(self._emit)
        exchange = run.exchange
        self._history.last = replace(exchange, previous=None, asked=(*request.before, *exchange.asked))

    async def _parsed(self, text: str, spool: Spool) -> ParsedResponseRequest:
        ignored = IgnoredParameters()
        if len(text) < LARGE:
            body = _body(text, ignored)
        else:
            body = await anyio.to_thread.run_sync(_body, text, ignored, limiter=self._parsing)
        trace = self._websocket.headers.get("traceparent", "")
        request = await response_request.complete(body, ignored, spool, self._appliance, self._history, trace)
        if ignored.text:
            log.info("ignored parameters: %s", ignored.text)
        return request

    async def _emit(self, events: Iterable[StreamEvent]) -> None:
        for event in events:
            await _send(self._websocket, event, self._appliance.settings.server.send_seconds)

    async def _fail(self, error: ChatapiError) -> None:
        """Ends a response by one event: a client takes a second one for that of its next request."""
        if self._run is None or not self._run.begun:
            await self._send_error(error)
            return
        self._appliance.metrics.errors.labels(error.code).inc()
        await self._emit(list(self._run.growing.failed(error))[-1:])

    async def _send_error(self, error: ChatapiError) -> None:
        self._appliance.metrics.errors.labels(error.code).inc()
        await self._emit([_error_event(error)])


def _body(text: str, ignored: IgnoredParameters) -> ResponsesRequest:
    """The parameters of a request. Raises ChatapiError."""
    values = json_object(text.encode("utf-8", "surrogatepass"), CREATE)
    kind = values.pop("type", None)
    if kind != CREATE:
        raise Unprocessable(
            f"there is no event {str(kind)[:100]!r}; there are: {CREATE}, {CANCEL}", code="unknown_event"
        )
    if values.pop("generate", True) is False:
        raise invalid_parameter("generate", "generate cannot be false: nothing is prepared", "unsupported_parameter")
    values.pop("event_id", None)
    return response_request.parse(ignored, values)


def _error_event(error: ChatapiError) -> dict[str, Any]:
    """An error that ends no response, as clients of the WebSocket and of the stream look for it."""
    described = fault(error)
    members = {name: described[name] for name in ("code", "message", "param")}
    return {
        "type": "error",
        "sequence_number": 0,
        "status": OpenAIProblem.status_of(error),
        **members,
        "error": described,
    }


async def _send(websocket: WebSocket, event: dict[str, Any], seconds: float) -> None:
    """Sends an event. Raises ClientGone when the client does not receive it in time."""
    with anyio.move_on_after(seconds):
        await websocket.send_text(encoded(event).decode())
        return
    raise ClientGone


async def _close(websocket: WebSocket, appliance: Appliance, error: ChatapiError) -> None:
    """Sends the error and closes, if the client is still connected."""
    appliance.metrics.errors.labels(error.code).inc()
    seconds = appliance.settings.server.send_seconds
    try:
        await _send(websocket, _error_event(error), seconds)
        with anyio.move_on_after(seconds):
            code = RESTARTING if error.code == shutting_down().code else 1000 if isinstance(error, TooSlow) else 1011
            await websocket.close(code, error.code)
    except (ClientGone, WebSocketDisconnect, RuntimeError):
        # The client disconnected meanwhile.
        return
