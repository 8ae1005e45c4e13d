"""`/v1/responses`: answers to text or items, streamed, each of which a later request may continue."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.errors import ChatapiError
from chatapi.events import ToolCall, Transcript
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.openai import response_request
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import renamed
from chatapi.interfaces.http.openai.response_document import ResponseDocument
from chatapi.interfaces.http.openai.response_parameters import ResponsesRequest
from chatapi.interfaces.http.openai.response_request import ParsedResponseRequest
from chatapi.interfaces.http.problems import Traceparent
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, encoded, event_of, start
from chatapi.services.turns.chat_completion import ChatMessage
from chatapi.services.turns.response_history import ResponseHistory, StoredResponse


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
            200: {"model": ResponseObject, "description": "The response."}, **error_responses(404, 503),
        },
    )  # fmt: skip
    async def retrieve(response: str) -> Response:
        stored = await history.get(response)
        return Response(encoded(stored.document), media_type="application/json")

    @routes.delete("/responses/{response}", summary="Delete a stored response", responses=error_responses(404, 503))
    async def delete(response: str) -> DeletedResponse:
        await history.remove(response)
        return DeletedResponse(id=response, object="response", deleted=True)


class ResponsesResponse(CancellableResponse):
    """Runs the turn while it sends the response; cancels the turn when the client disconnects."""

    def __init__(self, appliance: Appliance, history: ResponseHistory, request: ParsedResponseRequest) -> None:
        super().__init__()
        self._chat = appliance.chat
        self._history = history
        self._metrics = appliance.metrics
        self._request = request
        self._growing = ResponseDocument(request)
        self._transcripts: list[str] = []

    async def reply(self, send: Send) -> None:
        with renamed({"messages": "input", "response_format": "text.format"}):
            await (self._send_events if self._request.body.stream else self._send_whole)(send)

    async def _send_whole(self, send: Send) -> None:
        async with self._chat.run(self._request.turn) as events:
            async for event in events:
                if isinstance(event, Transcript):
                    self._transcripts.append(event.text)
                for _ in self._growing.add(event):
                    pass
        await self._store()
        data = encoded(self._growing.document)
        await send(start("application/json", {"Content-Length": str(len(data))}))
        await send(body(data, more=False))

    async def _send_events(self, send: Send) -> None:
        stream = EventStream(send, self._metrics, self._failure)
        async with stream.ending(), self._chat.run(self._request.turn) as events:
            begun = False
            async for event in events:
                if isinstance(event, Transcript):
                    self._transcripts.append(event.text)
                    continue
                if not begun:
                    begun = True
                    await stream.send(b"".join(event_of(each["type"], each) for each in self._growing.begin()))
                if data := b"".join(event_of(each["type"], each) for each in self._growing.add(event)):
                    await stream.send(data)
            await self._store()
            last = self._growing.completed()
            await stream.send(event_of(last["type"], last))

    def _failure(self, error: ChatapiError) -> bytes:
        return b"".join(event_of(each["type"], each) for each in self._growing.failed(error))

    async def _store(self) -> None:
        """Keeps the response, unless the request asks for the contrary. Nothing is kept of one that failed."""
        body = self._request.body
        if not body.store:
            return
        document = self._growing.document
        calls = tuple(
            ToolCall(item["call_id"], item["name"], item["arguments"])
            for item in document["output"]
            if item["type"] == "function_call"
        )
        asked = response_request.with_transcripts(self._request.asked, self._transcripts)
        answered = (ChatMessage("assistant", (self._growing.text,), calls),)
        await self._history.add(StoredResponse(self._growing.id, body.previous_response_id, asked, answered, document))
