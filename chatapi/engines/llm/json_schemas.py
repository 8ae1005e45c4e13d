"""JSON schemas that an answer is to fit, judged before a library is given them, which may not survive a broken one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chatapi.engines.llm import pattern_size, schema_size
from chatapi.errors import Unprocessable

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
MOST_TIMES = 2000
"""Most that anything in a grammar is repeated (MAX_REPETITION_THRESHOLD, llama.cpp's src/llama-grammar.cpp)."""
COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
LARGEST = 2**53
"""Of whole numbers, those that every JSON parser keeps exactly."""
MOST_OPEN = 20
MOST_LOOPED = 4
"""Ways to go on at each character of what a pattern repeats; tokens have up to some dozen characters."""
LONGEST_PLACE = 4000
"""Bytes of the names from the top to a part. Rules are named after it, and of one of 90,000 llama.cpp dies."""
MOST_PARTS = 4000
MOST_NESTED = 100
TABLES = ("properties", "$defs", "definitions", "patternProperties")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
ALTERNATIVES = ("anyOf", "oneOf", "allOf")


def check(schema: Mapping[str, Any]) -> None:
    """Raises Unprocessable (invalid_json_schema) that says where it is wrong, or larger than an engine can follow."""
    _check_nesting(schema)
    parts: dict[int, Mapping[str, Any]] = {}
    waiting: list[tuple[str, Any]] = [("#", schema)]
    while waiting:
        place, part = waiting.pop()
        if not isinstance(part, Mapping):
            raise _wrong(place, "it must be an object")
        if id(part) in parts:
            continue
        parts[id(part)] = part
        if len(parts) > MOST_PARTS:
            raise _wrong("#", f"it has more than {MOST_PARTS} parts")
        if len(place.encode()) > LONGEST_PLACE:
            raise _wrong(place, f"the names that lead there are longer than {LONGEST_PLACE} bytes together")
        _check_words(place, part)
        _check_numbers(place, part)
        if "$ref" in part:
            # It may point to where schemas are not looked for otherwise.
            waiting.append((part["$ref"], _resolved(schema, place, part["$ref"])))
        waiting += _inner(place, part)
    _check_ends(schema, parts.values())
    _check_size(schema)


def _check_nesting(schema: Mapping[str, Any]) -> None:
    """Everything below is looked at by functions that call themselves, here and in the libraries."""
    level: list[Any] = [schema]
    for _ in range(2 * MOST_NESTED):
        level = [each for one in level for each in (one.values() if isinstance(one, Mapping) else one)]
        level = [each for each in level if isinstance(each, (Mapping, list))]
        if not level:
            return
    raise _wrong("#", f"it is nested more than {MOST_NESTED} levels deep")


def _check_size(schema: Mapping[str, Any]) -> None:
    try:
        found = schema_size.size(schema, lambda part: _resolved(schema, "#", part["$ref"]))
    except RecursionError:
        raise _wrong("#", "its references are nested too deeply") from None
    for what, size, most in (
        ("written out, it has {} elements", found.elements, schema_size.MOST_ELEMENTS),
        ("its alternatives can begin in {} ways", found.starts, schema_size.MOST_STARTS),
        ("up to {} of its alternatives can have the same beginning", found.states, schema_size.MOST_STATES),
    ):
        if size > most:
            counted = size if size < 10**9 else "more than 10**9"
            raise _wrong("#", f"{what.format(counted)}; at most {most} can be followed")


def _check_words(place: str, part: Mapping[str, Any]) -> None:
    kinds = part.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if any(kinds.count(kind) > 1 for kind in kinds):
        raise _wrong(place, "a type is named twice")
    if unknown := [kind for kind in kinds if kind not in TYPES]:
        raise _wrong(place, f"there is no type {unknown[0]!r}")
    if "enum" in part and not (isinstance(part["enum"], list) and part["enum"]):
        raise _wrong(place, "enum must be a list of values")
    required = part.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _wrong(place, "required must be a list of names")
    if "pattern" in part:
        _check_pattern(place, part["pattern"])


def _check_pattern(place: str, pattern: Any) -> None:
    try:
        re.compile(pattern)
        times = [int(each) for each in re.findall(r"\d+", " ".join(re.findall(r"\{[\d,]+\}", pattern)))]
    except (re.error, TypeError, ValueError, RecursionError, OverflowError) as error:
        # Of a number with thousands of digits Python makes none.
        raise _wrong(place, f"its pattern cannot be used: {error}") from error
    if any(each > MOST_TIMES for each in times):
        raise _wrong(place, f"its pattern repeats more than {MOST_TIMES} times")
    found = pattern_size.size(pattern)
    if found.open > MOST_OPEN:
        raise _wrong(
            place, f"its pattern has {found.open} repetitions of no fixed number; at most {MOST_OPEN} are taken"
        )
    if found.looped > MOST_LOOPED:
        told = "its pattern repeats what can be nothing, or can be read in more than"
        raise _wrong(place, f"{told} {MOST_LOOPED} ways at a character")


def _check_numbers(place: str, part: Mapping[str, Any]) -> None:
    for name in COUNTS:
        times = part.get(name, 0)
        if type(times) is not int or not 0 <= times <= MOST_TIMES:
            raise _wrong(place, f"{name} must be a whole number up to {MOST_TIMES}")
    for name in BOUNDS:
        bound = part.get(name, 0)
        if type(bound) not in (int, float) or not abs(bound) <= LARGEST:
            raise _wrong(place, f"{name} must be a number up to 2**53")


def _inner(place: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas in it, with where they stand."""
    for name in TABLES:
        table = part.get(name, {})
        if not isinstance(table, Mapping):
            raise _wrong(place, f"{name} must be an object")
        yield from ((f"{place}/{name}/{key}", each) for key, each in table.items())
    for name in LISTS:
        several = part.get(name, [None])
        if not isinstance(several, list) or not several:
            raise _wrong(place, f"{name} must be a list of schemas")
        yield from ((f"{place}/{name}/{at}", each) for at, each in enumerate(several) if name in part)
    if "items" in part:
        yield f"{place}/items", part["items"]
    if not isinstance(part.get("additionalProperties", True), bool):
        yield f"{place}/additionalProperties", part["additionalProperties"]


def _resolved(whole: Any, place: str, reference: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise _wrong(place, "$ref must point into the schema itself, as #/$defs/name does")
    for step in reference[2:].split("/"):
        whole = whole.get(step) if isinstance(whole, Mapping) else None
    if not isinstance(whole, Mapping):
        raise _wrong(place, f"$ref points to {reference}, which is not there")
    return whole


def _check_ends(schema: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> None:
    """No reference leads back to itself before anything is written."""
    around: dict[int, bool] = {}
    """Part -> whether what it stands for is being looked at, or was."""

    def follow(part: Mapping[str, Any]) -> None:
        if around.get(id(part)):
            raise _wrong("#", "a $ref stands for itself")
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
        raise _wrong("#", "its references are nested too deeply") from None


def _wrong(place: str, told: str) -> Unprocessable:
    return Unprocessable(
        f"the JSON schema cannot be followed at {place[:200]}: {told}",
        code="invalid_json_schema",
        details={"param": "response_format"},
    )
