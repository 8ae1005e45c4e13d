"""What goes wrong under `/v1`, for the OpenAPI document; the replies themselves are `problems.OpenAIProblem`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from chatapi.interfaces.http.problems import EVERYWHERE, MEANINGS


class OpenAIError(BaseModel):
    """What is wrong."""

    type: str
    """invalid_request_error: the request is to be changed; server_error: it may be tried again."""
    code: str
    message: str
    param: str | None
    """Where in the request it is."""
    request_id: str


class ErrorDocument(BaseModel):
    """An error in OpenAI's form."""

    error: OpenAIError


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Those of a route, beside those of every route."""
    return {
        status: {"model": ErrorDocument, "description": MEANINGS[status]} for status in sorted({*EVERYWHERE, *statuses})
    }
