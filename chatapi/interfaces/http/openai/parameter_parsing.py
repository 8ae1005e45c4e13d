"""Request parameters: each one is supported or rejected with an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from chatapi.errors import Unprocessable
from chatapi.interfaces.http.validation import validated

M = TypeVar("M", bound=BaseModel)


class Parameters(BaseModel):
    """The parameters of one of OpenAI's requests."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


def parse_parameters(
    kind: type[M], values: Mapping[str, Any], unsupported: Mapping[str, str] | None = None, strict: bool = False
) -> M:
    """Parses the parameters. `unsupported`: OpenAI's parameters that are not supported, each with the remedy.

    Raises Unprocessable and RequestValidationError. Null and empty values count as omitted.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    for name, remedy in (unsupported or {}).items():
        if name in given:
            raise Unprocessable(
                f"{name} is not supported; {remedy}", code="unsupported_parameter", details={"param": name}
            )
    return validated(kind, given, strict)
