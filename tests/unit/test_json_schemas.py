"""Which JSON schemas an engine accepts, and that it survives the largest of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from answers import generate
from chatapi.engines import PromptMessage, Sampling, Tool
from chatapi.engines.llm import json_schemas, pattern_size
from chatapi.errors import Unprocessable
from chatapi.settings import LlamaCppSettings as Table
from chatapi.settings import Settings
from conftest import installed_model

Schema = dict[str, Any]


def array(inner: Schema) -> Schema:
    return {"type": "array", "items": inner, "minItems": 1}


def object_with(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def ladder(steps: int, rung: Callable[[Schema], Schema] = lambda inner: inner) -> Schema:
    """Definitions each of which contains the next one twice, wrapped by `rung`."""
    definitions: Schema = {f"a{at}": {"anyOf": [rung(ref(f"a{at + 1}"))] * 2} for at in range(steps)}
    return {**ref("a0"), "$defs": {**definitions, f"a{steps}": {"type": "integer"}}}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def nested(levels: int, around: Callable[[Schema], Schema]) -> Schema:
    inner: Schema = {"type": "integer"}
    for _ in range(levels):
        inner = around(inner)
    return inner


def recursive(name: str, definition: Schema) -> Schema:
    return {**ref(name), "$defs": {name: definition}}


OPERATORS = ("add", "subtract", "multiply", "divide")
COMMON: dict[str, Schema] = {
    "many values": {"enum": [f"value number {at}" for at in range(200)]},
    "many properties": {
        "type": "object",
        "properties": {f"property_{at}": {"type": "string", "maxLength": 100} for at in range(50)},
    },
    "deep": nested(50, lambda inner: object_with(inner=inner)),
    "tree": recursive(
        "node",
        object_with(value={"type": "integer"}, left={"anyOf": [ref("node"), {"type": "null"}]}, right=ref("node")),
    ),
    "expressions": recursive(
        "e",
        {
            "anyOf": [
                {"type": "number"},
                *(object_with(op={"const": each}, left=ref("e"), right=ref("e")) for each in OPERATORS),
            ]
        },
    ),
    "any JSON": recursive(
        "json",
        {
            "anyOf": [
                *({"type": each} for each in ("null", "string", "number", "boolean")),
                {"type": "array", "items": ref("json")},
                {"type": "object", "additionalProperties": ref("json")},
            ]
        },
    ),
    "nullable": object_with(a={"type": ["string", "null"]}, b={"type": ["integer", "null"], "minimum": 3}),
    "all of two": {
        **ref("c"),
        "$defs": {"b": object_with(x={"type": "integer"}), "c": {"allOf": [ref("b"), object_with(y={})]}},
    },
    "numbers": {"type": "integer", "minimum": -(10**15), "maximum": 10**15},
    "long text": {"type": "string", "maxLength": 2000},
    "host": {"type": "string", "pattern": r"^([a-z]{1,63}\.){1,10}[a-z]+$"},
    "mail": {"type": "string", "pattern": r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$"},
    "words": {"type": "string", "pattern": "^(yes|no|maybe|never)( (yes|no|maybe|never))*$"},
}
"""Schemas that clients commonly send."""
REJECTED: dict[str, tuple[Schema, str]] = {
    "references doubled": (ladder(40), "can begin in"),
    "doubled arrays": (ladder(40, array), "can have the same beginning"),
    "doubled objects": (ladder(40, lambda inner: object_with(a=inner)), "can have the same beginning"),
    "doubled around": (recursive("a", {"anyOf": [array(ref("a")), array(ref("a"))]}), "can have the same beginning"),
    "doubled behind a name": (
        recursive("a", {"oneOf": [object_with(x=ref("a"), k={"const": each}) for each in (1, 2)]}),
        "can have the same beginning",
    ),
    "types twice": (nested(30, lambda inner: {**object_with(a=inner), "type": ["object", "object"]}), "named twice"),
    "all of doubled": (
        {
            **ref("a0"),
            "$defs": {
                **{f"a{at}": object_with(x={"allOf": [ref(f"a{at + 1}")] * 2}) for at in range(40)},
                "a40": object_with(x={"type": "integer"}),
            },
        },
        "written out",
    ),
    "long texts": (
        object_with(**{f"p{at}": {"type": "string", "maxLength": 2000} for at in range(100)}),
        "written out",
    ),
    "values": ({"enum": [f"aaaaaaaaaaaaaaaa{at}" for at in range(1500)]}, "can have the same beginning"),
    "optional": ({"type": "object", "properties": {f"p{at}": {} for at in range(1500)}}, "written out"),
    "parts": (object_with(**{f"p{at}": object_with(a={}) for at in range(3000)}), "more than 4000 parts"),
    "deep": (nested(120, lambda inner: object_with(a=inner)), "nested more than 100 levels"),
    "a name": (object_with(**{"€" * 30000: {}}), "path is longer than"),
    "counted": ({"type": "string", "pattern": "^((a{1,40}){1,40}){1,40}$"}, "can have the same beginning"),
    "counted, or none": ({"type": "string", "pattern": "^((a{0,40}){0,40})$"}, "what may be empty"),
    "written out": ({"type": "string", "pattern": "^(((a{9}){99}){99}){9}$"}, "written out"),
    "maybe many": ({"type": "string", "pattern": "^" + "(a?)" * 200 + "$"}, "200 repetitions without a fixed number"),
    "alike": ({"type": "string", "pattern": "^(a|a|a|[a-z]|a)+$"}, "in more than 4 ways"),
}
"""Each of these hangs the language model, kills the process, or nearly does so."""


@pytest.mark.parametrize("name", COMMON)
def test_common_schema_is_accepted(name: str) -> None:
    json_schemas.check(COMMON[name])


@pytest.mark.parametrize("name", REJECTED)
def test_schema_that_grows_without_bound_is_rejected_at_once(name: str) -> None:
    schema, message = REJECTED[name]
    since = time.process_time()
    with pytest.raises(Unprocessable, match=message) as raised:
        json_schemas.check(schema)
    assert raised.value.code == "invalid_json_schema"
    assert time.process_time() - since < 5


def test_tools_are_measured_as_their_combined_schema() -> None:
    tools = tuple(Tool(f"f{at}", "", {"enum": [f"{at} {each}" for each in range(300)]}) for at in range(3))

    class Engine:
        capabilities = frozenset(("schema",))

        def generate(self, _: object, sampling: Sampling, stop: object) -> Any:
            assert sampling.schema is not None
            json_schemas.check(sampling.schema)
            yield from ()

    engine: Any = Engine()
    assert list(generate(engine, [], Sampling(tools=tools, tool_choice="required"))) == []
    doubled = (*tools, Tool("g", "", ladder(40)))
    with pytest.raises(Unprocessable) as raised:
        list(generate(engine, [], Sampling(tools=doubled, tool_choice="required")))
    assert raised.value.details == {"param": "tools"}


@pytest.mark.parametrize(
    ("pattern", "elements", "opened"),
    [("^abc$", 5, 0), ("^(ab|c){3}$", 14, 0), (r"^[a-z\]]?\d*$", 13, 2), ("^(?:a+)?$", 7, 2), ("a{2}{", 5, 0)],
)
def test_pattern_is_measured(pattern: str, elements: int, opened: int) -> None:
    found = pattern_size.size(pattern)
    assert (found.elements, found.open) == (elements, opened)


@pytest.fixture(scope="module")
def llama() -> Any:
    pytest.importorskip("xllamacpp")
    from chatapi.engines.llm.llama_cpp import LlamaCpp

    engine = LlamaCpp(Settings(llama_cpp=Table(context=1024, slots=1)), [installed_model("smollm2-135m-instruct")])
    yield engine
    engine.close()


NEARLY_REJECTED: dict[str, Schema] = {
    "begins in many ways": ladder(8),
    "arrays alike": ladder(6, array),
    "objects alike": ladder(6, lambda inner: object_with(a=inner)),
    "values": {"enum": [f"aaaaaaaaaaaaaaaa{at}" for at in range(490)]},
    "optional": {"type": "object", "properties": {f"p{at}": {} for at in range(400)}},
    "long texts": object_with(**{f"p{at}": {"type": "string", "minLength": 900} for at in range(60)}),
    "counted": {"type": "string", "pattern": "^(a{1,40}){1,40}$"},
    "loops": {"type": "string", "pattern": "^((a+)+b?)+$"},
}
"""Schemas just below the limits."""


@pytest.mark.real
@pytest.mark.parametrize("name", [*COMMON, *NEARLY_REJECTED])
def test_engine_survives_accepted_schemas(llama: Any, name: str) -> None:
    schema = {**COMMON, **NEARLY_REJECTED}[name]
    since = time.process_time()
    pieces = list(llama.generate([PromptMessage("user", "Answer.")], Sampling(8, temperature=0, schema=schema)))
    assert pieces[-1].finish_reason in ("stop", "length")
    assert time.process_time() - since < 30
