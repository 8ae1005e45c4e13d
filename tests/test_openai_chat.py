"""`POST /v1/chat/completions` with OpenAI's own client for Python, over a real server with echo engines."""

from __future__ import annotations

import base64
import inspect
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import anyio
import numpy as np
import openai
import pytest
from openai import OpenAI

from chatapi import settings
from chatapi.audio import RATE, Audio, decode, wav
from chatapi.interfaces.http.openai.chat_body import CLIENT, REFUSED, TAKEN, ChatRequest
from chatapi.settings import Settings
from conftest import ECHO, Served, serving, tone, until, written

ASKED: list[Any] = [{"role": "user", "content": "hello there"}]
SAID = "You said: hello there."
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "Tells it.", "parameters": WEATHER, "strict": True}}
    for name in ("weather", "news")
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all that leaves nothing behind."""
    data = tmp_path_factory.mktemp("data")
    with serving(settings.load([*ECHO, f"data={data}"], environ={}).settings) as running:
        yield running


@pytest.fixture
def client(house: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0, timeout=20) as found:
        yield found


def heard(seconds: float, form: str = "wav") -> dict[str, Any]:
    """Somebody speaking, as a part of a message."""
    file = wav(Audio(tone(seconds), RATE)) if form == "wav" else written(tone(seconds), RATE, "libmp3lame", "mp3")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(file).decode(), "format": form}}


def test_an_answer_comes_whole(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="gpt-4o", messages=ASKED)
    [choice] = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", SAID, "stop")
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model) == ("chat.completion", "gpt-4o")
    usage = completion.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 4, 6)
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_an_answer_comes_in_chunks(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    *deltas, last, counted = list(stream)
    assert deltas[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in deltas] == ["", "You", " said:", " hello", " there."]
    assert (last.choices[0].finish_reason, last.usage) == ("stop", None)
    assert counted.choices == [] and counted.usage is not None and counted.usage.total_tokens == 6
    assert len({chunk.id for chunk in (*deltas, last, counted)}) == 1


def test_on_the_wire_a_stream_ends_as_openais_does(house: Served) -> None:
    reply = house.client.post("/v1/chat/completions", json={"model": "default", "messages": ASKED, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-2])
    assert "usage" not in events[0]


def test_the_clients_own_helper_puts_the_chunks_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="default", messages=ASKED, logprobs=True) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == SAID
    assert completion.choices[0].logprobs is not None and completion.choices[0].logprobs.content is not None
    assert "".join(each.token for each in completion.choices[0].logprobs.content) == SAID


def test_only_what_the_client_sends_is_told_to_the_model(client: OpenAI) -> None:
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


def test_who_asks_is_told_before_their_words(client: OpenAI) -> None:
    named: list[Any] = [{"role": "user", "content": "hello", "name": "Ada"}]
    completion = client.chat.completions.create(model="default", messages=named)
    assert completion.choices[0].message.content == "You said: Ada:\nhello."


def test_everybody_may_have_a_name_and_what_is_gone_on_with_stays_as_it_is(client: OpenAI) -> None:
    turns: list[Any] = [
        {"role": "system", "content": "one", "name": "Rules"},
        {"role": "developer", "content": "two", "name": "More"},
        {"role": "user", "content": "three", "name": "Ada"},
        {"role": "assistant", "content": "four", "name": "Bob"},
        {"role": "user", "content": "five"},
        {"role": "assistant", "content": "You said:", "name": "Bob"},
    ]
    completion = client.chat.completions.create(model="default", messages=turns)
    # The echo counts words, and four of the six messages have a name before them.
    assert completion.usage is not None and completion.usage.prompt_tokens == 2 + 2 + 2 + 2 + 1 + 2
    assert completion.choices[0].message.content == " five."


@pytest.mark.parametrize("form", ["wav", "mp3"])
def test_sound_is_heard_where_it_stands(client: OpenAI, form: str) -> None:
    parts = [{"type": "text", "text": "first"}, heard(0.5, form), {"type": "text", "text": "then"}, heard(1.0, form)]
    completion = client.chat.completions.create(model="default", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item,misc]
    content = completion.choices[0].message.content or ""
    assert re.fullmatch(r"You said: first\nheard 0\.\d+ seconds\.\nthen\nheard 1\.\d+ seconds\.\.", content), content


def test_an_answer_is_spoken_too(client: OpenAI) -> None:
    message = client.chat.completions.create(model="default", messages=ASKED, **SPOKEN).choices[0].message
    assert message.content is None and message.audio is not None
    assert message.audio.transcript == SAID
    assert decode(base64.b64decode(message.audio.data)).seconds == pytest.approx(4 * 0.06, abs=0.01)
    pcm = {**SPOKEN, "audio": {"voice": "fake-high", "format": "pcm16"}}
    other = client.chat.completions.create(model="default", messages=ASKED, **pcm).choices[0].message.audio
    assert other is not None and len(base64.b64decode(other.data)) == pytest.approx(4 * 0.06 * 24_000 * 2, abs=100)


@pytest.mark.parametrize("form", ["mp3", "flac", "opus", "aac"])
def test_an_answer_is_spoken_in_any_form(client: OpenAI, form: str) -> None:
    asked = {**SPOKEN, "audio": {"voice": "alloy", "format": form}}
    audio = client.chat.completions.create(model="default", messages=ASKED, **asked).choices[0].message.audio
    assert audio is not None
    # Lossy forms begin and end with whole frames.
    assert decode(base64.b64decode(audio.data)).seconds == pytest.approx(4 * 0.06, abs=0.12)


def test_a_spoken_answer_streams_its_words_and_its_sound(client: OpenAI) -> None:
    pcm = {**SPOKEN, "audio": {"voice": {"id": "echo"}, "format": "pcm16"}}
    words, sound, others = "", b"", []
    for chunk in client.chat.completions.create(model="default", messages=ASKED, stream=True, **pcm):
        # The client names no type for it.
        audio = chunk.choices[0].delta.to_dict().get("audio", {})
        words += audio.pop("transcript", "")
        sound += base64.b64decode(audio.pop("data", ""))
        others += audio.items()
    assert words == SAID
    samples = np.frombuffer(sound, "<i2")
    assert len(samples) == pytest.approx(4 * 0.06 * 24_000, abs=50)
    assert np.abs(samples).max() > 5000
    assert [name for name, _ in others] == ["id", "expires_at"]


def test_the_sound_of_all_chunks_is_one_string_of_base64(client: OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "One sentence here. Another one there. And the third comes last."}]
    pcm = {**SPOKEN, "audio": {"voice": "alloy", "format": "pcm16"}}
    stream = client.chat.completions.create(model="default", messages=asked, stream=True, **pcm)
    parts = [chunk.choices[0].delta.to_dict().get("audio", {}).get("data", "") for chunk in stream]
    # Stricter than what OpenAI's helper does with them: nothing may stand behind the padding.
    joined = base64.b64decode("".join(parts), validate=True)
    assert len([part for part in parts if part]) > 2
    assert joined == b"".join(base64.b64decode(part) for part in parts)
    whole = client.chat.completions.create(model="default", messages=asked, **pcm).choices[0].message.audio
    assert whole is not None and len(joined) == pytest.approx(len(base64.b64decode(whole.data)), abs=100)


def test_a_spoken_answer_can_be_referred_to_by_its_id(client: OpenAI, house: Served) -> None:
    message = client.chat.completions.create(model="default", messages=ASKED, **SPOKEN).choices[0].message
    assert message.audio is not None
    for answer in ({"role": "assistant", "audio": {"id": message.audio.id}}, message):
        turns: list[Any] = [*ASKED, answer, {"role": "user", "content": "and"}]
        completion = client.chat.completions.create(model="default", messages=turns)
        assert completion.usage is not None and completion.usage.prompt_tokens == 2 + 4 + 1
    unknown: list[Any] = [*ASKED, {"role": "assistant", "audio": {"id": "audio_0"}}, *ASKED]
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="default", messages=unknown)
    assert (caught.value.code, caught.value.param) == ("audio_not_found", "messages[1].audio.id")
    with closing(sqlite3.connect(house.appliance.settings.data / "history.sqlite3")) as history:
        assert history.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_a_function_that_must_be_called_is_called_with_arguments_that_fit(client: OpenAI) -> None:
    required = client.chat.completions.create(model="default", messages=ASKED, tools=TOOLS, tool_choice="required")
    one: Any = {"type": "function", "function": {"name": "news"}}
    named = client.chat.completions.create(model="default", messages=ASKED, tools=TOOLS, tool_choice=one)
    for completion, name in ((required, "weather"), (named, "news")):
        [choice] = completion.choices
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == (name, {"city": "hello there"})
        turns: list[Any] = [*ASKED, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        after = client.chat.completions.create(model="default", messages=turns, tools=TOOLS)
        assert after.choices[0].message.content == "You said: <tool_response>\nsunny\n</tool_response>."


def test_a_call_streams(client: OpenAI) -> None:
    with client.chat.completions.stream(model="default", messages=ASKED, tools=TOOLS, tool_choice="required") as stream:
        completion = stream.get_final_completion()
    [call] = completion.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "hello there"}')
    assert completion.choices[0].finish_reason == "tool_calls"


def test_functions_may_be_left_alone(client: OpenAI) -> None:
    for choice in ("auto", "none"):
        completion = client.chat.completions.create(model="default", messages=ASKED, tools=TOOLS, tool_choice=choice)  # type: ignore[arg-type]
        assert completion.choices[0].message.content == SAID
        assert completion.choices[0].message.tool_calls is None


def test_an_answer_fits_its_form(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER, "strict": True}}
    completion = client.chat.completions.create(model="default", messages=ASKED, response_format=form)
    assert json.loads(completion.choices[0].message.content or "") == {"city": "hello there"}
    for plain in ("json_object", "text"):
        said = client.chat.completions.create(model="default", messages=ASKED, response_format={"type": plain})  # type: ignore[misc,list-item]
        assert said.choices[0].message.content == ("{}" if plain == "json_object" else SAID)


@pytest.mark.parametrize(
    ("options", "said", "reason"),
    [
        ({"max_tokens": 2}, "You said:", "length"),
        ({"max_completion_tokens": 3}, "You said: hello", "length"),
        # More than the context has is lowered to that.
        ({"max_tokens": 1_000_000}, SAID, "stop"),
        ({"stop": " hello"}, "You said:", "stop"),
        ({"stop": ["there", " said"]}, "You", "stop"),
        ({"temperature": 2, "top_p": 0.1, "seed": -5, "frequency_penalty": 2, "presence_penalty": -2}, SAID, "stop"),
        ({"logit_bias": {"50": -100}, "n": 1, "parallel_tool_calls": False}, SAID, "stop"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "You said:"}]}, " hello there.", "stop"),
        ({"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}, SAID, "stop"),
        ({"reasoning_effort": "none", "verbosity": "medium", "prompt_cache_key": "k", "stop": None}, SAID, "stop"),
    ],
)  # fmt: skip
def test_what_is_asked_of_an_answer_is_done(client: OpenAI, options: Any, said: str, reason: str) -> None:
    [choice] = client.chat.completions.create(**{"model": "default", "messages": ASKED, **options}).choices
    assert (choice.message.content, choice.finish_reason) == (said, reason)


def test_the_likeliest_tokens_are_told(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="default", messages=ASKED, logprobs=True, top_logprobs=3)
    told = completion.choices[0].logprobs
    assert told is not None and told.content is not None
    assert [each.token for each in told.content] == ["You", " said:", " hello", " there."]
    assert bytes(told.content[0].bytes or []) == b"You"
    assert [[other.logprob for other in each.top_logprobs] for each in told.content] == [[0.0]] * 4


def test_every_parameter_of_the_client_is_honoured_taken_or_refused(client: OpenAI) -> None:
    theirs = set(inspect.signature(client.chat.completions.create).parameters)
    ours = [set(ChatRequest.model_fields), set(TAKEN), set(REFUSED), set(CLIENT)]
    assert theirs == set().union(*ours)
    assert len(theirs) == sum(map(len, ours)), "a parameter is in two of the tables"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=ASKED, extra_body={name: {}})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize("name", [name for name, taken in TAKEN.items() if taken.values is not None])
def test_what_would_change_something_is_refused(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=ASKED, extra_body={name: 1})
    assert (caught.value.code, caught.value.param) == ("unsupported_value", name)


@pytest.mark.anyio
async def test_a_client_that_leaves_stops_the_engine(slow: Served) -> None:
    asked = {
        "model": "default",
        "messages": [{"role": "user", "content": "word " * 400}],
        "max_tokens": 600,
        "stream": True,
    }
    with anyio.fail_after(15):
        with slow.client.stream("POST", "/v1/chat/completions", json=asked) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            # While the iterator lives: with it httpx closes the stream.
            await until(lambda: slow.appliance.admission.used == 1)
        await until(lambda: slow.appliance.admission.used == 0 and slow.appliance.engines.llm.admission.used == 0)


def test_turns_and_tokens_are_counted_as_those_of_conversations(served: Served) -> None:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        client.chat.completions.create(model="default", messages=ASKED)
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": [heard(0.5)]}], **SPOKEN)  # type: ignore[list-item,misc]
    page = served.client.get("/metrics").text
    assert 'chatapi_turns_total{input="text",kind="request",reply="text",result="ok"} 1.0' in page
    assert 'chatapi_turns_total{input="voice",kind="request",reply="voice",result="ok"} 1.0' in page
    assert re.search(r'chatapi_tokens_total\{kind="completion"\} [1-9]', page)


def test_what_fails_in_mid_stream_is_told_in_the_stream(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings("fake.fault=raise")) as broken:
        with OpenAI(base_url=f"{broken.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(model="default", messages=ASKED, stream=True)
            with pytest.raises(openai.APIError, match="engine failed") as caught:
                list(stream)
            assert caught.value.code == "engine_failed"
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="default", messages=ASKED)


def test_only_who_has_the_key_gets_an_answer(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings("server.api_key=secret")) as guarded:
        for key, ends in (("secret", False), ("wrong", True)):
            with OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client:
                if ends:
                    with pytest.raises(openai.AuthenticationError):
                        client.chat.completions.create(model="default", messages=ASKED)
                else:
                    assert client.chat.completions.create(model="default", messages=ASKED).choices
