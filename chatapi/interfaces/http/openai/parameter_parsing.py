"""Request parameters: each one is supported or rejected with an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chatapi.errors import Unprocessable, describe_validation_error

M = TypeVar("M", bound=BaseModel)


class Parameters(BaseModel):
    """The parameters of one of OpenAI's requests."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


def parse_parameters(
    kind: type[M], values: Mapping[str, Any], unsupported: Mapping[str, str] | None = None, strict: bool = False
) -> M:
    """Parses the parameters. `unsupported`: OpenAI's parameters that are not supported, each with the remedy.

    Raises Unprocessable, whose `param` is the first invalid parameter. Null and empty values count as omitted.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    for name, remedy in (unsupported or {}).items():
        if name in given:
            raise Unprocessable(
                f"{name} is not supported; {remedy}", code="unsupported_parameter", details={"param": name}
            )
    try:
        return kind.model_validate(given, strict=strict)
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> Unprocessable:
    faults = [(".".join(map(str, fault["loc"])), fault) for fault in error.errors(include_url=False)]
    message = "; ".join(
        f"there is no parameter {name!r}"
        if fault["type"] == "extra_forbidden"
        else f"{name} {describe_validation_error(fault)}"
        for name, fault in faults
    )
    unknown = faults[0][1]["type"] == "extra_forbidden"
    param = str(faults[0][1]["loc"][0]) if faults[0][1]["loc"] else None
    return Unprocessable(message, code="unknown_parameter" if unknown else "invalid_value", details={"param": param})
