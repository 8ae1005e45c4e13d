"""Functions told in words to a model that knows none, and calls read out of what it writes."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jsonschema_rs
import pytest

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
from chatapi.services.turns.chat_completion import ChatCompletions, ChatMessage, ChatTurn, FixedPrompt
from chatapi.services.turns.tool_call_parser import ToolCallReader, generate

CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"type": "string"}}}
WEATHER, NEWS = Tool("weather", "Tells it.", CITY), Tool("news", "", {"type": "object", "properties": {}})
ASKED = [PromptMessage("system", "Be brief."), PromptMessage("user", "Is it raining in Paris?")]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Scripted:
    """A language model that writes what it is told to, and keeps what it was asked."""

    slots = 1
    continues = True

    def __init__(self, text: str, reason: str = "stop", can: Sequence[Capability] = ("schema",), size: int = 3) -> None:
        self.can = frozenset(can)
        self.asked: list[tuple[Sequence[PromptMessage], Sampling]] = []
        self._pieces = [text[at : at + size] for at in range(0, len(text), size)]
        self._reason = reason

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        self.asked.append((messages, sampling))
        for piece in self._pieces:
            yield TokenChunk(piece, tokens=(Token(piece, 0.0, piece.encode()),))
        yield TokenChunk("", self._reason, TokenUsage(1, len(self._pieces)))

    def whole(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        return iter(())


def run(model: Scripted, *tools: Tool, **sampling: Any) -> tuple[str, list[tuple[str, Any]], str | None]:
    """The words, the calls, and why it ended."""
    pieces = list(generate(model, ASKED, Sampling(tools=tools, **sampling)))
    calls = [(call.name, json.loads(call.arguments)) for piece in pieces for call in piece.calls]
    return "".join(piece.text for piece in pieces), calls, pieces[-1].finish_reason


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        (CALL, "", 1),
        (f"\n {CALL}", "", 1),
        (f"{CALL}\n{CALL}", "", 2),
        ('{"name": "weather", "parameters": {"city": "Paris"}}', "", 1),
        (f"Let me see. {CALL}", "Let me see. ", 1),
        ("It is < 20 degrees <tool_ and so on", None, 0),
        ("<tool_call>not JSON</tool_call>", None, 0),
        ('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', None, 0),
        ('{"name": "weather", "arguments": "Paris"}', None, 0),
        ('{"name": "weather", "arguments": {"city": "Par', None, 0),
        ("{" * 5000, None, 0),
        ("", None, 0),
    ],
)
def test_calls_are_told_from_words_however_they_arrive(size: int, text: str, words: str | None, calls: int) -> None:
    said, found, reason = run(Scripted(text, size=size), WEATHER, NEWS)
    assert said == (text if words is None else words)
    assert found == [("weather", {"city": "Paris"})] * calls
    assert reason == ("tool_calls" if calls else "stop")


def test_words_are_given_out_as_soon_as_they_cannot_be_a_call() -> None:
    reader = ToolCallReader(["weather"])
    assert [reader.feed(piece) for piece in ("<", "b> it", " rains<too", "l")] == ["", "<b> it", " rains", ""]
    assert reader.finish() == ("<tool", [])


@pytest.mark.parametrize("choice", ["auto", ":weather"])
def test_while_a_call_is_written_it_is_seen_that_the_engine_is_at_work(choice: str) -> None:
    model = Scripted(CALL, size=3)
    pieces = list(generate(model, ASKED, Sampling(tools=(WEATHER,), tool_choice=choice)))
    assert [piece.text for piece in pieces] == [""] * (len(CALL) // 3 + (len(CALL) % 3 > 0) + 1)


def test_an_engine_whose_caller_leaves_is_stopped_though_somebody_still_holds_what_it_gives() -> None:
    model = Scripted(CALL)
    held = model.generate(ASKED, Sampling())
    model.generate = lambda *_: held  # type: ignore[method-assign]
    answer = generate(model, ASKED, Sampling(tools=(WEATHER,)))
    next(answer)
    assert isinstance(answer, Generator)
    answer.close()
    assert next(held, None) is None


def test_tokens_stay_with_their_words() -> None:
    pieces = list(generate(Scripted("<to be"), ASKED, Sampling(tools=(WEATHER,), logprobs=0)))
    assert "".join(token.text for piece in pieces for token in piece.tokens) == "<to be"


def test_only_one_call_is_taken_where_several_are_not_wanted() -> None:
    assert len(run(Scripted(CALL + CALL), WEATHER, parallel=False)[1]) == 1


def test_a_function_that_must_be_called_is_written_as_its_arguments() -> None:
    model = Scripted('{"city": "Paris"}')
    assert run(model, WEATHER, NEWS, tool_choice=":weather") == ("", [("weather", {"city": "Paris"})], "tool_calls")
    [(messages, sampling)] = model.asked
    assert sampling.schema == CITY and sampling.tools == ()
    assert messages[0].text.startswith("Be brief.\n\nYou can have these functions called")
    assert "news" not in messages[0].text


def test_what_was_cut_is_given_as_it_is() -> None:
    [*_, last] = generate(Scripted('{"city": "Pa', "length"), ASKED, Sampling(tools=(WEATHER,), tool_choice="required"))
    assert (last.finish_reason, last.calls[0].arguments) == ("length", '{"city": "Pa')


def test_one_of_several_functions_is_held_to_a_schema_of_them_all() -> None:
    model = Scripted('{"name": "weather", "arguments": {"city": "Paris"}}')
    assert run(model, WEATHER, NEWS, tool_choice="required")[1] == [("weather", {"city": "Paris"})]
    schema = model.asked[0][1].schema
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


def test_an_answer_of_a_form_or_a_call_is_held_to_either() -> None:
    form = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    model = Scripted('{"answer": "no"}')
    assert run(model, WEATHER, schema=form) == ('{"answer": "no"}', [], "stop")
    schema = model.asked[0][1].schema
    assert jsonschema_rs.is_valid(schema, {"answer": "no"})
    assert jsonschema_rs.is_valid(schema, {"name": "weather", "arguments": {}})
    assert not jsonschema_rs.is_valid(schema, {"answer": 5})


def test_calls_and_results_are_told_in_words() -> None:
    model = Scripted("It is sunny.")
    turns = [
        *ASKED,
        PromptMessage("assistant", "", (ToolCall("c1", "weather", '{"city": "Paris"}'), ToolCall("c2", "news", "{}"))),
        PromptMessage("tool", "sunny", call="c1"),
        PromptMessage("tool", "none", call="c2"),
    ]
    list(generate(model, turns, Sampling(tools=(WEATHER,), tool_choice="none")))
    [(messages, _)] = model.asked
    assert messages[0] == ASKED[0]
    assert messages[2].text.startswith(CALL)
    assert [message.text for message in messages[3:]] == [
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnone\n</tool_response>"
    ]


def test_an_engine_that_knows_tools_is_given_them_as_they_are() -> None:
    model = Scripted("It is sunny.", can=("tools",))
    run(model, WEATHER, tool_choice="required")
    assert model.asked == [(ASKED, Sampling(tools=(WEATHER,), tool_choice="required"))]


@pytest.mark.parametrize(
    ("schema", "told"),
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
        ({"$ref": "#/$defs/a"}, "not there"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "stands for itself"),
        ({"$ref": "#/x", "x": {"type": "array", "minItems": 10**9}}, "at #/x: minItems must be"),
        ({"$ref": "#/x", "x": {"anyOf": 5}}, "at #/x: anyOf must be a list"),
        ({"$ref": "#/x", "x": {"items": {"$ref": "#/x/items"}}}, "stands for itself"),
        ({"pattern": "a{" + "9" * 5000 + "}"}, "pattern cannot be used"),
        ({"maximum": float("nan")}, "maximum must be"),
        ({"additionalProperties": {"type": "x"}}, "#/additionalProperties: there is no type"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_its_place(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        json_schemas.check(schema)
    assert told in caught.value.message
    assert caught.value.code == "invalid_json_schema"


def test_schemas_that_can_be_followed_are_taken() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/t"}, "name": {"pattern": "^[a-z]{1,9}$"}}}
    json_schemas.check({"$defs": {"t": tree}, "$ref": "#/$defs/t"})
    json_schemas.check({"type": ["string", "null"], "allOf": [{"minLength": 1}], "additionalProperties": False})
    json_schemas.check({})


@pytest.mark.parametrize(
    ("sampling", "can", "param"),
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
def test_what_an_engine_cannot_do_is_refused_by_name(
    sampling: Sampling, can: Sequence[Capability], param: str | None
) -> None:
    assert ChatCompletions.lacking(sampling, frozenset(can)) == param


def test_a_limit_above_what_the_context_has_left_is_lowered_to_it() -> None:
    given = FixedPrompt((PromptMessage("user", "a"),))
    shorter = given.shortened(ContextOverflow(1100, 512), Sampling(max_tokens=1000))
    assert shorter.room == 412
    model = Scripted("a")
    engine: LanguageModel = model
    list(shorter.generate(engine, shorter.messages(), Sampling(max_tokens=1000), never))
    assert model.asked[0][1].max_tokens == 412
    assert shorter.shortened(ContextOverflow(513, 512), Sampling(max_tokens=1000)).room == 411
    with pytest.raises(Unprocessable, match="need 512 tokens, and 512 fit"):
        shorter.shortened(ContextOverflow(924, 512), Sampling(max_tokens=1000))
    with pytest.raises(Unprocessable, match="need 500 tokens, and 512 fit"):
        given.shortened(ContextOverflow(600, 512), Sampling(max_tokens=100))


def test_a_turn_knows_whether_there_is_something_to_hear() -> None:
    assert not ChatTurn((ChatMessage("user", ("a",)),)).heard
    assert ChatTurn((ChatMessage("user", ("a", b"RIFF")),)).heard
