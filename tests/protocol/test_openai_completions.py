"""`/v1/completions`, and the lists of models and voices, with OpenAI's official Python client, on fake engines."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from chatapi.services.turns.text_completion import CONTINUE
from conftest import RunningServer
from openai_client import chat_server, client

__all__ = ["chat_server", "client"]
TEXT = "You said: Continue"
REST = " this text.."
assert CONTINUE == "Continue this text."


def test_text_is_continued(client: OpenAI) -> None:
    completion = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=TEXT)
    [choice] = completion.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == (REST, 0, "stop", None)
    assert (completion.object, completion.model) == ("text_completion", "gpt-3.5-turbo-instruct")
    assert completion.usage is not None and completion.usage.completion_tokens == 2
    usages = [client.completions.create(model="default", prompt=[TEXT] * 2, n=n).usage for n in (1, 2)]
    assert [each.prompt_tokens for each in usages if each] == [2 * completion.usage.prompt_tokens] * 2


@pytest.mark.parametrize(
    ("options", "texts", "reason"),
    [
        ({"echo": True}, [TEXT + REST], "stop"),
        ({"max_tokens": 1}, [" this"], "length"),
        ({"stop": " text"}, [" this"], "stop"),
        ({"n": 2}, [REST, REST], "stop"),
        ({"prompt": [TEXT, TEXT + " this"]}, [REST, " text.."], "stop"),
        ({"prompt": [TEXT, TEXT], "n": 2, "echo": True}, [TEXT + REST] * 4, "stop"),
        ({"temperature": 0, "seed": 5, "best_of": 1, "suffix": "", "user": "u", "top_p": 0.5}, [REST], "stop"),
    ],
)
def test_options_change_the_completions(client: OpenAI, options: Any, texts: list[str], reason: str) -> None:
    choices = client.completions.create(**{"model": "default", "prompt": TEXT, **options}).choices
    assert [choice.text for choice in choices] == texts
    assert [choice.index for choice in choices] == list(range(len(texts)))
    assert {choice.finish_reason for choice in choices} == {reason}


def test_completion_streams_in_chunks(client: OpenAI) -> None:
    *chunks, last = client.completions.create(
        model="default", prompt=TEXT, echo=True, n=2, stream=True, stream_options={"include_usage": True}
    )
    for index in (0, 1):
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(part.text for part in parts) == TEXT + REST
        assert [part.finish_reason for part in parts] == [None, None, "stop"]
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 4


def test_logprobs_are_in_the_older_format(client: OpenAI) -> None:
    for stream in (False, True):
        answer: Any = client.completions.create(model="default", prompt=TEXT, echo=True, logprobs=2, stream=stream)
        found = [part.choices[0].logprobs for part in answer if part.choices[0].logprobs] if stream else []
        found = found or [answer.choices[0].logprobs]
        assert [token for each in found for token in each.tokens] == [" this", " text.."]
        assert [at for each in found for at in each.text_offset] == [len(TEXT), len(TEXT) + 5]
        assert found[0].top_logprobs[0] == {" this": 0.0}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"suffix": "end"}, "unsupported_parameter", "suffix"),
        ({"prompt": [1, 2, 3]}, "unsupported_value", "prompt"),
        ({"prompt": [[1, 2]]}, "unsupported_value", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 9}, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 3, "n": 3}, "invalid_value", "n"),
        ({"prompt": "a" * 32_001}, "string_above_max_length", "prompt"),
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"prompt": ["a", 5]}, "invalid_value", "prompt[1]"),
        ({"messages": []}, "unsupported_parameter", "messages"),
        ({"max_token": 5}, "unknown_parameter", "max_token"),
        ({"logprobs": 6}, "invalid_value", "logprobs"),
        ({"model": "llama-9000"}, "model_not_found", "model"),
    ],
)
def test_invalid_value_is_named(chat_server: RunningServer, change: Any, code: str, param: str) -> None:
    reply = chat_server.client.post("/v1/completions", json={"prompt": TEXT, **change})
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("default", "llm"), ("gpt-4o", "llm"), ("o3-mini", "llm"), ("whisper-1", "asr"), ("gpt-4o-transcribe", "asr"),
        ("gpt-4o-mini-transcribe", "asr"), ("tts-1", "tts"), ("tts-1-hd", "tts"), ("gpt-4o-mini-tts", "tts"),
        ("fake", "tts"), ("fake-high", "tts"),
    ],
)  # fmt: skip
def test_every_name_that_requests_may_have_is_a_model(client: OpenAI, name: str, role: str) -> None:
    found: Any = client.models.retrieve(name)
    assert (found.id, found.object, found.role) == (name, "model", role)


def test_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("llama-9000")
    assert caught.value.code == "model_not_found"


def test_lists_say_what_kind_each_model_is(client: OpenAI, chat_server: RunningServer) -> None:
    listed: Any = list(client.models.list())
    assert {(each.role, each.task) for each in listed if each.role == "tts"} == {("tts", "text-to-speech")}
    document = chat_server.client.get("/v1/audio/models").json()
    assert document["models"] == document["data"]
    assert {"whisper-1", "tts-1", "fake"} <= {each["id"] for each in document["models"]}
    assert {each["role"] for each in document["models"]} == {"asr", "tts"}


@pytest.mark.parametrize("path", ["/v1/audio/voices", "/audio/voices", "/v1/voices", "/v1/audio/speech/voices"])
def test_voices_are_listed_in_both_shapes(chat_server: RunningServer, path: str) -> None:
    document = chat_server.client.get(path).json()
    assert document["voices"] == document["data"]
    assert [(each["id"], each["name"]) for each in document["voices"]] == [("fake", "fake"), ("fake-high", "fake-high")]
