"""OpenAI's HTTP API under `/v1`; the Realtime API is in the package `realtime`."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import BaseModel

from chatapi.appliance import Appliance
from chatapi.interfaces.http.openai import (
    chat,
    completions,
    conversations,
    input_tokens,
    models,
    response_socket,
    responses,
    speech,
    transcriptions,
)
from chatapi.interfaces.http.openai.chat_parameters import ChatRequest
from chatapi.interfaces.http.openai.completion_parameters import TextCompletionRequest
from chatapi.interfaces.http.openai.errors import EVERY_ROUTE
from chatapi.interfaces.http.openai.response_parameters import ResponsesRequest
from chatapi.interfaces.http.openai.speech import SpeechRequest
from chatapi.interfaces.http.openai.transcriptions import TranscriptionForm, TranslationRequest

__all__ = ["REQUESTS", "router"]

REQUESTS: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": TextCompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/audio/speech": SpeechRequest,
    "/v1/audio/transcriptions": TranscriptionForm,
    "/v1/audio/translations": TranslationRequest,
}
"""Path -> the model of its request, whose fields are the implemented parameters of `parameter_table`."""


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(responses=EVERY_ROUTE)
    routes.include_router(models.router(appliance))
    routes.include_router(transcriptions.router(appliance))
    routes.include_router(speech.router(appliance))
    routes.include_router(chat.router(appliance))
    routes.include_router(completions.router(appliance))
    routes.include_router(responses.router(appliance))
    routes.include_router(input_tokens.router(appliance))
    routes.include_router(conversations.router(appliance))
    routes.include_router(response_socket.router(appliance))
    return routes
