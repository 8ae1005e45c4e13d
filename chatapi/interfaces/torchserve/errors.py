"""Errors in TorchServe's form: a status, the name of a Java exception, and a message."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response

from chatapi import errors

STATUS: tuple[tuple[type[errors.ChatapiError], int, str], ...] = (
    # TorchServe answers a missing or wrong token with 400, and its clients compare that.
    (errors.Unauthorized, 400, "InvalidKeyException"),
    (errors.Forbidden, 403, "InvalidKeyException"),
    (errors.NotFound, 404, "ResourceNotFoundException"),
    (errors.MethodNotAllowed, 405, "MethodNotAllowedException"),
    (errors.TooSlow, 408, "RequestTimeoutException"),
    (errors.WrongMode, 409, "ConflictStatusException"),
    (errors.TooLarge, 413, "BadRequestException"),
    (errors.CallerError, 400, "BadRequestException"),
    (errors.WaitAndRetry, 503, "ServiceUnavailableException"),
    (errors.ModelMissing, 503, "ServiceUnavailableException"),
    (errors.StorageError, 507, "InternalServerException"),
    (errors.ChatapiError, 500, "InternalServerException"),
)
"""Error class, HTTP status and exception; the first class that matches decides."""
EXCEPTIONS = {
    "model_not_registered": "ModelNotFoundException",
    "version_not_registered": "ModelVersionNotFoundException",
    "default_version": "InvalidModelVersionException",
    "invalid_archive": "InvalidModelException",
}
"""Error code -> the exception, where TorchServe has one of its own for it."""


class ModelNotRegistered(errors.NotFound):
    """The request names a model that is not registered."""

    code = "model_not_registered"


def status_of(error: errors.ChatapiError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status, _ in STATUS if isinstance(error, kind))


def document(error: errors.ChatapiError) -> dict[str, Any]:
    """An error as TorchServe's clients expect it."""
    status, name = next((status, name) for kind, status, name in STATUS if isinstance(error, kind))
    return {"code": status, "type": EXCEPTIONS.get(error.code, name), "message": error.message}


def error_response(path: str, error: errors.ChatapiError, headers: dict[str, str] | None = None) -> Response:
    """The response to an error."""
    del path
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return json_response(document(error), status_of(error), headers)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response, indented as TorchServe's."""
    content = json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Response(content, status, headers, media_type="application/json")
