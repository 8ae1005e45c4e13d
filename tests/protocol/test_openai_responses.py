"""`/v1/responses` with OpenAI's official Python client, over a real server with fake engines."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any, get_args

import httpx
import hypothesis
import openai
import pytest
from hypothesis import strategies as st
from openai import OpenAI
from openai.types import responses as types
from pydantic import BaseModel

from chatapi.audio import RATE, Audio, wav
from chatapi.settings import Settings
from conftest import RunningServer, serving, tone
from openai_client import chat_server, client

__all__ = ["chat_server", "client"]
PATH = "/v1/responses"
ANSWER = "You said: hello there."
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "name": name, "description": "Tells it.", "parameters": WEATHER, "strict": True}
    for name in ("weather", "news")
]
EVENTS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(types.ResponseStreamEvent)[0])
}
"""Type of an event -> the client's model of it."""


class Place(BaseModel):
    city: str


def events_on_the_wire(server: RunningServer, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream; each is valid for the client's type, and its name is its type."""
    found = []
    reply = server.client.post(PATH, json={"stream": True, **body})
    assert reply.headers["content-type"].startswith("text/event-stream"), reply.text
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENTS[event["type"]].model_validate_json(data.removeprefix("data: "), strict=True)
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_response_is_one_document(client: OpenAI) -> None:
    response = client.responses.create(model="gpt-4o", input="hello there", metadata={"a": "b"})
    assert response.output_text == ANSWER
    assert (response.object, response.status, response.model, response.error) == (
        "response",
        "completed",
        "gpt-4o",
        None,
    )
    assert (response.metadata, response.instructions, response.tools) == ({"a": "b"}, None, [])
    [message] = response.output
    assert (message.type, message.status, message.role) == ("message", "completed", "assistant")  # type: ignore[union-attr]
    usage = response.usage
    assert usage is not None and (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (2, 4, 6)
    types.Response.model_validate_json(response.model_dump_json(by_alias=True), strict=True)


def test_text_streams_in_the_order_that_clients_need(chat_server: RunningServer) -> None:
    events = events_on_the_wire(chat_server, input="hello there")
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 4,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == ANSWER
    created, *_, done, part, item, last = events
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert done["text"] == part["part"]["text"] == item["item"]["content"][0]["text"] == ANSWER
    assert last["response"]["output"] == [item["item"]] and last["response"]["usage"]["total_tokens"] == 6
    assert created["response"]["id"] == last["response"]["id"]


def test_call_streams_in_the_order_that_clients_need(chat_server: RunningServer) -> None:
    events = events_on_the_wire(chat_server, input="hello there", tools=TOOLS, tool_choice="required")
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    added, delta, done, item = events[2:6]
    assert (added["item"]["arguments"], added["item"]["status"]) == ("", "in_progress")
    assert delta["delta"] == done["arguments"] == item["item"]["arguments"] == '{"city": "hello there"}'
    assert added["item"]["id"] == delta["item_id"] == done["item_id"] == item["item"]["id"]


def test_client_helper_follows_the_stream(client: OpenAI) -> None:
    with client.responses.stream(model="default", input="hello there", text_format=Place) as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert response.output_parsed == Place(city="hello there")
    with client.responses.stream(model="default", input="hello there", tools=TOOLS, tool_choice="required") as stream:
        [call] = stream.get_final_response().output
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "hello there"}


def test_tool_call_and_its_result_round_trip(client: OpenAI) -> None:
    news = {"type": "function", "name": "news"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [news]}
    for choice, name in (("required", "weather"), (news, "news"), (allowed, "news")):
        first = client.responses.create(model="default", input="hello there", tools=TOOLS, tool_choice=choice)  # type: ignore[arg-type]
        [call] = first.output
        assert call.type == "function_call" and call.name == name
        assert json.loads(call.arguments) == {"city": "hello there"}
        items: list[Any] = [
            {"role": "user", "content": "hello there"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            call,
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ]
        after = client.responses.create(model="default", input=items, tools=TOOLS)
        assert after.output_text == "You said: <tool_response>\nsunny\n</tool_response>."


def test_response_format_is_followed(client: OpenAI) -> None:
    parsed = client.responses.parse(model="default", input="hello there", text_format=Place)
    assert parsed.output_parsed == Place(city="hello there")
    for kind, answer in (("json_object", "{}"), ("text", ANSWER)):
        form: Any = {"format": {"type": kind}, "verbosity": "low"}
        assert client.responses.create(model="default", input="hello there", text=form).output_text == answer


def test_instructions_precede_the_input_and_are_not_inherited(client: OpenAI) -> None:
    first = client.responses.create(model="default", input="hello there", instructions="one two three")
    assert first.usage is not None and first.usage.input_tokens == 5
    assert first.instructions == "one two three"
    second = client.responses.create(model="default", input="more", previous_response_id=first.id)
    assert second.usage is not None and second.usage.input_tokens == 2 + 4 + 1


def test_previous_response_is_continued_and_may_branch(client: OpenAI) -> None:
    first = client.responses.create(model="default", input="one")
    second = client.responses.create(model="default", input="two three", previous_response_id=first.id)
    branch = client.responses.create(model="default", input="four", previous_response_id=first.id)
    third = client.responses.create(model="default", input="five", previous_response_id=second.id)
    assert second.previous_response_id == first.id
    counted = [each.usage.input_tokens for each in (first, second, branch, third) if each.usage is not None]
    # The answer to each has "You said:" before it.
    assert counted == [1, 1 + 3 + 2, 1 + 3 + 1, 1 + 3 + 2 + 4 + 1]


def test_streamed_response_is_stored_before_its_last_event(chat_server: RunningServer, client: OpenAI) -> None:
    last = events_on_the_wire(chat_server, input="one")[-1]["response"]
    after = client.responses.create(model="default", input="two", previous_response_id=last["id"])
    assert after.usage is not None and after.usage.input_tokens == 1 + 3 + 1
    assert client.responses.retrieve(last["id"]).model_dump(mode="json", exclude_unset=True) == last


def test_tool_result_may_continue_the_stored_call(client: OpenAI) -> None:
    first = client.responses.create(model="default", input="hello", tools=TOOLS, tool_choice="required")
    [call] = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = client.responses.create(model="default", input=[result], previous_response_id=first.id, tools=TOOLS)
    assert after.output_text == "You said: <tool_response>\nsunny\n</tool_response>."


def test_stored_response_outlives_the_server_and_is_deleted(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings()) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        first = client.responses.create(model="default", input="hello there")
    with serving(fake_settings()) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        assert client.responses.retrieve(first.id).output_text == ANSWER
        with pytest.raises(openai.BadRequestError, match="stream is not supported"):
            client.responses.retrieve(first.id, stream=True)
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError) as missing:
            client.responses.retrieve(first.id)
        assert missing.value.code == "response_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="default", input="more", previous_response_id=first.id)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_nothing_is_kept_with_store_false_or_after_a_failure(fake_settings: Callable[..., Settings]) -> None:
    chosen = fake_settings()
    with serving(chosen) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        secret = client.responses.create(model="default", input="a secret", store=False)
        assert secret.store is False and secret.output_text == "You said: a secret."
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(secret.id)
        for _ in client.responses.create(model="default", input="a secret", store=False, stream=True):
            pass
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="default", input="a secret", top_p=7)
        with closing(sqlite3.connect(chosen.data / "history.sqlite3")) as database:
            assert database.execute("SELECT count(*) FROM conversations").fetchone() == (0,)
        client.responses.create(model="default", input="no secret")
        with closing(sqlite3.connect(chosen.data / "history.sqlite3")) as database:
            assert database.execute("SELECT count(*) FROM exchanges").fetchone() == (1,)


def test_conversation_of_another_route_is_no_response(chat_server: RunningServer, client: OpenAI) -> None:
    reply = chat_server.client.post("/completion", json={"prompt": "a secret"})
    conversation = reply.json()["conversation"]
    for name in (conversation, f"resp_{conversation}"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(name)
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="default", input="a", previous_response_id=name)


def test_response_is_no_conversation_of_another_route(chat_server: RunningServer, client: OpenAI) -> None:
    stored, http = client.responses.create(model="default", input="a secret"), chat_server.client
    ask, route = {"prompt": "more", "conversation": stored.id}, f"/conversations/{stored.id}"
    for reply in (http.post("/completion", json=ask), http.get(route), http.delete(route)):
        assert (reply.status_code, reply.json()["code"]) == (404, "unknown_conversation")
    assert client.responses.retrieve(stored.id).output_text == "You said: a secret."


def test_audio_is_transcribed_and_stored_as_its_transcript(client: OpenAI) -> None:
    data = base64.b64encode(wav(Audio(tone(1.5), RATE))).decode()
    part: Any = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    first = client.responses.create(model="default", input=[{"role": "user", "content": [part]}])
    assert first.output_text == "You said: heard 1.50 seconds.."
    after = client.responses.create(model="default", input="more", previous_response_id=first.id)
    assert after.usage is not None and after.usage.input_tokens == 3 + 5 + 1


def test_longest_answer_makes_the_response_incomplete(chat_server: RunningServer, client: OpenAI) -> None:
    response = client.responses.create(model="default", input="hello there", max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "You said:")
    assert response.incomplete_details is not None and response.incomplete_details.reason == "max_output_tokens"
    last = events_on_the_wire(chat_server, input="hello there", max_output_tokens=2)[-1]
    assert (last["type"], last["response"]["output"][0]["status"]) == ("response.incomplete", "incomplete")


def test_logprobs_are_returned_on_request(client: OpenAI) -> None:
    for wanted in ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 1}):
        response: Any = client.responses.create(model="default", input="hello there", **wanted)  # type: ignore[call-overload]
        tokens = response.output[0].content[0].logprobs
        assert [each.token for each in tokens] == ["You", " said:", " hello", " there."]


def test_failure_midway_is_the_last_event(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as broken:
        *_, error, last = events_on_the_wire(broken, input="hello there")
        assert (error["type"], error["code"]) == ("error", "engine_failed")
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["error"]["code"] == "server_error"
        assert broken.client.post(PATH, json={"input": "hello there"}).status_code == 500


def post(server: RunningServer, **body: Any) -> httpx.Response:
    return server.client.post(PATH, json={"input": "hello there", **body})


def test_ignored_parameters_are_named(chat_server: RunningServer) -> None:
    reply = post(
        chat_server, reasoning={"effort": "low"}, include=["reasoning.encrypted_content"], truncation="auto",
        text={"verbosity": "low"}, user="u", store=True, background=False, parallel_tool_calls=True, top_k=5,
    )  # fmt: skip
    assert reply.status_code == 200
    assert set(reply.headers["x-chatapi-ignored"].split(", ")) == {
        "reasoning", "include.reasoning.encrypted_content", "truncation", "text.verbosity", "user", "top_k",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"input": ""}, "missing_required_parameter", "input"),
        ({"input": []}, "missing_required_parameter", "input"),
        ({"input": 5}, "invalid_value", "input"),
        ({"input": [{"type": "web_search_call", "id": "a"}]}, "invalid_value", "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "unsupported_content",
         "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "a"}]}, "invalid_value", "input"),
        ({"input": "a" * 32_001}, "string_above_max_length", "input"),
        ({"messages": []}, "unsupported_parameter", "messages"),
        ({"conversation": "c", "previous_response_id": "r"}, "invalid_value", "conversation"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"max_output_token": 5}, "unknown_parameter", "max_output_token"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "invalid_value", "tools[0].name"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
         "invalid_value", "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "blub"}}}}, "invalid_json_schema",
         "text.format"),
        ({"model": "llama-9000"}, "model_not_found", "model"),
        ({"previous_response_id": "resp_0"}, "previous_response_not_found", "previous_response_id"),
        ({"metadata": {"a": 5}}, "invalid_value", "metadata"),
    ],
)  # fmt: skip
def test_invalid_value_is_reported_with_its_path(
    chat_server: RunningServer, change: Any, code: str, param: str
) -> None:
    reply = post(chat_server, **change)
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert reply.status_code == (404 if code == "model_not_found" else 400)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["message", "function_call", "function_call_output", "reasoning", "item_reference", "x"]
            ),
            "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
            "content": st.text(max_size=20) | JSON,
            "call_id": st.sampled_from(["a", "b"]) | JSON,
            "id": st.sampled_from(["msg_0_0", "fc__", "msg"]) | JSON,
            **dict.fromkeys(("name", "arguments", "output", "status", "summary", "index"), st.just("{}") | JSON),
        },
    ),
    max_size=4,
)
RESPONSE_BODIES = st.fixed_dictionaries(
    {"input": st.just("hello") | ITEMS},
    optional={
        "tools": st.just(TOOLS) | JSON,
        "tool_choice": st.sampled_from(["auto", "required", "none", {"type": "function", "name": "news"}]) | JSON,
        "text": st.just({"format": {"type": "json_schema", "name": "a", "schema": WEATHER}}) | JSON,
        "previous_response_id": st.sampled_from(["resp_", "resp_0"]) | JSON,
        **dict.fromkeys(
            ("stream", "store", "metadata", "include", "top_logprobs", "instructions", "max_output_tokens", "x"), JSON
        ),
    },
)
TEXT_BODIES = st.fixed_dictionaries(
    {"prompt": st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3) | JSON},
    optional=dict.fromkeys(("n", "echo", "logprobs", "stream", "suffix", "stop", "max_tokens", "best_of"), JSON),
)


@hypothesis.given(
    request=st.tuples(st.just(PATH), RESPONSE_BODIES) | st.tuples(st.just("/v1/completions"), TEXT_BODIES)
)
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_body_is_answered_or_rejected(chat_server: RunningServer, request: tuple[str, Any]) -> None:
    path, body = request
    reply = chat_server.client.post(
        path, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert reply.status_code in (200, 400, 404, 413), reply.text
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert error["message"] and error["code"] and error["type"] == "invalid_request_error"
    elif "text/event-stream" in reply.headers["content-type"]:
        assert "response.failed" not in reply.text and '"error": {' not in reply.text
    else:
        assert reply.json()["object"] in ("response", "text_completion")
