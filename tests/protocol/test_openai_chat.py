"""`POST /v1/chat/completions` with OpenAI's official Python client, over a real server with fake engines."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import anyio
import numpy as np
import openai
import pytest
from openai import OpenAI

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, encode_audio, serving, tone, until
from openai_client import chat_server, client

__all__ = ["chat_server", "client"]
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
ANSWER = "You said: hello there."
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "Tells it.", "parameters": WEATHER, "strict": True}}
    for name in ("weather", "news")
]


def clip(seconds: float, form: str = "wav") -> dict[str, Any]:
    """Recorded speech as a message part."""
    file = wav(Audio(tone(seconds), RATE)) if form == "wav" else encode_audio(tone(seconds), RATE, "libmp3lame", "mp3")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(file).decode(), "format": form}}


def test_completion_is_one_document(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    [choice] = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model) == ("chat.completion", "gpt-4o")
    usage = completion.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 4, 6)
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_completion_streams_in_chunks(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *deltas, last, counted = list(stream)
    assert deltas[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in deltas] == ["", "You", " said:", " hello", " there."]
    assert (last.choices[0].finish_reason, last.usage) == ("stop", None)
    assert counted.choices == [] and counted.usage is not None and counted.usage.total_tokens == 6
    assert len({chunk.id for chunk in (*deltas, last, counted)}) == 1


def test_stream_ends_with_done_on_the_wire(chat_server: RunningServer) -> None:
    reply = chat_server.client.post(
        "/v1/chat/completions", json={"model": "default", "messages": HELLO, "stream": True}
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-2])
    assert "usage" not in events[0]


def test_client_helper_joins_the_chunks(client: OpenAI) -> None:
    with client.chat.completions.stream(model="default", messages=HELLO, logprobs=True) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == ANSWER
    assert completion.choices[0].logprobs is not None and completion.choices[0].logprobs.content is not None
    assert "".join(each.token for each in completion.choices[0].logprobs.content) == ANSWER


def test_prompt_contains_only_the_client_messages(client: OpenAI) -> None:
    turns: list[Any] = [
        {"role": "developer", "content": "one two three"},
        {"role": "system", "content": [{"type": "text", "text": "four"}]},
        {"role": "user", "content": "five"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "six"}]},
        {"role": "user", "content": [{"type": "text", "text": "seven"}, {"type": "text", "text": "eight"}]},
    ]
    completion = client.chat.completions.create(model="default", messages=turns)
    assert completion.usage is not None and completion.usage.prompt_tokens == 8
    assert completion.choices[0].message.content == "You said: seven\neight."


def test_user_name_precedes_the_content(client: OpenAI) -> None:
    named: list[Any] = [{"role": "user", "content": "hello", "name": "Ada"}]
    completion = client.chat.completions.create(model="default", messages=named)
    assert completion.choices[0].message.content == "You said: Ada:\nhello."


def test_all_roles_may_have_names_and_a_prefix_to_continue_is_unchanged(client: OpenAI) -> None:
    turns: list[Any] = [
        {"role": "system", "content": "one", "name": "Rules"},
        {"role": "developer", "content": "two", "name": "More"},
        {"role": "user", "content": "three", "name": "Ada"},
        {"role": "assistant", "content": "four", "name": "Bob"},
        {"role": "user", "content": "five"},
        {"role": "assistant", "content": "You said:", "name": "Bob"},
    ]
    completion = client.chat.completions.create(model="default", messages=turns)
    # The fake engine counts words, and four of the six messages have a name before them.
    assert completion.usage is not None and completion.usage.prompt_tokens == 2 + 2 + 2 + 2 + 1 + 2
    assert completion.choices[0].message.content == " five."


@pytest.mark.parametrize("form", ["wav", "mp3"])
def test_audio_parts_are_transcribed_in_place(client: OpenAI, form: str) -> None:
    parts = [
        {"type": "text", "text": "first"},
        clip(0.5, form),
        {"type": "text", "text": "then"},
        clip(1.0, form),
    ]
    completion = client.chat.completions.create(model="default", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item,misc]
    content = completion.choices[0].message.content or ""
    assert re.fullmatch(r"You said: first\nheard 0\.\d+ seconds\.\nthen\nheard 1\.\d+ seconds\.\.", content), content


def test_completion_has_audio(client: OpenAI) -> None:
    message = client.chat.completions.create(model="default", messages=HELLO, **SPOKEN).choices[0].message
    assert message.content is None and message.audio is not None
    assert message.audio.transcript == ANSWER
    assert decode(base64.b64decode(message.audio.data)).seconds == pytest.approx(4 * 0.06, abs=0.01)
    pcm = {**SPOKEN, "audio": {"voice": "fake-high", "format": "pcm16"}}
    other = client.chat.completions.create(model="default", messages=HELLO, **pcm).choices[0].message.audio
    assert other is not None and len(base64.b64decode(other.data)) == pytest.approx(4 * 0.06 * 24_000 * 2, abs=100)


@pytest.mark.parametrize("form", ["mp3", "flac", "opus", "aac"])
def test_completion_has_audio_in_every_format(client: OpenAI, form: str) -> None:
    options = {**SPOKEN, "audio": {"voice": "alloy", "format": form}}
    audio = client.chat.completions.create(model="default", messages=HELLO, **options).choices[0].message.audio
    assert audio is not None
    # Lossy formats start and end with whole frames.
    assert decode(base64.b64decode(audio.data)).seconds == pytest.approx(4 * 0.06, abs=0.12)


def test_spoken_completion_streams_text_and_audio(client: OpenAI) -> None:
    pcm = {**SPOKEN, "audio": {"voice": {"id": "echo"}, "format": "pcm16"}}
    words, sound, others = "", b"", []
    for chunk in client.chat.completions.create(model="default", messages=HELLO, stream=True, **pcm):
        # The client has no type for it.
        audio = chunk.choices[0].delta.to_dict().get("audio", {})
        words += audio.pop("transcript", "")
        sound += base64.b64decode(audio.pop("data", ""))
        others += audio.items()
    assert words == ANSWER
    samples = np.frombuffer(sound, "<i2")
    assert len(samples) == pytest.approx(4 * 0.06 * 24_000, abs=50)
    assert np.abs(samples).max() > 5000
    assert [name for name, _ in others] == ["id", "expires_at"]


def test_audio_of_all_chunks_is_one_base64_string(client: OpenAI) -> None:
    prompt: list[Any] = [{"role": "user", "content": "One sentence here. Another one there. And the third comes last."}]
    pcm = {**SPOKEN, "audio": {"voice": "alloy", "format": "pcm16"}}
    stream = client.chat.completions.create(model="default", messages=prompt, stream=True, **pcm)
    parts = [chunk.choices[0].delta.to_dict().get("audio", {}).get("data", "") for chunk in stream]
    # Stricter than OpenAI's helper: nothing may follow the padding.
    joined = base64.b64decode("".join(parts), validate=True)
    assert len([part for part in parts if part]) > 2
    assert joined == b"".join(base64.b64decode(part) for part in parts)
    whole = client.chat.completions.create(model="default", messages=prompt, **pcm).choices[0].message.audio
    assert whole is not None and len(joined) == pytest.approx(len(base64.b64decode(whole.data)), abs=100)


def test_audio_id_refers_to_a_spoken_completion(client: OpenAI, chat_server: RunningServer) -> None:
    message = client.chat.completions.create(model="default", messages=HELLO, **SPOKEN).choices[0].message
    assert message.audio is not None
    for answer in ({"role": "assistant", "audio": {"id": message.audio.id}}, message):
        turns: list[Any] = [*HELLO, answer, {"role": "user", "content": "and"}]
        completion = client.chat.completions.create(model="default", messages=turns)
        assert completion.usage is not None and completion.usage.prompt_tokens == 2 + 4 + 1
    unknown: list[Any] = [*HELLO, {"role": "assistant", "audio": {"id": "audio_0"}}, *HELLO]
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="default", messages=unknown)
    assert (caught.value.code, caught.value.param) == ("audio_not_found", "messages[1].audio.id")
    with closing(sqlite3.connect(chat_server.appliance.settings.data / "history.sqlite3")) as history:
        assert history.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_required_tool_call_has_valid_arguments(client: OpenAI) -> None:
    required = client.chat.completions.create(model="default", messages=HELLO, tools=TOOLS, tool_choice="required")
    one: Any = {"type": "function", "function": {"name": "news"}}
    named = client.chat.completions.create(model="default", messages=HELLO, tools=TOOLS, tool_choice=one)
    some: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [one]}}
    allowed = client.chat.completions.create(model="default", messages=HELLO, tools=TOOLS, tool_choice=some)
    for completion, name in ((required, "weather"), (named, "news"), (allowed, "news")):
        [choice] = completion.choices
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == (name, {"city": "hello there"})
        turns: list[Any] = [*HELLO, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        after = client.chat.completions.create(model="default", messages=turns, tools=TOOLS)
        assert after.choices[0].message.content == "You said: <tool_response>\nsunny\n</tool_response>."


def test_tool_call_streams(client: OpenAI) -> None:
    with client.chat.completions.stream(model="default", messages=HELLO, tools=TOOLS, tool_choice="required") as stream:
        completion = stream.get_final_completion()
    [call] = completion.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "hello there"}')
    assert completion.choices[0].finish_reason == "tool_calls"


def test_tool_choice_none_calls_no_tool(client: OpenAI) -> None:
    for choice in ("auto", "none"):
        completion = client.chat.completions.create(model="default", messages=HELLO, tools=TOOLS, tool_choice=choice)  # type: ignore[arg-type]
        assert completion.choices[0].message.content == ANSWER
        assert completion.choices[0].message.tool_calls is None


def test_response_format_is_followed(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER, "strict": True}}
    completion = client.chat.completions.create(model="default", messages=HELLO, response_format=form)
    assert json.loads(completion.choices[0].message.content or "") == {"city": "hello there"}
    for plain in ("json_object", "text"):
        completion = client.chat.completions.create(model="default", messages=HELLO, response_format={"type": plain})  # type: ignore[misc,list-item]
        assert completion.choices[0].message.content == ("{}" if plain == "json_object" else ANSWER)


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"max_tokens": 2}, "You said:", "length"),
        ({"max_completion_tokens": 3}, "You said: hello", "length"),
        # More than the context is lowered to the context.
        ({"max_tokens": 1_000_000}, ANSWER, "stop"),
        ({"stop": " hello"}, "You said:", "stop"),
        ({"stop": ["there", " said"]}, "You", "stop"),
        ({"temperature": 2, "top_p": 0.1, "seed": -5, "frequency_penalty": 2, "presence_penalty": -2}, ANSWER, "stop"),
        ({"logit_bias": {"50": -100}, "n": 1, "parallel_tool_calls": False}, ANSWER, "stop"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "You said:"}]}, " hello there.", "stop"),
    ],
)  # fmt: skip
def test_options_change_the_completion(client: OpenAI, options: Any, text: str, reason: str) -> None:
    [choice] = client.chat.completions.create(**{"model": "default", "messages": HELLO, **options}).choices
    assert (choice.message.content, choice.finish_reason) == (text, reason)


def test_top_logprobs_are_returned(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="default", messages=HELLO, logprobs=True, top_logprobs=3)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [each.token for each in logprobs.content] == ["You", " said:", " hello", " there."]
    assert bytes(logprobs.content[0].bytes or []) == b"You"
    assert [[other.logprob for other in each.top_logprobs] for each in logprobs.content] == [[0.0]] * 4


@pytest.mark.anyio
async def test_disconnect_cancels_the_generation(slow_server: RunningServer) -> None:
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": "word " * 400}],
        "max_tokens": 600,
        "stream": True,
    }
    with anyio.fail_after(TIMEOUT):
        with slow_server.client.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            # While the iterator lives: httpx closes the stream with it.
            await until(lambda: slow_server.appliance.admission.used == 1)
        await until(
            lambda: slow_server.appliance.admission.used == 0 and slow_server.appliance.engines.llm.admission.used == 0
        )


def test_turns_and_tokens_are_counted(fake_server: RunningServer) -> None:
    with OpenAI(base_url=f"{fake_server.url}/v1", api_key="none", max_retries=0) as client:
        client.chat.completions.create(model="default", messages=HELLO)
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": [clip(0.5)]}], **SPOKEN)  # type: ignore[list-item,misc]
    page = fake_server.client.get("/metrics").text
    assert 'chatapi_turns_total{input="text",kind="request",reply="text",result="ok"} 1.0' in page
    assert 'chatapi_turns_total{input="voice",kind="request",reply="voice",result="ok"} 1.0' in page
    assert re.search(r'chatapi_tokens_total\{kind="completion"\} [1-9]', page)


def test_failure_midway_is_an_event_in_the_stream(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as broken:
        with OpenAI(base_url=f"{broken.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(model="default", messages=HELLO, stream=True)
            with pytest.raises(openai.APIError, match="engine failed") as caught:
                list(stream)
            assert caught.value.code == "engine_failed"
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="default", messages=HELLO)


def test_api_key_is_required(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.api_key=secret")) as guarded:
        for key, ends in (("secret", False), ("wrong", True)):
            with OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client:
                if ends:
                    with pytest.raises(openai.AuthenticationError):
                        client.chat.completions.create(model="default", messages=HELLO)
                else:
                    assert client.chat.completions.create(model="default", messages=HELLO).choices
