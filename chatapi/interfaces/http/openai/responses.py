"""`/v1/responses`: answers to text or items, streamed, each of which a later request may continue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.openai import response_input_items, response_request
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.interfaces.http.openai.response_document import StreamEvent
from chatapi.interfaces.http.openai.response_input_items import InputItems, Order
from chatapi.interfaces.http.openai.response_parameters import ResponsesRequest
from chatapi.interfaces.http.openai.response_request import ParsedResponseRequest
from chatapi.interfaces.http.openai.response_run import ResponseRun
from chatapi.interfaces.http.problems import Traceparent
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, encoded, event_of, start
from chatapi.services.turns.response_history import ResponseHistory


class ResponseObject(BaseModel):
    """A response in OpenAI's format."""

    id: str
    object: str
    created_at: int
    """Creation time, in seconds since 1970."""
    status: str
    """completed, or incomplete when the answer reached its longest length."""
    model: str
    output: list[dict[str, Any]]
    """Messages and function calls."""
    usage: dict[str, Any] | None
    """Tokens of the input and the output, and cached tokens of the input."""
    previous_response_id: str | None
    instructions: str | None
    tools: list[dict[str, Any]]
    metadata: dict[str, str]


class DeletedResponse(BaseModel):
    """The confirmation that a response was deleted."""

    id: str
    object: str
    deleted: bool


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes, history = APIRouter(prefix="/v1"), ResponseHistory(appliance.history)

    @routes.post(
        "/responses",
        summary="Create a response, in OpenAI's format",
        response_class=Response,
        responses={
            200: {
                "model": ResponseObject,
                "description": "The response; with stream=true as events.",
                "content": {"text/event-stream": openapi.events("A server-sent event; its data is JSON.")},
            },
            **error_responses(400, 404, 408, 413, 415, 503),
        },
        openapi_extra=openapi.json_body(ResponsesRequest),
    )
    async def create(request: Request, traceparent: Traceparent = "") -> Response:
        return ResponsesResponse(
            appliance, history, await response_request.read(request, appliance, history, traceparent)
        )

    _add_stored_routes(routes, history)
    return routes


def _add_stored_routes(routes: APIRouter, history: ResponseHistory) -> None:
    @routes.get(
        "/responses/{response}",
        summary="A stored response",
        response_class=Response,
        responses={
            200: {"model": ResponseObject, "description": "The response."}, **error_responses(400, 404, 503),
        },
    )  # fmt: skip
    async def retrieve(response: str, stream: bool = False) -> Response:
        if stream:
            message = "stream is not supported: a stored response is complete; send the request without it"
            raise invalid_parameter("stream", message, "unsupported_parameter")
        stored = await history.get(response)
        return Response(encoded(stored.document), media_type="application/json")

    @routes.get(
        "/responses/{response}/input_items",
        summary="What a stored response was given",
        responses=error_responses(400, 404, 503),
    )
    async def input_items(
        response: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Order = "desc",
    ) -> InputItems:
        return response_input_items.page(await history.chain(response), after, limit, order)

    @routes.delete("/responses/{response}", summary="Delete a stored response", responses=error_responses(404, 503))
    async def delete(response: str) -> DeletedResponse:
        await history.remove(response)
        return DeletedResponse(id=response, object="response", deleted=True)


class ResponsesResponse(CancellableResponse):
    """Runs the turn while it sends the response; cancels the turn when the client disconnects."""

    def __init__(self, appliance: Appliance, history: ResponseHistory, request: ParsedResponseRequest) -> None:
        super().__init__()
        self._metrics = appliance.metrics
        self._streams = request.body.stream
        self._run = ResponseRun(appliance, history, request)

    async def reply(self, send: Send) -> None:
        await (self._send_events if self._streams else self._send_whole)(send)

    async def _send_whole(self, send: Send) -> None:
        async def drop(events: Iterable[StreamEvent]) -> None:
            for _ in events:
                pass

        await self._run.run(drop)
        data = encoded(self._run.growing.document)
        await send(start("application/json", {"Content-Length": str(len(data))}))
        await send(body(data, more=False))

    async def _send_events(self, send: Send) -> None:
        stream = EventStream(send, self._metrics, lambda error: _joined(self._run.growing.failed(error)))

        async def emit(events: Iterable[StreamEvent]) -> None:
            if data := _joined(events):
                await stream.send(data)

        async with stream.ending():
            await self._run.run(emit)


def _joined(events: Iterable[StreamEvent]) -> bytes:
    """The events as server-sent events."""
    return b"".join(event_of(each["type"], each) for each in events)
