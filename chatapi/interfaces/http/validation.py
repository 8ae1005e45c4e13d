"""Invalid requests: one function checks values, and one handler puts every validation error into words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from chatapi.errors import Unprocessable, describe_validation_error
from chatapi.interfaces.http.problems import is_openai

M = TypeVar("M", bound=BaseModel)


def validated(kind: type[M], values: Mapping[str, Any], strict: bool = False) -> M:
    """The values as this model. Raises RequestValidationError, as FastAPI does for the parameters that it checks."""
    try:
        return kind.model_validate(values, strict=strict)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from None


async def reject_invalid(request: Request, error: Exception) -> NoReturn:
    """The handler of RequestValidationError. Raises Unprocessable, whose details name the faulty values."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    # FastAPI's locations begin with the part of the request.
    faults = [(_name(fault), fault) for fault in error.errors()]
    names, unknown = [name for name, _ in faults], [fault["type"] == "extra_forbidden" for _, fault in faults]
    openai = is_openai(request.url.path)
    noun = "parameter" if openai else "option"
    message = "; ".join(
        f"there is no {noun} {name!r}" if extra else f"{name} {describe_validation_error(fault)}"
        for (name, fault), extra in zip(faults, unknown, strict=True)
    )
    if openai:
        code = "unknown_parameter" if unknown[0] else "invalid_value"
        raise Unprocessable(message, code=code, details={"param": names[0].partition(".")[0] or None}) from None
    raise Unprocessable(message, details={"fields": names}) from None


def _name(fault: Mapping[str, Any]) -> str:
    """The path of the faulty value, without the names that pydantic gives to the parts of a union."""
    steps = [str(step) for step in fault["loc"][1:]]
    if fault["type"] != "extra_forbidden":
        steps = [step for step in steps if re.fullmatch(r"[a-z0-9_\[\]-]+", step)] or steps
    return ".".join(steps)
