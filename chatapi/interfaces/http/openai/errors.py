"""Error responses under `/v1` for the OpenAPI document; `problems.OpenAIProblem` sends them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from chatapi.interfaces.http.problems import EVERYWHERE, MEANINGS


class OpenAIError(BaseModel):
    """The error object."""

    type: str
    """invalid_request_error: change the request; server_error: the request may be retried."""
    code: str
    message: str
    param: str | None
    """The invalid parameter."""
    request_id: str


class ErrorDocument(BaseModel):
    """An error in OpenAI's format."""

    error: OpenAIError


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, beside those of every route."""
    return {status: {"model": ErrorDocument, "description": MEANINGS[status]} for status in statuses}


EVERY_ROUTE = error_responses(*EVERYWHERE)
"""The error responses that any route may have."""
