"""`POST /v1/chat/completions`: a conversation that the client keeps, answered in text and speech."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from chatapi.appliance import Appliance
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.openai import chat_request
from chatapi.interfaces.http.openai.chat_parameters import ChatRequest
from chatapi.interfaces.http.openai.chat_response import ChatCompletionResponse
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.problems import Traceparent

CHUNKS = openapi.events("A server-sent event; its data is a chat.completion.chunk in JSON, and [DONE] in the last one.")


class Choice(BaseModel):
    """The completion's message."""

    index: int
    message: dict[str, Any]
    """role, content, refusal, and tool_calls and audio when there are any."""
    logprobs: dict[str, Any] | None
    finish_reason: str
    """stop, length or tool_calls."""


class ChatCompletion(BaseModel):
    """A chat completion in OpenAI's format."""

    id: str
    object: str
    created: int
    """Creation time, in seconds since 1970."""
    model: str
    choices: list[Choice]
    usage: dict[str, Any]
    """Tokens of the prompt and the completion, and cached tokens of the prompt."""
    service_tier: str
    system_fingerprint: str | None


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1")

    @routes.post(
        "/chat/completions",
        summary="Create a chat completion, in OpenAI's format",
        response_class=Response,
        responses={
            200: {
                "model": ChatCompletion,
                "description": "The completion; with stream=true as chunks.",
                "content": {"text/event-stream": CHUNKS},
            },
            **error_responses(400, 404, 408, 413, 415, 503),
        },
        openapi_extra=openapi.json_body(ChatRequest),
    )
    async def chat_completions(request: Request, traceparent: Traceparent = "") -> Response:
        completion_request = await chat_request.read(request, appliance, traceparent)
        return ChatCompletionResponse(appliance.chat, completion_request, appliance.metrics)

    return routes
