"""Reasoning and markers of chat templates are separated from an answer, however it is split into chunks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.engines import TokenChunk, TokenUsage
from chatapi.events import Token
from chatapi.services.turns.reasoning import ReasoningFilter
from chatapi.services.turns.template_markers import MARKERS

REASONING = [
    ("<think>the user wants thing</think>alone", "alone", "the user wants thing"),
    ("<think>\n\n</think>\n\nHello.", "Hello.", "\n\n"),
    ("\n<think>\nHm.\n</think>\n\nHello.\n", "Hello.\n", "\nHm.\n"),
    ("<think>only a thought</think>", "", "only a thought"),
    ("<think>never closed, <b>bold</b>", "", "never closed, <b>bold</b>"),
    ("The user wants thing.\n</think>\n\nHello.", "Hello.", "The user wants thing.\n"),
    ("Okay, so I need a joke.</think>Hello.", "Hello.", "Okay, so I need a joke."),
    ("the user wants</think>alone", "alone", "the user wants"),
    ("<thinking>a</thinking> Hello.", "Hello.", "a"),
    ("<thought>a</thought>Hello.", "Hello.", "a"),
    ("<THINK>a</Think>Hello.", "Hello.", "a"),
    ("<seed:think>a</seed:think>Hello.", "Hello.", "a"),
    ("[THINK]a[/THINK]Hello.", "Hello.", "a"),
    ("◁think▷a◁/think▷Hello.", "Hello.", "a"),
    ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>Hello.<|END_RESPONSE|>", "Hello.", "a"),
    ("<unused94>thought\na<unused95>Hello.", "Hello.", "\na"),
    ("<|channel>thought\na<channel|>Hello.", "Hello.", "\na"),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>", "Hi.", "a"),
    ("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>Hello.", "Hello.", "a"),
    ("analysisWe should greet.assistantfinalHello.", "Hello.", "analysisWe should greet."),
    ("One.\n<think>a</think>\nTwo.", "One.\nTwo.", "a"),
    ("One. <think>a</think> Two.", "One. Two.", "a"),
    ("One.<think>a</think> Two.", "One. Two.", "a"),
    ("<think>a</think>One.<think>b</think>", "One.", "ab"),
    ("<think>a</think>One.</think> Two.", "One. Two.", "a"),
    ("I was <think>hm, what</think> there.", "I was there.", "hm, what"),
]  # fmt: skip
MARKED = [
    ("Hello.<|im_end|>", "Hello."),
    ("Hello.<|im_end|>\n<|im_start|>user\nAnd you?<|im_end|>", "Hello."),
    ("Hello<|im_end|> there", "Hello there"),
    ('He said "Hello."<|im_end|>', 'He said "Hello."'),
    ("Hello.</s>", "Hello."),
    ("<s> Hello.</s></s>", "Hello."),
    ("assistant\n\nHello.", "Hello."),
    ("<|im_start|>assistant\nHello.", "Hello."),
    ("<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>", "Hello."),
    ("Hello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi", "Hello."),
    ("<start_of_turn>model\nHello.<end_of_turn>\n", "Hello."),
    ("Hello. [INST] And you? [/INST]", "Hello. "),
    ("Hello.<|endoftext|>Human: hi", "Hello.Human: hi"),
    ("Hello.<｜end▁of▁sentence｜>", "Hello."),
    ("<|start_of_role|>assistant<|end_of_role|>Hello.<|end_of_text|>", "Hello."),
    ("Hello.<|im_en", "Hello."),
    ("Hello.<|user|>\nBye", "Hello."),
]
UNCHANGED = [
    "",
    " ",
    " Hello. ",
    "\n\nHello.\n\n",
    "You said: What does <think> do?.",
    "The tags <think> and </think> enclose thoughts.",
    "Use <think>like this without an end.",
    "```\n<think>code</think>\n```\nDone.",
    "```xml\n<|im_end|></s>\n```",
    "The token `<|im_end|>` ends a turn, and `</think>` a thought.",
    'It is written "<think>".',
    '{"tag": "<think>x</think>"}',
    "Not <s>this</s> but that.",
    "1 < 2, a[0] <b>bold</b> [link](x) <3 <|",
    "The user manual says so.",
    "analysis is hard",
    "The assistant\nsays so",
    "Okay, so I need nothing.",
    "Sure. <think> is a tag.",
]
CASES = [*((text, seen) for text, seen, _ in REASONING), *MARKED, *((text, text) for text in UNCHANGED)]


def filtered(*chunks: str, reason: str = "stop", **options: bool) -> tuple[str, str]:
    """The text and the reasoning of an answer in these chunks."""
    answer, parts = ReasoningFilter(**options), list[TokenChunk]()
    for chunk in (*(TokenChunk(chunk) for chunk in chunks), TokenChunk("", reason)):
        read = answer.read(chunk)
        parts = [] if answer.withdrawn and not parts else parts
        parts.append(read)
    return "".join(part.text for part in parts), "".join(part.reasoning for part in parts)


@pytest.mark.parametrize(("text", "seen", "reasoning"), REASONING)
def test_reasoning_is_separated_from_the_answer(text: str, seen: str, reasoning: str) -> None:
    assert filtered(text) == (seen, reasoning)


@pytest.mark.parametrize(("text", "seen"), MARKED)
def test_markers_of_templates_are_dropped(text: str, seen: str) -> None:
    assert filtered(text) == (seen, "")


@pytest.mark.parametrize("text", UNCHANGED)
def test_text_that_mentions_a_marker_stays(text: str) -> None:
    assert filtered(text) == (text, "")


@pytest.mark.parametrize(("text", "seen"), CASES)
def test_result_does_not_depend_on_the_chunks(text: str, seen: str) -> None:
    assert filtered(*text)[0] == seen
    for place in range(len(text) + 1):
        assert filtered(text[:place], text[place:])[0] == seen, place


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*MARKERS, "user", "assistant", "\n", " ", ".", "The user ", "a", "```", "`", '"', "<", "["])
    ),
    st.randoms(),
)
def test_any_mixture_of_marks_is_read_alike_in_any_chunks(parts: list[str], random: object) -> None:
    text = "".join(parts)
    whole = ReasoningFilter()
    first = whole.read(TokenChunk(text)), whole.read(TokenChunk("", "stop"))
    single = ReasoningFilter()
    pieces = [single.read(TokenChunk(char)) for char in text] + [single.read(TokenChunk("", "stop"))]
    if not single.withdrawn:
        assert "".join(piece.text for piece in pieces) == "".join(piece.text for piece in first)


def test_text_is_given_out_as_soon_as_it_cannot_be_a_mark() -> None:
    answer = ReasoningFilter()
    seen = [answer.read(TokenChunk(text)).text for text in ("Hi", "!", " <", "q", "> it", " is", " <thin", "k", "g")]
    assert seen == ["Hi", "!", " ", "<q", "> it", " is", " ", "", "<thinkg"]


def test_reasoning_without_an_opening_marker_is_withdrawn_and_expected_from_then_on() -> None:
    answer = ReasoningFilter()
    assert answer.read(TokenChunk("Greet him.")).text == "Greet him."
    assert answer.read(TokenChunk("\n</think>\n\nHello.")).text == "Hello."
    assert answer.withdrawn and answer.unopened
    assert filtered("Greet him.", "</think>Hello.", suspicious=True) == ("Hello.", "Greet him.")
    assert filtered("Greet ", "him.", suspicious=True) == ("Greet him.", "")
    assert filtered("Greet ", "him.", reason="length", suspicious=True) == ("", "Greet him.")
    assert filtered("<think>Greet", "</think>Hello.", suspicious=True) == ("Hello.", "Greet")


def test_structured_answer_is_only_filtered_at_its_start() -> None:
    assert filtered('<think>a</think>{"a": "x <|im_end|>"}', structured=True) == ('{"a": "x <|im_end|>"}', "a")


def test_call_of_gpt_oss_becomes_a_marked_call() -> None:
    text = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
    assert filtered(text) == ('<function=weather>{"city":"Oslo"}</function>', "")


def test_tokens_stay_with_their_text() -> None:
    answer = ReasoningFilter()
    words = ["<think>", "a", "</think>", "Hello", " <", "b", ">"]
    chunks = [answer.read(TokenChunk(word, tokens=(Token(word, 0.0, word.encode()),))) for word in words]
    chunks.append(answer.read(TokenChunk("", "stop")))
    assert "".join(token.text for chunk in chunks for token in chunk.tokens) == "Hello <b>"
    assert "".join(chunk.text for chunk in chunks) == "Hello <b>"


@pytest.mark.parametrize(
    ("chunks", "reasoning"),
    [
        (["<think>", "a", " b", "</think>", "Hello", "."], 2),
        (["Greet", " him", "</think>", "Hello."], 2),
        (["<thi", "nk>a", " b</think>Hello", "."], 1),
        (["Hello", " there", "."], 0),
    ],
)
def test_tokens_of_the_reasoning_are_counted(chunks: list[str], reasoning: int) -> None:
    answer = ReasoningFilter()
    for chunk in chunks:
        answer.read(TokenChunk(chunk))
    assert answer.read(TokenChunk("", "stop", TokenUsage(9, 7))).usage == TokenUsage(9, 7, 0, reasoning)


def test_tokens_of_reasoning_that_the_engine_separates_are_counted() -> None:
    answer = ReasoningFilter()
    for chunk in (TokenChunk("", reasoning="a"), TokenChunk("", reasoning=" b"), TokenChunk("Hello")):
        answer.read(chunk)
    assert answer.read(TokenChunk("", "stop", TokenUsage(9, 3))).usage == TokenUsage(9, 3, 0, 2)
    counted = TokenUsage(9, 30, 0, 20)
    assert answer.read(TokenChunk("", "stop", counted)).usage == counted


@pytest.mark.parametrize("text", ["<", "<think>", "a <think>b", "The user ", "<|channel|>", "[", "`<s>", "</think>"])
def test_time_grows_with_the_length_of_the_answer(text: str) -> None:
    answer, since = ReasoningFilter(), time.process_time()
    for _ in range(20_000):
        answer.read(TokenChunk(text))
    answer.read(TokenChunk("", "stop"))
    assert time.process_time() - since < 30


def test_no_mark_begins_another() -> None:
    assert not [(one, two) for one in MARKERS for two in MARKERS if one != two and two.startswith(one)]
