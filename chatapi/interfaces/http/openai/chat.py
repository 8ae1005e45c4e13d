"""`POST /v1/chat/completions`: a conversation that its caller keeps, answered in text and voice."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from chatapi.appliance import Appliance
from chatapi.interfaces.http.openai import chat_request
from chatapi.interfaces.http.openai.chat_body import ChatRequest
from chatapi.interfaces.http.openai.chat_reply import ChatReply
from chatapi.interfaces.http.openai.errors import refusals
from chatapi.interfaces.http.openai.openapi import events

BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}}
CHUNKS = events("Each event; its data is a chat.completion.chunk in JSON, that of the last is [DONE].")


class Choice(BaseModel):
    """The answer."""

    index: int
    message: dict[str, Any]
    """role, content, refusal, and where there are any tool_calls and audio."""
    logprobs: dict[str, Any] | None
    finish_reason: str
    """stop, length or tool_calls."""


class ChatCompletion(BaseModel):
    """An answer in OpenAI's form."""

    id: str
    object: str
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[Choice]
    usage: dict[str, Any]
    """Tokens of prompt and answer, and those of the prompt that were kept from before."""
    service_tier: str
    system_fingerprint: str | None


def router(appliance: Appliance) -> APIRouter:
    """Its route."""
    routes = APIRouter(prefix="/v1")

    @routes.post(
        "/chat/completions",
        summary="Answer a conversation, in OpenAI's form",
        response_class=Response,
        responses={
            200: {
                "model": ChatCompletion,
                "description": "The answer; with stream=true as it is written.",
                "content": {"text/event-stream": CHUNKS},
            },
            **refusals(400, 404, 408, 413, 415, 503),
        },
        openapi_extra={"requestBody": BODY},
    )
    async def chat_completions(request: Request) -> Response:
        asked = await chat_request.read(request, appliance)
        return ChatReply(appliance.chat, asked, appliance.metrics)

    return routes


BODIES = (ChatRequest,)
"""What the document's `components` must describe."""
