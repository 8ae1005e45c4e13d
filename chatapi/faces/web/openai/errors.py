"""What goes wrong under `/v1`, for the OpenAPI document; the replies themselves are `problems.OpenAIProblem`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Fault(BaseModel):
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

    error: Fault


MEANINGS = {
    400: "A value cannot be used, or the context is too short for it.",
    401: "The API key is missing or wrong.",
    403: "The host name or the calling page is not allowed.",
    404: "What it names is not here.",
    408: "The body came too slowly.",
    413: "The body or the audio is too large.",
    415: "The media type is not taken.",
    500: "An engine failed.",
    507: "The disk is full.",
    503: "Busy or still loading; Retry-After says when to try again.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Those of a route, beside those of every route."""
    return {status: {"model": ErrorDocument, "description": MEANINGS[status]} for status in (401, 403, *statuses)}
