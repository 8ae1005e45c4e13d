"""Which JSON schemas an engine accepts, and that it survives the largest of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from chatapi.engines import PromptMessage, Sampling, Tool
from chatapi.engines.llm import json_schemas, pattern_size
from chatapi.errors import Unprocessable
from chatapi.services.turns.tool_call_parser import generate
from chatapi.settings import LlamaCppSettings as Table
from chatapi.settings import Settings
from conftest import installed_model

Schema = dict[str, Any]


def array(inner: Schema) -> Schema:
    return {"type": "array", "items": inner, "minItems": 1}


def thing(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def ladder(steps: int, rung: Callable[[Schema], Schema] = lambda inner: inner) -> Schema:
    """Every definition is twice the next one, or a rung of it."""
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
ORDINARY: dict[str, Schema] = {
    "many values": {"enum": [f"value number {at}" for at in range(200)]},
    "many properties": {
        "type": "object",
        "properties": {f"property_{at}": {"type": "string", "maxLength": 100} for at in range(50)},
    },
    "deep": nested(50, lambda inner: thing(inner=inner)),
    "tree": recursive(
        "node", thing(value={"type": "integer"}, left={"anyOf": [ref("node"), {"type": "null"}]}, right=ref("node"))
    ),
    "expressions": recursive(
        "e",
        {
            "anyOf": [
                {"type": "number"},
                *(thing(op={"const": each}, left=ref("e"), right=ref("e")) for each in OPERATORS),
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
    "nullable": thing(a={"type": ["string", "null"]}, b={"type": ["integer", "null"], "minimum": 3}),
    "all of two": {**ref("c"), "$defs": {"b": thing(x={"type": "integer"}), "c": {"allOf": [ref("b"), thing(y={})]}}},
    "numbers": {"type": "integer", "minimum": -(10**15), "maximum": 10**15},
    "long text": {"type": "string", "maxLength": 2000},
    "host": {"type": "string", "pattern": r"^([a-z]{1,63}\.){1,10}[a-z]+$"},
    "mail": {"type": "string", "pattern": r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$"},
    "words": {"type": "string", "pattern": "^(yes|no|maybe|never)( (yes|no|maybe|never))*$"},
}
"""What people ask for."""
TOO_MUCH: dict[str, tuple[Schema, str]] = {
    "references doubled": (ladder(40), "can begin in"),
    "doubled arrays": (ladder(40, array), "can have the same beginning"),
    "doubled objects": (ladder(40, lambda inner: thing(a=inner)), "can have the same beginning"),
    "doubled around": (recursive("a", {"anyOf": [array(ref("a")), array(ref("a"))]}), "can have the same beginning"),
    "doubled behind a name": (
        recursive("a", {"oneOf": [thing(x=ref("a"), k={"const": each}) for each in (1, 2)]}),
        "can have the same beginning",
    ),
    "types twice": (nested(30, lambda inner: {**thing(a=inner), "type": ["object", "object"]}), "named twice"),
    "all of doubled": (
        {
            **ref("a0"),
            "$defs": {
                **{f"a{at}": thing(x={"allOf": [ref(f"a{at + 1}")] * 2}) for at in range(40)},
                "a40": thing(x={"type": "integer"}),
            },
        },
        "written out",
    ),
    "long texts": (thing(**{f"p{at}": {"type": "string", "maxLength": 2000} for at in range(100)}), "written out"),
    "values": ({"enum": [f"aaaaaaaaaaaaaaaa{at}" for at in range(1500)]}, "can have the same beginning"),
    "optional": ({"type": "object", "properties": {f"p{at}": {} for at in range(1500)}}, "written out"),
    "parts": (thing(**{f"p{at}": thing(a={}) for at in range(3000)}), "more than 4000 parts"),
    "deep": (nested(120, lambda inner: thing(a=inner)), "nested more than 100 levels"),
    "a name": (thing(**{"€" * 30000: {}}), "path is longer than"),
    "counted": ({"type": "string", "pattern": "^((a{1,40}){1,40}){1,40}$"}, "can have the same beginning"),
    "counted, or none": ({"type": "string", "pattern": "^((a{0,40}){0,40})$"}, "what may be empty"),
    "written out": ({"type": "string", "pattern": "^(((a{9}){99}){99}){9}$"}, "written out"),
    "maybe many": ({"type": "string", "pattern": "^" + "(a?)" * 200 + "$"}, "200 repetitions without a fixed number"),
    "alike": ({"type": "string", "pattern": "^(a|a|a|[a-z]|a)+$"}, "in more than 4 ways"),
}
"""Each stops the language model for good, or kills the process, or comes near it."""


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_schema_is_taken(name: str) -> None:
    json_schemas.check(ORDINARY[name])


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_schema_that_grows_without_bound_is_rejected_at_once(name: str) -> None:
    schema, told = TOO_MUCH[name]
    since = time.process_time()
    with pytest.raises(Unprocessable, match=told) as refused:
        json_schemas.check(schema)
    assert refused.value.code == "invalid_json_schema"
    assert time.process_time() - since < 5


def test_tools_together_are_measured_as_the_one_schema_they_become() -> None:
    tools = tuple(Tool(f"f{at}", "", {"enum": [f"{at} {each}" for each in range(300)]}) for at in range(3))

    class Engine:
        capabilities = frozenset(("schema",))

        def generate(self, _: object, sampling: Sampling, __: object) -> Any:
            assert sampling.schema is not None
            json_schemas.check(sampling.schema)
            yield from ()

    engine: Any = Engine()
    assert list(generate(engine, [], Sampling(tools=tools, tool_choice="required"))) == []
    doubled = (*tools, Tool("g", "", ladder(40)))
    with pytest.raises(Unprocessable) as refused:
        list(generate(engine, [], Sampling(tools=doubled, tool_choice="required")))
    assert refused.value.details == {"param": "tools"}


@pytest.mark.parametrize(
    ("pattern", "elements", "opened"),
    [("^abc$", 5, 0), ("^(ab|c){3}$", 14, 0), (r"^[a-z\]]?\d*$", 13, 2), ("^(?:a+)?$", 7, 2), ("a{2}{", 5, 0)],
)
def test_a_pattern_is_measured(pattern: str, elements: int, opened: int) -> None:
    found = pattern_size.size(pattern)
    assert (found.elements, found.open) == (elements, opened)


@pytest.fixture(scope="module")
def llama() -> Any:
    pytest.importorskip("xllamacpp")
    from chatapi.engines.llm.llama_cpp import LlamaCpp

    engine = LlamaCpp(Settings(llama_cpp=Table(context=1024, slots=1)), [installed_model("smollm2-135m-instruct")])
    yield engine
    engine.close()


NEAR: dict[str, Schema] = {
    "begins in many ways": ladder(8),
    "arrays alike": ladder(6, array),
    "objects alike": ladder(6, lambda inner: thing(a=inner)),
    "values": {"enum": [f"aaaaaaaaaaaaaaaa{at}" for at in range(490)]},
    "optional": {"type": "object", "properties": {f"p{at}": {} for at in range(400)}},
    "long texts": thing(**{f"p{at}": {"type": "string", "minLength": 900} for at in range(60)}),
    "counted": {"type": "string", "pattern": "^(a{1,40}){1,40}$"},
    "loops": {"type": "string", "pattern": "^((a+)+b?)+$"},
}
"""Just below what is refused."""


@pytest.mark.real
@pytest.mark.parametrize("name", [*ORDINARY, *NEAR])
def test_the_engine_lives_through_what_is_taken(llama: Any, name: str) -> None:
    schema = {**ORDINARY, **NEAR}[name]
    since = time.process_time()
    pieces = list(llama.generate([PromptMessage("user", "Answer.")], Sampling(8, temperature=0, schema=schema)))
    assert pieces[-1].finish_reason in ("stop", "length")
    assert time.process_time() - since < 30
