"""`/v1/responses/input_tokens`: how many tokens the prompt of a response would have."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from chatapi.appliance import Appliance
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.openai import response_request
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.response_parameters import ResponsesRequest
from chatapi.interfaces.http.openai.response_run import prompt_tokens
from chatapi.interfaces.http.problems import Traceparent
from chatapi.services.turns.response_history import ResponseHistory


class InputTokens(BaseModel):
    """The tokens of a prompt."""

    object: str = "response.input_tokens"
    input_tokens: int
    """Tokens of the whole prompt: input, instructions, tools, and what is continued, in the model's chat template."""


def router(appliance: Appliance) -> APIRouter:
    """The route of this module."""
    routes, history = APIRouter(prefix="/v1"), ResponseHistory(appliance.history)

    @routes.post(
        "/responses/input_tokens",
        summary="Count the tokens of a request for a response",
        responses=error_responses(400, 404, 408, 413, 415, 503),
        openapi_extra=openapi.json_body(ResponsesRequest),
    )
    async def count(request: Request, traceparent: Traceparent = "") -> InputTokens:
        parsed = await response_request.read(request, appliance, history, traceparent)
        return InputTokens(input_tokens=await prompt_tokens(appliance, parsed))

    return routes
