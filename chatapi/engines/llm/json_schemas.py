"""JSON schemas of completions, checked before a library gets them, which may not survive an invalid one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chatapi.engines.llm import pattern_size, schema_size
from chatapi.errors import Unprocessable

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
MOST_TIMES = 2000
"""Most repetitions of anything in a grammar (MAX_REPETITION_THRESHOLD, llama.cpp's src/llama-grammar.cpp)."""
COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
LARGEST = 2**53
"""Largest whole number that every JSON parser keeps exactly."""
MOST_OPEN = 20
MOST_LOOPED = 4
"""Most repetitions without a fixed number in a pattern."""
"""Most ways to continue at each character of a repetition in a pattern; tokens have up to some dozen characters."""
LONGEST_PLACE = 4000
"""Most bytes of the names from the root to a part. llama.cpp names rules after them, and crashes at 90,000."""
MOST_PARTS = 4000
MOST_NESTED = 100
TABLES = ("properties", "$defs", "definitions", "patternProperties")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
ALTERNATIVES = ("anyOf", "oneOf", "allOf")


def check(schema: Mapping[str, Any]) -> None:
    """Raises Unprocessable (invalid_json_schema) where the schema is invalid, or larger than an engine can follow."""
    _check_nesting(schema)
    parts: dict[int, Mapping[str, Any]] = {}
    waiting: list[tuple[str, Any]] = [("#", schema)]
    while waiting:
        place, part = waiting.pop()
        if not isinstance(part, Mapping):
            raise _invalid(place, "it must be an object")
        if id(part) in parts:
            continue
        parts[id(part)] = part
        if len(parts) > MOST_PARTS:
            raise _invalid("#", f"it has more than {MOST_PARTS} parts")
        if len(place.encode()) > LONGEST_PLACE:
            raise _invalid(place, f"the path is longer than {LONGEST_PLACE} bytes")
        _check_words(place, part)
        _check_numbers(place, part)
        if "$ref" in part:
            # It may point to a place where no schema is expected otherwise.
            waiting.append((part["$ref"], _resolved(schema, place, part["$ref"])))
        waiting += _inner(place, part)
    _check_ends(schema, parts.values())
    _check_size(schema)


def _check_nesting(schema: Mapping[str, Any]) -> None:
    """Rejects deep nesting first: everything below, here and in the libraries, is recursive."""
    level: list[Any] = [schema]
    for _ in range(2 * MOST_NESTED):
        level = [each for one in level for each in (one.values() if isinstance(one, Mapping) else one)]
        level = [each for each in level if isinstance(each, (Mapping, list))]
        if not level:
            return
    raise _invalid("#", f"it is nested more than {MOST_NESTED} levels deep")


def _check_size(schema: Mapping[str, Any]) -> None:
    try:
        found = schema_size.size(schema, lambda part: _resolved(schema, "#", part["$ref"]))
    except RecursionError:
        raise _invalid("#", "its references are nested too deeply") from None
    for what, size, most in (
        ("written out, it has {} elements", found.elements, schema_size.MOST_ELEMENTS),
        ("its alternatives can begin in {} ways", found.starts, schema_size.MOST_STARTS),
        ("up to {} of its alternatives can have the same beginning", found.states, schema_size.MOST_STATES),
    ):
        if size > most:
            counted = size if size < 10**9 else "more than 10**9"
            raise _invalid("#", f"{what.format(counted)} (at most {most})")


def _check_words(place: str, part: Mapping[str, Any]) -> None:
    kinds = part.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if any(kinds.count(kind) > 1 for kind in kinds):
        raise _invalid(place, "a type is named twice")
    if unknown := [kind for kind in kinds if kind not in TYPES]:
        raise _invalid(place, f"there is no type {unknown[0]!r}")
    if "enum" in part and not (isinstance(part["enum"], list) and part["enum"]):
        raise _invalid(place, "enum must be a list of values")
    required = part.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _invalid(place, "required must be a list of names")
    if "pattern" in part:
        _check_pattern(place, part["pattern"])


def _check_pattern(place: str, pattern: Any) -> None:
    try:
        re.compile(pattern)
        times = [int(each) for each in re.findall(r"\d+", " ".join(re.findall(r"\{[\d,]+\}", pattern)))]
    except (re.error, TypeError, ValueError, RecursionError, OverflowError) as error:
        # Python rejects numbers with thousands of digits.
        raise _invalid(place, f"its pattern cannot be used: {error}") from error
    if any(each > MOST_TIMES for each in times):
        raise _invalid(place, f"its pattern repeats more than {MOST_TIMES} times")
    found = pattern_size.size(pattern)
    if found.open > MOST_OPEN:
        raise _invalid(place, f"its pattern has {found.open} repetitions without a fixed number (at most {MOST_OPEN})")
    if found.looped > MOST_LOOPED:
        problem = f"its pattern repeats what may be empty, or what can continue in more than {MOST_LOOPED} ways"
        raise _invalid(place, problem)


def _check_numbers(place: str, part: Mapping[str, Any]) -> None:
    for name in COUNTS:
        times = part.get(name, 0)
        if type(times) is not int or not 0 <= times <= MOST_TIMES:
            raise _invalid(place, f"{name} must be a whole number up to {MOST_TIMES}")
    for name in BOUNDS:
        bound = part.get(name, 0)
        if type(bound) not in (int, float) or not abs(bound) <= LARGEST:
            raise _invalid(place, f"{name} must be a number up to 2**53")


def _inner(place: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas in a part, with their paths."""
    for name in TABLES:
        table = part.get(name, {})
        if not isinstance(table, Mapping):
            raise _invalid(place, f"{name} must be an object")
        yield from ((f"{place}/{name}/{key}", each) for key, each in table.items())
    for name in LISTS:
        several = part.get(name, [None])
        if not isinstance(several, list) or not several:
            raise _invalid(place, f"{name} must be a list of schemas")
        yield from ((f"{place}/{name}/{at}", each) for at, each in enumerate(several) if name in part)
    if "items" in part:
        yield f"{place}/items", part["items"]
    if not isinstance(part.get("additionalProperties", True), bool):
        yield f"{place}/additionalProperties", part["additionalProperties"]


def _resolved(whole: Any, place: str, reference: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise _invalid(place, "$ref must point into the schema itself, as #/$defs/name does")
    for step in reference[2:].split("/"):
        whole = whole.get(step) if isinstance(whole, Mapping) else None
    if not isinstance(whole, Mapping):
        raise _invalid(place, f"$ref points to {reference}, which does not exist")
    return whole


def _check_ends(schema: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> None:
    """Rejects references that lead back to themselves without generating anything."""
    around: dict[int, bool] = {}
    """Part -> whether it is being visited, or was."""

    def follow(part: Mapping[str, Any]) -> None:
        if around.get(id(part)):
            raise _invalid("#", "a $ref stands for itself")
        if id(part) in around:
            return
        around[id(part)] = True
        if "$ref" in part:
            follow(_resolved(schema, "#", part["$ref"]))
        for name in ALTERNATIVES:
            for each in part.get(name, ()):
                follow(each)
        around[id(part)] = False

    try:
        for each in parts:
            follow(each)
    except RecursionError:
        raise _invalid("#", "its references are nested too deeply") from None


def _invalid(place: str, problem: str) -> Unprocessable:
    return Unprocessable(
        f"the JSON schema cannot be followed at {place[:200]}: {problem}",
        code="invalid_json_schema",
        details={"param": "response_format"},
    )
