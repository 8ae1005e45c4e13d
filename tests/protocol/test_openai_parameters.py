"""The policy of parameters: implemented, ignored and named in a header, or rejected by name, as its one table says."""

from __future__ import annotations

import base64
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.engines import Capability, Sampling
from chatapi.interfaces.http.ignored import MOST_NAMES
from chatapi.interfaces.http.openai import REQUESTS
from chatapi.interfaces.http.openai.parameter_table import ENDPOINTS
from chatapi.services.turns.chat_completion import ChatCompletions
from conftest import FAKE_ENGINES, RunningServer, serving, tone, until
from openai_client import chat_server, client

__all__ = ["chat_server", "client"]
CHAT, SPEECH, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
HEADER = "x-chatapi-ignored"
USER: dict[str, Any] = {"role": "user", "content": "hello there"}
ANSWER = "You said: hello there."
CALLS: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
FILE = wav(Audio(tone(1.5), RATE))


def ask(server: RunningServer, **body: Any) -> httpx.Response:
    return server.client.post(CHAT, json={"messages": [USER], **body})


def named(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return reply.headers[HEADER].split(", ") if HEADER in reply.headers else []


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_parameter_of_the_client_is_implemented_ignored_or_rejected(path: str, client: OpenAI) -> None:
    create: Any = client
    for part in path.split("/")[2:]:
        create = getattr(create, part)
    theirs = set(inspect.signature(create.create).parameters) - {"file"}
    ours = [set(REQUESTS[path].model_fields), set(ENDPOINTS[path].ignored), set(ENDPOINTS[path].rejected)]
    assert theirs - set().union(*ours) == set()
    assert len(set().union(*ours)) == sum(map(len, ours)), "a parameter is in two columns of the table"


@pytest.mark.parametrize("name", sorted({*ENDPOINTS[CHAT].ignored}))
def test_ignored_parameter_of_a_chat_is_accepted_and_named(chat_server: RunningServer, name: str) -> None:
    reply = ask(chat_server, **{name: {"of": ["any", 5]}})
    assert named(reply) == [name]
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, each in ENDPOINTS.items() for name in each.rejected if path in (CHAT, SPEECH)],
)
def test_rejected_parameter_is_named_with_the_remedy(chat_server: RunningServer, path: str, name: str) -> None:
    body = {"messages": [USER]} if path == CHAT else {"input": "a"}
    reply = chat_server.client.post(path, json={**body, name: {"a": 1}})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert ENDPOINTS[path].rejected[name] in error["message"]


@pytest.mark.parametrize(
    "values", [{"store": False}, {"service_tier": "auto"}, {"reasoning_effort": "none"}, {"verbosity": "medium"}]
)
def test_value_that_asks_for_what_is_done_anyway_is_not_named(chat_server: RunningServer, values: Any) -> None:
    assert named(ask(chat_server, **values)) == []


@pytest.mark.parametrize("name", ["stream_id", "model_id", "min_tokens", "message_id", "tool_config", "top_n"])
def test_name_that_is_another_word_is_accepted(chat_server: RunningServer, name: str) -> None:
    assert named(ask(chat_server, **{name: 5})) == [name]


@pytest.mark.parametrize("name", ["verbosity", "top_k", "never_heard_of", "x"])
def test_null_says_nothing(chat_server: RunningServer, name: str) -> None:
    assert named(ask(chat_server, **{name: None})) == []


def test_stream_names_them_too(chat_server: RunningServer) -> None:
    assert named(ask(chat_server, stream=True, top_k=40)) == ["top_k"]
    assert named(ask(chat_server, stream_options={"include_usage": True})) == ["stream_options"]


def test_log_names_them_without_their_values(chat_server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ask(chat_server, user="a secret of the user", unheard_of="another")
    assert "ignored parameters: user, unheard_of" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_token", "max_tokens"), ("maxTokens", "max_tokens"), ("temprature", "temperature"), ("topP", "top_p"),
        ("response_fromat", "response_format"), ("tool", "tools"), ("stops", "stop"), ("message", "messages"),
        ("max_completions_tokens", "max_completion_tokens"), ("logit_bais", "logit_bias"),
    ],
)  # fmt: skip
def test_misspelled_parameter_is_rejected_with_the_right_name(
    chat_server: RunningServer, name: str, meant: str
) -> None:
    reply = ask(chat_server, **{name: 1})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unknown_parameter", name)
    assert f"is {meant} meant?" in error["message"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({**USER, "id": "m1", "timestamp": 5}, ["messages[].id", "messages[].timestamp"]),
        ({**USER, "cache_control": {"type": "ephemeral"}}, ["messages[].cache_control"]),
        (
            {"role": "user", "content": [{"type": "text", "text": "hello there", "cache_control": {"type": "x"}}]},
            ["messages[].content[].cache_control"],
        ),
        ({**USER, "finish_reason": None, "annotations": []}, []),
        ({**USER, "context": "x"}, ["messages[].context"]),
    ],
)
def test_unknown_field_of_a_message_is_accepted_and_named(
    chat_server: RunningServer, message: Any, expected: list[str]
) -> None:
    reply = ask(chat_server, messages=[message, message])
    assert named(reply) == expected
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER


def test_unknown_fields_of_tools_and_calls_are_accepted_and_named(chat_server: RunningServer) -> None:
    function = {"name": "f", "description": None, "parameters": None, "strict": None, "cache_control": {"type": "x"}}
    calls = {**CALLS, "tool_calls": [{**CALLS["tool_calls"][0], "index": 0}], "reasoning_content": "Hm."}
    result = {"role": "tool", "tool_call_id": "c1", "name": "f", "content": None}
    reply = ask(
        chat_server,
        messages=[USER, calls, result, USER],
        tools=[{"type": "function", "function": function, "defer": True}],
    )
    assert named(reply) == [
        "messages[].reasoning_content", "messages[].tool_calls[].index", "messages[].name", "tools[].defer",
        "tools[].function.cache_control",
    ]  # fmt: skip


EMPTY: list[dict[str, Any]] = [
    {"content": ""},
    {"content": None},
    {},
    {"content": []},
    {"content": [{"type": "text", "text": ""}]},
]


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("role", ["assistant", "system", "user"])
def test_empty_message_of_a_replayed_conversation_is_accepted(
    chat_server: RunningServer, role: str, empty: dict[str, Any]
) -> None:
    replayed = {"role": role, "content": None, **empty}
    for messages in ([USER, replayed, USER], [replayed, USER]):
        reply = ask(chat_server, messages=messages)
        assert reply.json()["choices"][0]["message"]["content"] == ANSWER
    if role == "assistant":
        # As the last message it asks for the answer.
        assert ask(chat_server, messages=[USER, replayed]).json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": "sunny"}], "sunny"])
def test_tool_result_may_have_any_content(chat_server: RunningServer, content: Any) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": content}
    assert ask(chat_server, messages=[USER, CALLS, result]).status_code == 200


@pytest.mark.parametrize("arguments", ["{}", "", None, {"city": "Rome"}])
def test_arguments_of_replayed_calls_may_be_text_or_an_object(chat_server: RunningServer, arguments: Any) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    messages = [USER, {**CALLS, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "sunny"}]
    assert ask(chat_server, messages=messages).status_code == 200


def test_reasoning_in_earlier_answers_is_left_out(chat_server: RunningServer) -> None:
    thinking = {"type": "thinking", "thinking": "hm hm hm", "signature": "x"}
    answer = {"role": "assistant", "content": [thinking, {"type": "text", "text": "one"}]}
    reply = ask(chat_server, messages=[USER, {**answer, "reasoning_content": "hm", "finish_reason": "stop"}, USER])
    assert reply.json()["usage"]["prompt_tokens"] == 2 + 1 + 2


def test_misspelled_field_of_a_message_is_rejected(chat_server: RunningServer) -> None:
    error = ask(chat_server, messages=[{**USER, "tool_call": []}, {**CALLS, "tool_cals": [1]}]).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", "messages[].tool_cals")


def test_hostile_names_neither_break_the_header_nor_take_long(chat_server: RunningServer) -> None:
    odd = {"a\r\nSet-Cookie: b": 1, "ü" * 300: 1, "": 1}
    assert named(ask(chat_server, **odd)) == ["a??Set-Cookie??b", "?" * 80, "?"]
    many = {f"xyz{number}tokens": 1 for number in range(20_000)}
    shown = named(ask(chat_server, **many))
    assert len(shown) == MOST_NAMES + 1 and shown[-1] == f"and {20_000 - MOST_NAMES} more"


def test_several_completions_are_returned_and_streamed(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="default", messages=[USER], n=3)  # type: ignore[list-item]
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(at, ANSWER) for at in range(3)]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (2, 12, 14)
    with client.chat.completions.stream(
        model="default",
        messages=[USER],
        n=2,
        stream_options={"include_usage": True},  # type: ignore[list-item]
    ) as stream:
        found = stream.get_final_completion()
    assert [(choice.message.content, choice.finish_reason) for choice in found.choices] == [(ANSWER, "stop")] * 2
    assert found.usage is not None and found.usage.total_tokens == 10
    with pytest.raises(openai.BadRequestError, match="at most 8"):
        client.chat.completions.create(model="default", messages=[USER], n=9)  # type: ignore[list-item]


def test_several_spoken_completions_have_ids_of_their_own(client: OpenAI) -> None:
    heard = {"type": "input_audio", "input_audio": {"data": base64.b64encode(FILE).decode(), "format": "wav"}}
    spoken: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    messages: Any = [{"role": "user", "content": [heard]}]
    choices = client.chat.completions.create(model="default", messages=messages, n=2, **spoken).choices
    first, second = (choice.message.audio for choice in choices)
    assert first is not None and second is not None and first.id != second.id
    assert first.transcript == second.transcript != ""


@pytest.mark.parametrize(
    ("sampling", "capabilities", "expected"),
    [
        (Sampling(top_p=0.5, frequency_penalty=1), (), ("top_p", "frequency_penalty")),
        (Sampling(top_p=0.5, presence_penalty=1), ("top_p",), ("presence_penalty",)),
        (Sampling(top_p=0.5, presence_penalty=1), ("top_p", "penalties"), ()),
        (Sampling(logit_bias={1: 1.0}, logprobs=1), (), ()),
    ],
)
def test_sampler_that_the_engine_lacks_is_left_out(
    sampling: Sampling, capabilities: Sequence[Capability], expected: tuple[str, ...]
) -> None:
    kept, dropped = ChatCompletions.without_style(sampling, frozenset(capabilities))
    assert dropped == expected and all(getattr(kept, name) is None for name in expected)
    assert (kept.logit_bias, kept.logprobs) == (sampling.logit_bias, sampling.logprobs)


@pytest.mark.parametrize(
    "change",
    [
        {"instructions": "Sing."},
        {"language": "en"},
        {"lang_code": "a"},
        {"user": "u"},
        {"sample_rate": 16000},
        {"pitch": 2},
    ],
)
def test_ignored_parameter_of_speech_is_accepted_and_named(chat_server: RunningServer, change: dict[str, Any]) -> None:
    reply = chat_server.client.post(SPEECH, json={"input": "One two.", "voice": "alloy", **change})
    assert named(reply) == list(change) and len(reply.content) > 100


@pytest.mark.parametrize("values", [{"stream": True}, {"instructions": ""}, {"sample_rate": 24000}])
def test_speech_does_what_these_ask_for_anyway(chat_server: RunningServer, values: dict[str, Any]) -> None:
    body = {"input": "One two.", "voice": "alloy", "response_format": "pcm", **values}
    assert named(chat_server.client.post(SPEECH, json=body)) == []


def transcribe(server: RunningServer, fields: dict[str, Any]) -> httpx.Response:
    return server.client.post(TRANSCRIPTIONS, data={"model": "whisper-1", **fields}, files={"file": FILE})


def test_ignored_fields_of_a_form_are_named(chat_server: RunningServer) -> None:
    assert named(transcribe(chat_server, {"user": "u", "volume": "11"})) == ["user", "volume"]
    assert named(transcribe(chat_server, {"chunking_strategy": '{"type": "server_vad", "color": 1}'})) == [
        "chunking_strategy.color"
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"keywords[]": ["Nabu", "Ada"]}, {"keywords": ["Nabu", "Ada"]}, {"keywords": "Nabu, Ada"},
        {"keywords": '["Nabu", "Ada"]'}, {"keywords[0]": "Nabu", "keywords[1]": "Ada"},
    ],
)  # fmt: skip
def test_keywords_are_hotwords_of_the_prompt(chat_server: RunningServer, fields: dict[str, Any]) -> None:
    assert transcribe(chat_server, fields).json()["text"].endswith("after Nabu, Ada..")
    with_prompt = transcribe(chat_server, {**fields, "prompt": "At home."})
    assert with_prompt.json()["text"].endswith("after At home. Nabu, Ada..")


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp_granularities[]": ["word", "segment"]}, {"timestamp_granularities": ["word", "segment"]},
        {"timestamp_granularities": "word,segment"}, {"timestamp_granularities": '["word", "segment"]'},
        {"timestamp_granularities[0]": "word", "timestamp_granularities[1]": "segment"},
    ],
)  # fmt: skip
def test_lists_of_forms_are_written_in_many_ways(chat_server: RunningServer, fields: dict[str, Any]) -> None:
    found = transcribe(chat_server, {**fields, "response_format": "verbose_json"}).json()
    assert found["words"] and found["segments"]
    assert "logprobs" in transcribe(chat_server, {"include": "logprobs", "prompt[]": "a"}).json()


@pytest.mark.parametrize(
    ("fields", "language"),
    [
        ({"language": "de-DE"}, "german"), ({"language": "DE"}, "german"), ({"language": "de_AT"}, "german"),
        ({"language": "German"}, "german"), ({"language": "deu"}, "german"), ({"language": "english"}, "english"),
        ({"language": "en-US"}, "english"), ({"language": ""}, "english"), ({"languages[]": "de"}, "german"),
        ({"languages[]": ["de", "en"]}, "english"),
    ],
)  # fmt: skip
def test_language_is_written_in_many_ways(chat_server: RunningServer, fields: dict[str, Any], language: str) -> None:
    reply = transcribe(chat_server, {**fields, "response_format": "verbose_json"})
    assert reply.json()["language"] == language, reply.text


def test_answer_is_as_long_as_the_context_permits(client: OpenAI) -> None:
    text = "word " * 500
    chat = client.chat.completions.create(model="default", messages=[{"role": "user", "content": text}])
    assert (chat.choices[0].finish_reason, chat.choices[0].message.content) == ("stop", f"You said: {text}.")
    response = client.responses.create(model="default", input=text)
    assert (response.status, response.output_text) == ("completed", f"You said: {text}.")


def test_system_prompt_of_the_box_is_used_where_the_request_has_none(tmp_path: Path) -> None:
    chosen = ["llm.text_system_prompt=one two three", "llm.system_prompt=one two three four five", f"data={tmp_path}"]
    with serving(settings.load([*FAKE_ENGINES, *chosen], environ={}).settings) as server:
        spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}

        def counted(messages: list[dict[str, Any]], **more: Any) -> int:
            return int(ask(server, messages=messages, **more).json()["usage"]["prompt_tokens"])

        assert counted([USER]) == 3 + 2 and counted([USER], **spoken) == 5 + 2
        for role in ("system", "developer"):
            assert counted([{"role": role, "content": "brief"}, USER]) == 1 + 2
            assert counted([USER, {"role": role, "content": "brief"}, USER]) == 2 + 1 + 2
        for more, tokens in (({}, 3), ({"instructions": "be brief"}, 2)):
            reply = server.client.post("/v1/responses", json={"input": "hello there", **more})
            assert reply.json()["usage"]["input_tokens"] == tokens + 2


@pytest.mark.parametrize("stream", [False, True])
def test_written_answer_is_cut_before_the_deadline_of_its_turn(tmp_path: Path, stream: bool) -> None:
    chosen = ["fake.delay=0.05", "limits.turn_seconds=1.5", f"data={tmp_path}"]
    with serving(settings.load([*FAKE_ENGINES, *chosen], environ={}).settings) as slow:
        with OpenAI(base_url=f"{slow.url}/v1", api_key="none", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "word " * 300}]
            if stream:
                choices = [each.choices[0] for each in client.chat.completions.create(
                    model="default", messages=messages, stream=True
                )]  # fmt: skip
                text, reason = "".join(each.delta.content or "" for each in choices), choices[-1].finish_reason
            else:
                [choice] = client.chat.completions.create(model="default", messages=messages).choices
                text, reason = choice.message.content or "", choice.finish_reason
        assert reason == "length" and text.startswith("You said: word") and len(text) < 1500
        slow.run(lambda: until(lambda: slow.appliance.admission.used == slow.appliance.engines.llm.admission.used == 0))
