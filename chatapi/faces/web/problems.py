"""Errors as `application/problem+json` (RFC 9457), with our code."""

from __future__ import annotations

import json
import math

from starlette.responses import Response

from chatapi import errors
from chatapi.logs import request_id

STATUS: tuple[tuple[type[errors.ChatapiError], int, str], ...] = (
    (errors.Unauthorized, 401, "Not authorised"),
    (errors.Forbidden, 403, "Not allowed from there"),
    (errors.Unknown, 404, "Not found"),
    (errors.Conflict, 409, "Not as the box is set"),
    (errors.NotAcceptable, 406, "The request contradicts itself"),
    (errors.TooSlow, 408, "Too slow"),
    (errors.TooLarge, 413, "Too large"),
    (errors.Unsupported, 415, "Not supported"),
    (errors.Unprocessable, 422, "A value cannot be used"),
    (errors.CallerError, 400, "The request cannot be understood"),
    (errors.WaitAndRetry, 503, "Not now"),
    (errors.StorageFault, 507, "Storage failed"),
    (errors.ChatapiError, 500, "Our fault"),
)
"""The first class that fits decides."""

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
        document = problem(error)
        if status is not None:
            document["status"] = status
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
        super().__init__(body, status or status_of(error), headers)
