"""Request parameters: each is implemented, ignored and named in a header, or rejected by an error that names it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chatapi.errors import CallerError, Unprocessable, describe_validation_error
from chatapi.interfaces.http.described import DescribedModel
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai.parameter_table import Endpoint
from chatapi.interfaces.http.validation import validated

LIKENESS = 0.87
"""Ratio of difflib from which a name is a misspelling: `tool` of `tools` is one, `context` of `content` is not."""
SHORTEST = 4
"""Length of the shortest name that may be a misspelling, in characters."""
LONGEST = 40
"""Length of the longest one."""

M = TypeVar("M", bound=BaseModel)


class Parameters(DescribedModel):
    """The parameters of one of OpenAI's requests."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class RequestObject(DescribedModel):
    """A request, or an object inside of one. It keeps its unknown members, which are named as ignored."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


def invalid_parameter(param: str, message: str, code: str) -> Unprocessable:
    """The error for an invalid parameter."""
    return Unprocessable(message, code=code, details={"param": param})


def parse_parameters(
    kind: type[M], values: Mapping[str, Any], endpoint: Endpoint, ignored: IgnoredParameters, strict: bool = False
) -> M:
    """Parses the parameters of an endpoint; adds the names of those without an effect to `ignored`.

    Raises Unprocessable and RequestValidationError. Null and empty values count as omitted.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    known = implemented(given, kind.model_fields, endpoint, ignored)
    parsed = validated(kind, known, strict)
    ignore_inside(parsed, ignored)
    return parsed


def parse_object(kind: type[M], values: Mapping[str, Any], endpoint: Endpoint, ignored: IgnoredParameters) -> M:
    """Parses a JSON object as a RequestObject; adds the names of what has no effect to `ignored`. Null is as omitted.

    Raises Unprocessable with the invalid `param` in its details.
    """
    given = {name: value for name, value in values.items() if value is not None}
    known = implemented(given, kind.model_fields, endpoint, ignored)
    try:
        body = kind.model_validate(known, strict=True)
    except ValidationError as error:
        raise _first_fault(error) from None
    ignore_inside(body, ignored)
    return body


def implemented(
    values: Mapping[str, Any], names: Collection[str], endpoint: Endpoint, ignored: IgnoredParameters
) -> dict[str, Any]:
    """The values that the endpoint implements, which have these `names`; adds the other names to `ignored`.

    Raises Unprocessable for a name that the endpoint rejects (unsupported_parameter) and for a misspelled one
    (unknown_parameter).
    """
    for name, value in values.items():
        if name in names:
            continue
        if name in endpoint.rejected:
            message = f"{name} is not supported: {endpoint.rejected[name]}"
            raise invalid_parameter(name, message, "unsupported_parameter")
        if name not in endpoint.ignored:
            _ignore_unknown(name, "", names, ignored)
        elif not endpoint.ignored[name].honours(value):
            ignored.add(name)
    return {name: value for name, value in values.items() if name in names}


def ignore_inside(value: Any, ignored: IgnoredParameters, place: str = "") -> None:
    """Adds the paths of unknown fields inside of a parsed model to `ignored`, without the numbers of items.

    Raises Unprocessable (unknown_parameter) for a misspelled one.
    """
    if isinstance(value, (list, tuple)):
        for each in value:
            ignore_inside(each, ignored, f"{place}[]")
    elif isinstance(value, BaseModel):
        names = {info.alias or name: name for name, info in type(value).model_fields.items()}
        for name, unknown in (value.model_extra or {}).items():
            # A field without a value says nothing.
            if unknown not in (None, "", [], {}):
                _ignore_unknown(name, place, names, ignored)
        for name, field in names.items():
            ignore_inside(getattr(value, field), ignored, f"{place}.{name}" if place else name)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Names the parameters as this endpoint does in errors of the service, which has the names of a chat.

    `names`: the start of the parameter in a chat -> the parameter here.
    """
    try:
        yield
    except CallerError as error:
        param = str(error.details.get("param") or "")
        for start, name in names.items():
            if param.startswith(start):
                error.details["param"] = name
                error.message = re.sub(rf"{start}\[\d+\]", name, error.message)
        raise


def _ignore_unknown(name: str, place: str, names: Collection[str], ignored: IgnoredParameters) -> None:
    """Adds an unknown name inside `place` to `ignored`. Raises Unprocessable when it is nearly one of `names`."""
    path = f"{place}.{name}" if place else name
    # Each name is compared once, and no more than the header has: clients choose how many there are.
    if not ignored.full and path not in ignored and (meant := _nearest(name, names)) is not None:
        raise invalid_parameter(path, f"there is no parameter {path!r}; is {meant} meant?", "unknown_parameter")
    ignored.add(path)


def _nearest(name: str, names: Collection[str]) -> str | None:
    """The one of `names` that a name is a misspelling of; None: it is another word."""
    if not SHORTEST <= len(name) <= LONGEST:
        return None
    plain = {_plain(each): each for each in names}
    found = get_close_matches(_plain(name), plain, 1, LIKENESS)
    return plain[found[0]] if found else None


def _first_fault(error: ValidationError) -> Unprocessable:
    """The error for the first fault of a RequestObject; the other faults of a union follow from it."""
    fault = error.errors(include_url=False)[0]
    place = ""
    for step in fault["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in _fields():
            place += f".{step}" if place else step
    if fault["type"].startswith("union_tag"):
        known = str(fault.get("ctx", {}).get("expected_tags", "")).replace("=", "") or "system, user, assistant, tool"
        return invalid_parameter(place, f"{place} has an unknown type; known are: {known}", "invalid_value")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return invalid_parameter(place, f"{place} {describe_validation_error(fault)}", code)


@cache
def _fields() -> frozenset[str]:
    """Field names of all request objects; other names in a fault's location are pydantic's own."""
    kinds = [RequestObject]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return frozenset(info.alias or name for kind in kinds for name, info in kind.model_fields.items())


def _plain(name: str) -> str:
    """The name in lower case without marks, so that `maxTokens` is like `max_tokens`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
