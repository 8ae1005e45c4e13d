"""Error responses: `application/problem+json` (RFC 9457), and OpenAI's format under `/v1`."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from fastapi import Header
from starlette.responses import Response

from chatapi import errors
from chatapi.observability.logs import request_id

STATUS: tuple[tuple[type[errors.ChatapiError], int, str], ...] = (
    (errors.Unauthorized, 401, "Not authorised"),
    (errors.Forbidden, 403, "Not allowed"),
    (errors.NotFound, 404, "Not found"),
    (errors.MethodNotAllowed, 405, "Method not allowed"),
    (errors.WrongMode, 409, "Wrong mode"),
    (errors.NotAcceptable, 406, "Not acceptable"),
    (errors.TooSlow, 408, "Too slow"),
    (errors.TooLarge, 413, "Too large"),
    (errors.Unsupported, 415, "Not supported"),
    (errors.Unprocessable, 422, "Invalid value"),
    (errors.CallerError, 400, "Bad request"),
    (errors.TooMany, 429, "Too many requests"),
    (errors.WaitAndRetry, 503, "Temporarily unavailable"),
    (errors.ModelMissing, 503, "Model not installed"),
    (errors.StorageError, 507, "Storage failed"),
    (errors.ChatapiError, 500, "Internal error"),
)
"""Error class, HTTP status and title; the first class that matches decides."""

MEANINGS = {
    400: "The request is malformed; under /v1 also when a value is invalid.",
    401: "The API key is missing or wrong.",
    403: "The host name or the calling page is not allowed, or the key lacks the scope.",
    404: "The named object does not exist.",
    406: "Accept contradicts the requested reply.",
    408: "The body arrived too slowly.",
    409: "The audio device is in another mode, or the job in another state.",
    413: "Body, audio or prompt is too large.",
    415: "The media type is not supported.",
    422: "A value is invalid, or the audio contains no speech.",
    429: "The key's rate limit is exceeded, or too many wrong keys were sent; Retry-After says when to try again.",
    431: "The request's path, query and headers are too large together.",
    500: "An engine failed, or the key file is damaged.",
    503: "Busy or still loading; Retry-After says when to try again. Without it the model is not installed, and the "
    "message names the command that installs it.",
    507: "The disk is full.",
}
"""Status -> when it is sent, for the OpenAPI document."""
EVERYWHERE = (401, 403, 429, 431, 500)
"""Statuses that any route may return."""

Traceparent = Annotated[str, Header(description="Trace context of the caller (W3C), which the request's trace joins.")]
"""The header `traceparent`, as a parameter of a route."""

MEDIA_TYPE = "application/problem+json"


def status_of(error: errors.ChatapiError) -> int:
    return next(status for kind, status, _ in STATUS if isinstance(error, kind))


def problem(error: errors.ChatapiError) -> dict[str, object]:
    """The members of the problem document."""
    status, title = next((status, title) for kind, status, title in STATUS if isinstance(error, kind))
    return {
        "type": f"urn:chatapi:error:{error.code}",
        "title": title,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "request_id": request_id.get(),
        **error.details,
    }


class Problem(Response):
    """The response to a request that failed before its response started."""

    media_type = MEDIA_TYPE

    def __init__(
        self, error: errors.ChatapiError, headers: dict[str, str] | None = None, status: int | None = None
    ) -> None:
        headers = dict(headers or {})
        if error.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        status = status or self.status_of(error)
        body = json.dumps(self.document(error, status), ensure_ascii=False).encode("utf-8", "replace")
        super().__init__(body, status, headers)

    @staticmethod
    def status_of(error: errors.ChatapiError) -> int:
        return status_of(error)

    @staticmethod
    def document(error: errors.ChatapiError, status: int) -> dict[str, Any]:
        return {**problem(error), "status": status}


_OPENAI: tuple[tuple[type[errors.ChatapiError], str], ...] = (
    (errors.CallerError, "invalid_request_error"),
    (errors.TooMany, "rate_limit_error"),
)


def fault(error: errors.ChatapiError) -> dict[str, Any]:
    """An error in OpenAI's format."""
    kind = next((kind for family, kind in _OPENAI if isinstance(error, family)), "server_error")
    return {"type": kind, "code": error.code, "message": error.message, "param": error.details.get("param")}


class OpenAIProblem(Problem):
    """An error response for OpenAI's clients, which expect 400 for an invalid value."""

    media_type = "application/json"

    @staticmethod
    def status_of(error: errors.ChatapiError) -> int:
        status = status_of(error)
        return 400 if status == 422 else status

    @staticmethod
    def document(error: errors.ChatapiError, status: int) -> dict[str, Any]:
        return {"error": {**error.details, **fault(error), "request_id": request_id.get()}}


def error_response(
    path: str, error: errors.ChatapiError, headers: dict[str, str] | None = None, status: int | None = None
) -> Problem:
    """The error response in the format of the API that the path belongs to."""
    kind = OpenAIProblem if is_openai(path) else Problem
    return kind(error, headers, status)


def is_openai(path: str) -> bool:
    """Whether the path belongs to OpenAI's API."""
    return path == "/v1" or path.startswith("/v1/")
