"""What a request asks, checked by name: every parameter is honoured or refused, and the refusal names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chatapi.errors import Unprocessable, describe_validation_error

M = TypeVar("M", bound=BaseModel)


class Parameters(BaseModel):
    """Those of one call of OpenAI's."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


def understood(
    kind: type[M], values: Mapping[str, Any], refused: Mapping[str, str] | None = None, strict: bool = False
) -> M:
    """The parameters. `refused`: what OpenAI's clients can ask and is not done here, each with what to do instead.

    Raises Unprocessable, whose `param` is the first that is wrong. What is null counts as not given.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    for name, instead in (refused or {}).items():
        if name in given:
            raise Unprocessable(
                f"{name} is not taken here; {instead}", code="unsupported_parameter", details={"param": name}
            )
    try:
        return kind.model_validate(given, strict=strict)
    except ValidationError as error:
        raise _told(error) from None


def _told(error: ValidationError) -> Unprocessable:
    faults = [(".".join(map(str, fault["loc"])), fault) for fault in error.errors(include_url=False)]
    told = "; ".join(
        f"there is no parameter {name!r}"
        if fault["type"] == "extra_forbidden"
        else f"{name} {describe_validation_error(fault)}"
        for name, fault in faults
    )
    unknown = faults[0][1]["type"] == "extra_forbidden"
    param = str(faults[0][1]["loc"][0]) if faults[0][1]["loc"] else None
    return Unprocessable(told, code="unknown_parameter" if unknown else "invalid_value", details={"param": param})
