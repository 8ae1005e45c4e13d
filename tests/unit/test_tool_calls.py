"""Tools described in the prompt of a model without native support, and calls parsed from its text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema_rs
import pytest

from answers import generate
from chatapi.engines import (
    Capability,
    ContextOverflow,
    LanguageModel,
    PromptMessage,
    Sampling,
    Stop,
    TokenChunk,
    TokenUsage,
    Tool,
    never,
)
from chatapi.engines.llm import json_schemas
from chatapi.errors import Unprocessable
from chatapi.events import Token, ToolCall
from chatapi.services.turns.chat_completion import ChatCompletions, ChatMessage, ChatTurn
from chatapi.services.turns.prompts import FixedPrompt
from chatapi.services.turns.tool_call_text import ToolCallText

CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"type": "string"}}}
WEATHER, NEWS = Tool("weather", "Tells it.", CITY), Tool("news", "", {"type": "object", "properties": {}})
MESSAGES = [PromptMessage("system", "Be brief."), PromptMessage("user", "Is it raining in Paris?")]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Scripted:
    """A language model that yields a given text and records its requests."""

    slots = 1
    continues = True

    def __init__(self, text: str, reason: str = "stop", can: Sequence[Capability] = ("schema",), size: int = 3) -> None:
        self.capabilities = frozenset(can)
        self.requests: list[tuple[Sequence[PromptMessage], Sampling]] = []
        self._chunks = [text[at : at + size] for at in range(0, len(text), size)]
        self._reason = reason

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        self.requests.append((messages, sampling))
        for chunk in self._chunks:
            yield TokenChunk(chunk, tokens=(Token(chunk, 0.0, chunk.encode()),))
        yield TokenChunk("", self._reason, TokenUsage(1, len(self._chunks)))

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        return iter(())


def run(model: Scripted, *tools: Tool, **sampling: Any) -> tuple[str, list[tuple[str, Any]], str | None]:
    """The text, the calls, and the finish reason."""
    chunks = list(generate(model, MESSAGES, Sampling(tools=tools, **sampling)))
    calls = [(call.name, json.loads(call.arguments)) for chunk in chunks for call in chunk.calls]
    return "".join(chunk.text for chunk in chunks), calls, chunks[-1].finish_reason


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "expected", "calls"),
    [
        (CALL, "", 1),
        (f"\n {CALL}", "", 1),
        (f"{CALL}\n{CALL}", "", 2),
        ('{"name": "weather", "parameters": {"city": "Paris"}}', "", 1),
        (f"Let me see. {CALL}", "Let me see. ", 1),
        ("It is < 20 degrees <tool_ and so on", None, 0),
        ("<tool_call>not JSON</tool_call>", "", 0),
        ('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', "", 0),
        ('{"name": "weather", "arguments": "Paris"}', "", 0),
        ('{"name": "weather", "arguments": {"city": "Par', "", 0),
        ("{" * 5000, None, 0),
        ("", None, 0),
    ],
)
def test_calls_are_separated_from_text_at_any_chunk_size(
    size: int, text: str, expected: str | None, calls: int
) -> None:
    answer, found, reason = run(Scripted(text, size=size), WEATHER, NEWS)
    assert answer == (text if expected is None else expected)
    assert found == [("weather", {"city": "Paris"})] * calls
    assert reason == ("tool_calls" if calls else "stop")


def test_text_is_passed_on_as_soon_as_it_cannot_be_a_call() -> None:
    parser = ToolCallText([WEATHER])
    assert [parser.feed(text) for text in ("<", "b> it", " rains<too", "l")] == ["", "<b> it", " rains", ""]
    assert parser.feed("", last=True) == "<tool"
    assert not parser.found.calls


@pytest.mark.parametrize("choice", ["auto", ":weather"])
def test_empty_chunks_show_progress_while_a_call_is_generated(choice: str) -> None:
    model = Scripted(CALL, size=3)
    chunks = list(generate(model, MESSAGES, Sampling(tools=(WEATHER,), tool_choice=choice)))
    assert [chunk.text for chunk in chunks] == [""] * (len(CALL) // 3 + (len(CALL) % 3 > 0) + 1)


def test_tokens_stay_with_their_text() -> None:
    chunks = list(generate(Scripted("<to be"), MESSAGES, Sampling(tools=(WEATHER,), logprobs=0)))
    assert "".join(token.text for chunk in chunks for token in chunk.tokens) == "<to be"


def test_only_one_call_without_parallel_calls() -> None:
    assert len(run(Scripted(CALL + CALL), WEATHER, parallel=False)[1]) == 1


def test_chosen_tool_is_generated_as_its_arguments() -> None:
    model = Scripted('{"city": "Paris"}')
    assert run(model, WEATHER, NEWS, tool_choice=":weather") == ("", [("weather", {"city": "Paris"})], "tool_calls")
    [(messages, sampling)] = model.requests
    assert sampling.schema == CITY and sampling.tools == ()
    assert messages[0].text.startswith("You can have these functions called")
    assert "\n\nBe brief.\n\n" in messages[0].text
    assert "news" not in messages[0].text


def test_cut_arguments_are_passed_on_as_they_are() -> None:
    [*_, last] = generate(
        Scripted('{"city": "Pa', "length"), MESSAGES, Sampling(tools=(WEATHER,), tool_choice="required")
    )
    assert (last.finish_reason, last.calls[0].arguments) == ("length", '{"city": "Pa')


def test_required_choice_is_constrained_to_a_schema_of_all_tools() -> None:
    model = Scripted('{"name": "weather", "arguments": {"city": "Paris"}}')
    assert run(model, WEATHER, NEWS, tool_choice="required")[1] == [("weather", {"city": "Paris"})]
    schema = model.requests[0][1].schema
    assert schema is not None
    json_schemas.check(schema)
    for value, fits in (
        ({"name": "weather", "arguments": {"city": "Paris"}}, True),
        ({"name": "weather", "arguments": {"city": 5}}, False),
        ({"name": "other", "arguments": {}}, False),
        ({"name": "news", "arguments": {}}, True),
        ({"answer": "x"}, False),
    ):
        assert jsonschema_rs.is_valid(schema, value) is fits, value


def test_schema_and_tools_constrain_the_answer_to_either() -> None:
    answer = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    model = Scripted('{"answer": "no"}')
    assert run(model, WEATHER, schema=answer) == ('{"answer": "no"}', [], "stop")
    schema = model.requests[0][1].schema
    assert jsonschema_rs.is_valid(schema, {"answer": "no"})
    assert jsonschema_rs.is_valid(schema, {"name": "weather", "arguments": {}})
    assert not jsonschema_rs.is_valid(schema, {"answer": 5})


def test_calls_and_results_become_text() -> None:
    model = Scripted("It is sunny.")
    turns = [
        *MESSAGES,
        PromptMessage("assistant", "", (ToolCall("c1", "weather", '{"city": "Paris"}'), ToolCall("c2", "news", "{}"))),
        PromptMessage("tool", "sunny", call="c1"),
        PromptMessage("tool", "none", call="c2"),
    ]
    list(generate(model, turns, Sampling(tools=(WEATHER,), tool_choice="none")))
    [(messages, _)] = model.requests
    assert messages[0] == MESSAGES[0]
    assert messages[2].text.startswith(CALL)
    assert [message.text for message in messages[3:]] == [
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnone\n</tool_response>"
    ]


def test_native_tool_support_gets_the_tools_unchanged() -> None:
    model = Scripted("It is sunny.", can=("tools",))
    run(model, WEATHER, tool_choice="required")
    assert model.requests == [(MESSAGES, Sampling(tools=(WEATHER,), tool_choice="required"))]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "blub"}, "no type 'blub'"),
        ({"type": [{}]}, "no type"),
        ({"items": 5}, "#/items: it must be an object"),
        ({"properties": []}, "properties must be an object"),
        ({"properties": {"a": {"enum": []}}}, "#/properties/a: enum must be a list"),
        ({"anyOf": []}, "anyOf must be a list"),
        ({"required": "a"}, "required must be a list"),
        ({"minItems": 10**6}, "minItems must be a whole number up to 2000"),
        ({"maxLength": True}, "maxLength must be"),
        ({"minimum": 10**40}, "minimum must be"),
        ({"pattern": "(a"}, "pattern cannot be used"),
        ({"pattern": "(a{1,9}){5000}"}, "repeats more than 2000"),
        ({"$ref": "http://example.org/x"}, "point into the schema itself"),
        ({"$ref": "#"}, "point into the schema itself"),
        ({"$ref": "#/$defs/a"}, "does not exist"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "stands for itself"),
        ({"$ref": "#/x", "x": {"type": "array", "minItems": 10**9}}, "at #/x: minItems must be"),
        ({"$ref": "#/x", "x": {"anyOf": 5}}, "at #/x: anyOf must be a list"),
        ({"$ref": "#/x", "x": {"items": {"$ref": "#/x/items"}}}, "stands for itself"),
        ({"pattern": "a{" + "9" * 5000 + "}"}, "pattern cannot be used"),
        ({"maximum": float("nan")}, "maximum must be"),
        ({"additionalProperties": {"type": "x"}}, "#/additionalProperties: there is no type"),
    ],
)
def test_unsupported_schema_is_rejected_with_its_location(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        json_schemas.check(schema)
    assert message in caught.value.message
    assert caught.value.code == "invalid_json_schema"


def test_supported_schemas_are_accepted() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/t"}, "name": {"pattern": "^[a-z]{1,9}$"}}}
    json_schemas.check({"$defs": {"t": tree}, "$ref": "#/$defs/t"})
    json_schemas.check({"type": ["string", "null"], "allOf": [{"minLength": 1}], "additionalProperties": False})
    json_schemas.check({})


@pytest.mark.parametrize(
    ("sampling", "capabilities", "param"),
    [
        (Sampling(top_p=0.5), (), "top_p"),
        (Sampling(frequency_penalty=0.5), ("top_p",), "frequency_penalty"),
        (Sampling(logprobs=0), ("schema",), "logprobs"),
        (Sampling(logit_bias={1: 1.0}), (), "logit_bias"),
        (Sampling(schema={}), (), "response_format"),
        (Sampling(tools=(NEWS,), tool_choice="required"), (), "tools"),
        (Sampling(tools=(NEWS,), tool_choice="required"), ("tools",), None),
        (Sampling(tools=(NEWS,), tool_choice="required"), ("schema",), None),
        (Sampling(tools=(NEWS,)), (), None),
        (Sampling(seed=1, stop_texts=("a",)), (), None),
    ],
)
def test_unsupported_parameter_is_named(
    sampling: Sampling, capabilities: Sequence[Capability], param: str | None
) -> None:
    assert ChatCompletions.unsupported_parameter(sampling, frozenset(capabilities)) == param


def test_limit_above_the_rest_of_the_context_is_lowered_to_it() -> None:
    prompt = FixedPrompt((PromptMessage("user", "a"),))
    shorter = prompt.shortened(ContextOverflow(1100, 512), Sampling(max_tokens=1000))
    assert shorter.max_tokens == 412
    model = Scripted("a")
    engine: LanguageModel = model
    call, _ = shorter.generate(shorter.messages(), Sampling(max_tokens=1000), engine.capabilities)
    list(call(engine, never))
    assert model.requests[0][1].max_tokens == 412
    assert shorter.shortened(ContextOverflow(513, 512), Sampling(max_tokens=1000)).max_tokens == 411
    with pytest.raises(Unprocessable, match="need 512 tokens; the model's context has 512"):
        shorter.shortened(ContextOverflow(924, 512), Sampling(max_tokens=1000))
    with pytest.raises(Unprocessable, match="need 500 tokens; the model's context has 512"):
        prompt.shortened(ContextOverflow(600, 512), Sampling(max_tokens=100))


def test_turn_knows_whether_it_has_audio() -> None:
    assert not ChatTurn((ChatMessage("user", ("a",)),)).has_audio
    assert ChatTurn((ChatMessage("user", ("a", b"RIFF")),)).has_audio
