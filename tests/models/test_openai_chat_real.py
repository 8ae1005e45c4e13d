"""`/v1/chat/completions` on real models, with OpenAI's official client."""

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

from chatapi.audio.decode import decode
from chatapi.settings import SYSTEM
from conftest import RunningServer
from test_completion_real import recorded_question

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
def client(real_server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{real_server.url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def ask(client: OpenAI, text: str, **options: Any) -> str:
    parameters: Any = {"max_tokens": 40, "temperature": 0, **options}
    completion = client.chat.completions.create(
        model="default", messages=[BRIEF, {"role": "user", "content": text}], **parameters
    )
    return completion.choices[0].message.content or ""


@pytest.mark.parametrize(("temperature", "seed"), [(0, 1), (1.5, 2), (2, 3)])
def test_json_conforms_to_its_schema_at_any_temperature(client: OpenAI, temperature: float, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    question = "Anna is 31 and plays chess. Describe her."
    answer = ask(client, question, response_format=form, temperature=temperature, seed=seed, max_tokens=150)
    assert jsonschema_rs.is_valid(PERSON, json.loads(answer)), answer


def test_json_object_is_valid_json(client: OpenAI) -> None:
    assert isinstance(json.loads(ask(client, "Anna is 31.", response_format={"type": "json_object"})), dict)


def test_tool_call_has_valid_arguments(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"$ref": "#/$defs/c"}}, "required": ["city"],
              "$defs": {"c": {"enum": ["Paris", "Rome"]}}}  # fmt: skip
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": schema}} for name in ("weather", "news")
    ]
    one = {"type": "function", "function": {"name": "news"}}
    for choice, names in (("required", ("weather", "news")), (one, ("news",))):
        parameters: Any = {"tools": tools, "tool_choice": choice, "temperature": 1, "seed": 4}
        completion = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Is it raining in Paris?"}], **parameters
        )
        [call] = completion.choices[0].message.tool_calls or []
        assert call.type == "function" and call.function.name in names
        assert jsonschema_rs.is_valid(schema, json.loads(call.function.arguments))


def test_sampling_parameters_reach_the_engine(client: OpenAI) -> None:
    plain = ask(client, PARIS)
    assert "Paris" in plain
    assert ask(client, PARIS, stop=[" Paris"]) == plain.partition(" Paris")[0]
    wild = {"temperature": 1.8, "max_tokens": 12}
    seeds = [ask(client, "Tell me a story.", seed=seed, **wild) for seed in (8, 7, 7, -1)]
    assert seeds[1] == seeds[2]
    assert len(set(seeds)) > 1
    # With top_p=0 the completion is always the same, whatever the temperature and the seed.
    assert len({ask(client, "Tell me a story.", seed=seed, top_p=0, **wild) for seed in (1, 2, 3)}) == 1


def test_penalties_and_logit_bias_change_the_completion(client: OpenAI) -> None:
    question = "Say the word yes twenty times."
    rewarded = ask(client, question, frequency_penalty=-2, presence_penalty=-2, max_tokens=30)
    penalized = ask(client, question, frequency_penalty=2, presence_penalty=2, max_tokens=30)
    words = [re.findall(r"\S+", answer.lower()) for answer in (rewarded, penalized)]
    kinds = [len(set(each)) / max(1, len(each)) for each in words]
    assert kinds[1] > kinds[0] or not words[0], (rewarded, penalized)
    choice = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": PARIS}], max_tokens=1, temperature=0, logprobs=True,
        top_logprobs=5,
    ).choices[0]  # fmt: skip
    assert choice.logprobs is not None and choice.logprobs.content is not None
    [first] = choice.logprobs.content
    assert first.top_logprobs[0].token == first.token == choice.message.content
    assert [each.logprob for each in first.top_logprobs] == sorted(
        (x.logprob for x in first.top_logprobs), reverse=True
    )


def test_prompt_prefix_is_cached(client: OpenAI) -> None:
    turns: list[Any] = [BRIEF, {"role": "user", "content": "Name a fruit that is red."}]
    usages = [client.chat.completions.create(model="default", messages=turns, max_tokens=5).usage for _ in range(2)]
    assert usages[1] is not None and usages[1].prompt_tokens_details is not None
    assert (usages[1].prompt_tokens_details.cached_tokens or 0) > usages[1].prompt_tokens / 2


def test_prefix_is_continued_and_a_too_long_prompt_is_rejected(client: OpenAI) -> None:
    turns: list[Any] = [
        {"role": "user", "content": "Count from one to five in words."},
        {"role": "assistant", "content": "One, two,"},
    ]
    completion = client.chat.completions.create(model="default", messages=turns, max_tokens=8, temperature=0)
    assert (completion.choices[0].message.content or "").lstrip().startswith("three")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "a " * 9000)
    assert caught.value.code == "context_length_exceeded"
    assert ask(client, "Say hello.", max_tokens=100_000)


def test_spoken_question_gets_a_spoken_answer(client: OpenAI) -> None:
    part = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(recorded_question()).decode(), "format": "wav"},
    }
    messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [part]}]
    options: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}, "temperature": 0}
    answer = client.chat.completions.create(model="default", messages=messages, **options).choices[0].message.audio
    assert answer is not None and "Paris" in answer.transcript
    assert decode(base64.b64decode(answer.data)).seconds > 1
