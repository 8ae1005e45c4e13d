"""Tool calls in the formats of language models: calls, errors that are sent back to the model, or text."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatapi.engines import Tool
from chatapi.services.turns import lenient_json
from chatapi.services.turns.tool_call_text import MARKERS, ToolCallText

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
WEATHER, NEWS = Tool("weather", "", CITY), Tool("news", "", {"type": "object"})
OSLO = '{"name":"weather","arguments":{"city":"Oslo"}}'
CALLS = [
    OSLO,
    f"```json\n{OSLO}\n```",
    f"```\n{OSLO}```",
    f"<tool_call>\n```json\n{OSLO}\n```\n</tool_call>",
    f"```xml\n<tool_call>{OSLO}</tool_call>\n```",
    'weather(city="Oslo")',
    "weather('Oslo')",
    '[weather(city="Oslo")]',
    '```tool_code\nprint(weather(city="Oslo"))\n```',
    f"[{OSLO}]",
    f"[TOOL_CALLS] [{OSLO}]",
    '[TOOL_CALLS]weather[ARGS]{"city":"Oslo"}',
    '[TOOL_CALLS]weather[CALL_ID]9[ARGS]{"city":"Oslo"}',
    '{"type":"function","function":{"name":"weather","arguments":{"city":"Oslo"}}}',
    '{"function":{"name":"weather","arguments":"{\\"city\\":\\"Oslo\\"}"}}',
    '{"tool_calls":[{"id":"1","type":"function","function":{"name":"weather","arguments":{"city":"Oslo"}}}]}',
    '{"tool":"weather","arguments":{"city":"Oslo"}}',
    '{"tool":"weather","tool_input":{"city":"Oslo"}}',
    '{"tool_name":"weather","parameters":{"city":"Oslo"}}',
    '{"function":"weather","parameters":{"city":"Oslo"}}',
    '{"name":"weather","arguments":"{\\"city\\": \\"Oslo\\"}"}',
    '<tool_call>{"name":"weather","arguments":{"city":"Oslo",}}</tool_call>',
    '<tool_call>{"name":"weather","arguments":{"city":"Oslo"}</tool_call>',
    '<tool_call>{"name":"weather","arguments":{"city":"Oslo"}',
    "<tool_call>{'name': 'weather', 'arguments': {'city': 'Oslo'}}</tool_call>",
    '<tool_call>{"name":"Weather","arguments":{"city":"Oslo"}}</tool_call>',
    '<tool_call>{"name":"functions.weather","arguments":{"city":"Oslo"}}</tool_call>',
    '<tool_call>{"weather":{"city":"Oslo"}}</tool_call>',
    '<tool_call>{"name":"weather","city":"Oslo"}</tool_call>',
    '<|python_tag|>{"name":"weather","parameters":{"city":"Oslo"}}',
    '<|python_tag|>weather.call(city="Oslo")',
    '<function=weather>{"city":"Oslo"}</function>',
    "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>",
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
    '<function_calls><invoke name="weather"><parameter name="city">Oslo</parameter></invoke></function_calls>',
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
    f"<|tool_call|>[{OSLO}]",
    '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>',
    f"functools[{OSLO}]",
    f"<TOOLCALL>[{OSLO}]</TOOLCALL>",
    '<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city":"Oslo"}'
    "<|tool_call_end|><|tool_calls_section_end|>",
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city":"Oslo"}\n```'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    '<|START_ACTION|>[{"tool_call_id":"0","tool_name":"weather","parameters":{"city":"Oslo"}}]<|END_ACTION|>',
    f'<tool_call>{OSLO}</tool_call><tool_call>{{"name":"nope","arguments":{{}}}}</tool_call>',
    f'<tool_call>{{"name":"nope","arguments":{{}}}}</tool_call><tool_call>{OSLO}</tool_call>',
    f"<tool_call>{OSLO}</tool_call> It is sunny in Oslo.",
]
"""Answers that are one call of the weather in Oslo."""
WORDS = [
    ("Sure!\n", OSLO),
    ("Sure! ", f"<tool_call>{OSLO}</tool_call>"),
    ("Sure! ", OSLO),
    ("Sure:\n\n", f"```json\n{OSLO}\n```\n"),
    ("Let me look it up.\n", f"[TOOL_CALLS] [{OSLO}]"),
]
"""Words before such a call."""
WITHOUT = ['{"name":"weather"}', '<tool_call>{"name":"weather","arguments":null}</tool_call>', "weather()",
           '{"name":"weather","arguments":""}', "<function=weather></function>"]  # fmt: skip
"""Calls without arguments."""
PROBLEMS = [
    ('<tool_call>{"name":"get_weather","arguments":{"city":"Oslo"}}</tool_call>', "no function 'get_weather'"),
    ('{"name":"get_weather","arguments":{"city":"Oslo"}}', "no function 'get_weather'"),
    ("<function=get_weather>{}</function>", "no function 'get_weather'"),
    ('<tool_call>{"name":"weather","arguments":{"city":"Os', "ends before"),
    ('{"name":"weather","arguments":{"city":"Os', "ends before"),
    ('```json\n{"name":"weather","arguments":{"city":"Os', "ends before"),
    ('{"name":"weather","arguments":"Oslo"}', "no JSON object"),
    ("<tool_call>I cannot do that, sorry.</tool_call>", "could not be read"),
    ('<tool_call>{"city":"Oslo"}</tool_call>', "no name"),
]
ANSWERS = [
    '{"answer": 42}',
    '{"name": "Ada", "age": 36}',
    '{"name": "weather", "temperature": 12}',
    '[{"name": "Ada"}, {"name": "Bob"}]',
    '{"type": "object", "name": "weather", "parameters": {"city": "x"}}',
    '```json\n{"name": "Ada"}\n```\nThat is it.',
    "```python\nweather(city='Oslo')\nprint(1)\n```",
    'Call weather(city="Oslo") for that.',
    "weather (noun): what it is like outside.",
    "weather(noun) is a word.",
    "The weather in Oslo is {cold} [1] and <b>wet</b>.",
    "A call stands between <tool_call> and </tool_call>.",
    "It is written `<tool_call>`.",
    "functools is a module.",
    "{" * 200,
    "[" * 200,
    "",
    "\n",
    " It rains. ",
]


def read(*chunks: str, tools: tuple[Tool, ...] = (WEATHER, NEWS), cut: bool = False) -> tuple[str, list[Any], str]:
    """The text, the calls, and the problem of an answer in these chunks."""
    parser = ToolCallText(tools)
    text = "".join(parser.feed(chunk) for chunk in chunks) + parser.feed("", last=True, cut=cut)
    return text, [(call.name, json.loads(call.arguments)) for call in parser.found.calls], parser.found.problem


EXPECTED = [
    *((text, ("", [("weather", {"city": "Oslo"})], "")) for text in CALLS),
    *((words + text, (words, [("weather", {"city": "Oslo"})], "")) for words, text in WORDS),
    *((text, ("", [("weather", {})], "")) for text in WITHOUT),
    *((text, (text, [], "")) for text in ANSWERS),
]


@pytest.mark.parametrize(("text", "expected"), EXPECTED)
def test_shape_is_read(text: str, expected: Any) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(("text", "problem"), PROBLEMS)
def test_what_was_meant_as_a_call_is_a_problem_and_no_text(text: str, problem: str) -> None:
    seen, calls, found = read(text)
    assert (seen, calls) == ("", []) and problem in found
    assert read(*text) == ("", [], found)


@pytest.mark.parametrize("text", [text for text, _ in EXPECTED])
def test_result_does_not_depend_on_the_chunks(text: str) -> None:
    whole = read(text)
    assert read(*text) == whole
    for place in range(len(text) + 1):
        assert read(text[:place], text[place:]) == whole, place


@settings(max_examples=300, deadline=None)
@example([OSLO, "</tool_call>", 'weather(city="Oslo")'])
@given(
    st.lists(
        st.sampled_from([*MARKERS, *MARKERS.values(), *CALLS[:8], "{", "}", "[", "]", '"', "```", "\n", "a", "name"])
    )
)
def test_any_mixture_of_shapes_is_read_alike_in_any_chunks(parts: list[str]) -> None:
    text = "".join(parts)
    assert read(*text) == read(text)


def test_several_calls() -> None:
    two = [("weather", {"city": "Oslo"}), ("news", {})]
    news = '{"name":"news","arguments":{}}'
    marked = f"<tool_call>{OSLO}</tool_call>\n<tool_call>{news}</tool_call>"
    joined = f"<tool_call>{OSLO}\n{news}</tool_call>"
    python = '[weather(city="Oslo"), news()]'
    for text in (f"[{OSLO},{news}]", f"{OSLO}\n{news}", f"{OSLO}; {news}", marked, joined, python):
        assert read(text) == ("", two, ""), text


@pytest.mark.parametrize(("text", "seen"), [(f"Hm. <tool_call>{OSLO}</tool_call> Done.", "Hm.  Done."), (OSLO, OSLO)])
def test_without_tools_only_marked_calls_are_dropped(text: str, seen: str) -> None:
    assert read(text, tools=()) == (seen, [], "")
    assert read(*text, tools=()) == (seen, [], "")


def test_call_that_a_limit_has_cut_is_not_completed() -> None:
    for text in (f"<tool_call>{OSLO[:-1]}", OSLO[:-1]):
        assert read(text)[1] and not read(text, cut=True)[1]
    assert read(OSLO, cut=True)[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': True, b: None,}", {"a": True, "b": None}),
        ('{"a": [1, 2}', {"a": [1, 2]}),
        ('{"a": "it\'s"} x', {"a": "it's"}),
        ("{'a': 'say \"x\"'}", {"a": 'say "x"'}),
        ('{"a": {"b": 1', {"a": {"b": 1}}),
        ('{"a": "b\nc"}', {"a": "b\nc"}),
        ('{"a": // note\n 1}', {"a": 1}),
    ],
)
def test_json_of_models_is_read(text: str, value: Any) -> None:
    found = lenient_json.read(text, 0)
    assert found is not None and found.value == value


@pytest.mark.parametrize("text", ['{"a": "b', '{"a": ', '{"a" 1}', "]", '{"a": 1.2.3}', "[" * 100, '{"a": 1, "b'])
def test_cut_and_broken_json_is_not(text: str) -> None:
    assert lenient_json.read(text, 0) is None


@pytest.mark.parametrize("text", ['{"name":"}', "<tool_call>", "[{", '{"name":"weather",', "```{", "weather(", '["'])
def test_time_grows_with_the_length_of_the_answer(text: str) -> None:
    since = time.process_time()
    read(*[text] * 10_000)
    read(text * 10_000)
    assert time.process_time() - since < 30
