"""Errors of an engine in another process, as plain values and back."""

from __future__ import annotations

import traceback
from typing import Any

from chatapi import errors
from chatapi.engines import ContextOverflow
from chatapi.errors import ChatapiError, EngineFailed, WaitAndRetry


class EngineFault(Exception):
    """What an engine raised in another process, with the traceback from there."""


def described(error: Exception) -> dict[str, Any]:
    """The error as plain values."""
    if isinstance(error, ContextOverflow):
        return {"needed": error.needed, "context": error.context, "remedy": error.remedy}
    if isinstance(error, ChatapiError):
        about = {"class": type(error).__name__, "code": error.code, "message": error.message}
        return {**about, "details": error.details, "retry_after": error.retry_after}
    return {"fault": "".join(traceback.format_exception(error))}


def rebuilt(about: dict[str, Any]) -> Exception:
    """The error that `described` described; EngineFault for one of a library."""
    if "fault" in about:
        return EngineFault(about["fault"])
    if "needed" in about:
        return ContextOverflow(about["needed"], about["context"], about["remedy"])
    kind = getattr(errors, str(about["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ChatapiError)) or kind is errors.MethodNotAllowed:
        kind = EngineFailed
    if issubclass(kind, WaitAndRetry):
        return kind(about["message"], code=about["code"], retry_after=about["retry_after"])
    return kind(about["message"], code=about["code"], details=about["details"])
