"""Errors with our code: as `application/problem+json` (RFC 9457), and under `/v1` in OpenAI's form."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response

from chatapi import errors
from chatapi.observability.logs import request_id

STATUS: tuple[tuple[type[errors.ChatapiError], int, str], ...] = (
    (errors.Unauthorized, 401, "Not authorised"),
    (errors.Forbidden, 403, "Not allowed"),
    (errors.NotFound, 404, "Not found"),
    (errors.WrongMode, 409, "Not as the box is set"),
    (errors.NotAcceptable, 406, "The request contradicts itself"),
    (errors.TooSlow, 408, "Too slow"),
    (errors.TooLarge, 413, "Too large"),
    (errors.Unsupported, 415, "Not supported"),
    (errors.Unprocessable, 422, "A value cannot be used"),
    (errors.CallerError, 400, "The request cannot be understood"),
    (errors.TooMany, 429, "Too many requests"),
    (errors.WaitAndRetry, 503, "Not now"),
    (errors.StorageError, 507, "Storage failed"),
    (errors.ChatapiError, 500, "Our fault"),
)
"""The first class that fits decides."""

MEANINGS = {
    400: "The request cannot be understood; under /v1 also where a value cannot be used.",
    401: "The API key is missing or wrong.",
    403: "The host name or the calling page is not allowed, or the key is not for this.",
    404: "What it names is not here.",
    406: "Accept contradicts what is asked for.",
    408: "The body came too slowly.",
    409: "The microphone's mode is another one.",
    413: "Body, audio or prompt is too large.",
    415: "The media type is not taken.",
    422: "A value cannot be used, or the audio holds no speech.",
    429: "More requests than the key is for, or too many wrong keys; Retry-After says how long.",
    500: "An engine failed, or the file of keys is damaged.",
    503: "Busy or still loading; Retry-After says when to try again.",
    507: "The disk is full.",
}
"""Status -> when it comes, for the OpenAPI document."""
EVERYWHERE = (401, 403, 429, 500)
"""Those that any route may answer with."""

MEDIA_TYPE = "application/problem+json"


def status_of(error: errors.ChatapiError) -> int:
    return next(status for kind, status, _ in STATUS if isinstance(error, kind))


def problem(error: errors.ChatapiError) -> dict[str, object]:
    """The document's members."""
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
    """The reply to a request that failed before anything was sent."""

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
    """An error as OpenAI writes it."""
    kind = next((kind for family, kind in _OPENAI if isinstance(error, family)), "server_error")
    return {"type": kind, "code": error.code, "message": error.message, "param": error.details.get("param")}


class OpenAIProblem(Problem):
    """The same for OpenAI's clients, which know a value that cannot be used by 400."""

    media_type = "application/json"

    @staticmethod
    def status_of(error: errors.ChatapiError) -> int:
        status = status_of(error)
        return 400 if status == 422 else status

    @staticmethod
    def document(error: errors.ChatapiError, status: int) -> dict[str, Any]:
        return {"error": {**error.details, **fault(error), "request_id": request_id.get()}}


def refusal(
    path: str, error: errors.ChatapiError, headers: dict[str, str] | None = None, status: int | None = None
) -> Problem:
    """The reply in the words of whoever asks for this path."""
    kind = OpenAIProblem if path == "/v1" or path.startswith("/v1/") else Problem
    return kind(error, headers, status)
