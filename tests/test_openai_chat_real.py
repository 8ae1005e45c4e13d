"""`/v1/chat/completions` on the real models, with OpenAI's own client."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import openai
import pytest
from openai import OpenAI

from chatapi.audio import decode
from chatapi.settings import SYSTEM
from conftest import Served
from test_real import recorded

pytestmark = pytest.mark.real
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "hobbies": {"type": "array", "items": {"enum": ["chess", "tennis", "cooking"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "hobbies"],
    "additionalProperties": False,
}
BRIEF = {"role": "system", "content": "You answer in one short sentence."}
PARIS = "What is the capital of France?"


@pytest.fixture
def client(box: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{box.url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def ask(client: OpenAI, text: str, **options: Any) -> str:
    asked: Any = {"max_tokens": 40, "temperature": 0, **options}
    completion = client.chat.completions.create(
        model="default", messages=[BRIEF, {"role": "user", "content": text}], **asked
    )
    return completion.choices[0].message.content or ""


@pytest.mark.parametrize(("temperature", "seed"), [(0, 1), (1.5, 2), (2, 3)])
def test_json_fits_its_schema_however_wild_the_model(client: OpenAI, temperature: float, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    asked = "Anna is 31 and plays chess. Describe her."
    said = ask(client, asked, response_format=form, temperature=temperature, seed=seed, max_tokens=150)
    assert jsonschema_rs.is_valid(PERSON, json.loads(said)), said


def test_any_object_is_json(client: OpenAI) -> None:
    assert isinstance(json.loads(ask(client, "Anna is 31.", response_format={"type": "json_object"})), dict)


def test_a_function_is_called_with_arguments_that_fit(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "required": ["city"],
              "$defs": {"c": {"enum": ["Paris", "Rome"]}}}  # fmt: skip
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": schema}} for name in ("weather", "news")
    ]
    one = {"type": "function", "function": {"name": "news"}}
    for choice, names in (("required", ("weather", "news")), (one, ("news",))):
        asked: Any = {"tools": tools, "tool_choice": choice, "temperature": 1, "seed": 4}
        completion = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Is it raining in Paris?"}], **asked
        )
        [call] = completion.choices[0].message.tool_calls or []
        assert call.type == "function" and call.function.name in names
        assert jsonschema_rs.is_valid(schema, json.loads(call.function.arguments))


def test_what_is_asked_reaches_the_engine(client: OpenAI) -> None:
    plain = ask(client, PARIS)
    assert "Paris" in plain
    assert ask(client, PARIS, stop=[" Paris"]) == plain.partition(" Paris")[0]
    wild = {"temperature": 1.8, "max_tokens": 12}
    seeds = [ask(client, "Tell me a story.", seed=seed, **wild) for seed in (8, 7, 7, -1)]
    assert seeds[1] == seeds[2]
    assert len(set(seeds)) > 1
    # Of the likeliest alone it is always the same, whatever the temperature and the seed.
    assert len({ask(client, "Tell me a story.", seed=seed, top_p=0, **wild) for seed in (1, 2, 3)}) == 1


def test_penalties_and_biases_change_what_is_written(client: OpenAI) -> None:
    asked = "Say the word yes twenty times."
    loved = ask(client, asked, frequency_penalty=-2, presence_penalty=-2, max_tokens=30)
    feared = ask(client, asked, frequency_penalty=2, presence_penalty=2, max_tokens=30)
    words = [re.findall(r"\S+", said.lower()) for said in (loved, feared)]
    kinds = [len(set(each)) / max(1, len(each)) for each in words]
    assert kinds[1] > kinds[0] or not words[0], (loved, feared)
    told = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": PARIS}], max_tokens=1, temperature=0, logprobs=True,
        top_logprobs=5,
    ).choices[0]  # fmt: skip
    assert told.logprobs is not None and told.logprobs.content is not None
    [first] = told.logprobs.content
    assert first.top_logprobs[0].token == first.token == told.message.content
    assert [each.logprob for each in first.top_logprobs] == sorted(
        (x.logprob for x in first.top_logprobs), reverse=True
    )


def test_the_beginning_of_a_prompt_is_not_computed_again(client: OpenAI) -> None:
    turns: list[Any] = [BRIEF, {"role": "user", "content": "Name a fruit that is red."}]
    usages = [client.chat.completions.create(model="default", messages=turns, max_tokens=5).usage for _ in range(2)]
    assert usages[1] is not None and usages[1].prompt_tokens_details is not None
    assert (usages[1].prompt_tokens_details.cached_tokens or 0) > usages[1].prompt_tokens / 2


def test_an_answer_is_gone_on_with_and_what_does_not_fit_is_refused(client: OpenAI) -> None:
    turns: list[Any] = [
        {"role": "user", "content": "Count from one to five in words."},
        {"role": "assistant", "content": "One, two,"},
    ]
    completion = client.chat.completions.create(model="default", messages=turns, max_tokens=8, temperature=0)
    assert (completion.choices[0].message.content or "").lstrip().startswith("three")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "word " * 1550)
    assert caught.value.code == "context_length_exceeded"
    assert ask(client, "Say hello.", max_tokens=100_000)


def test_what_is_said_aloud_is_heard_and_answered_aloud(client: OpenAI) -> None:
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(recorded()).decode(), "format": "wav"}}
    told: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [part]}]
    options: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}, "temperature": 0}
    answer = client.chat.completions.create(model="default", messages=told, **options).choices[0].message.audio
    assert answer is not None and "Paris" in answer.transcript
    assert decode(base64.b64decode(answer.data)).seconds > 1
