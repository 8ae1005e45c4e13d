"""`/v1/responses` over a WebSocket, with OpenAI's official client and fake engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, serving

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
WEATHER: Any = {
    "type": "function", "name": "weather", "strict": False, "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip
LAST = ("response.completed", "response.failed", "response.incomplete", "error")


@pytest.fixture
def connection(shared_server: RunningServer) -> Iterator[ResponsesConnection]:
    with OpenAI(base_url=f"{shared_server.url}/v1", api_key="none") as client, client.responses.connect() as opened:
        yield opened


@pytest.fixture
def raw(slow_server: RunningServer) -> Iterator[Connection]:
    """A connection to a server whose language model takes 50 ms per word."""
    with connect(f"ws://127.0.0.1:{slow_server.port}/v1/responses", open_timeout=TIMEOUT) as opened:
        yield opened


def create(connection: ResponsesConnection, text: Any, **more: Any) -> list[Any]:
    """Requests a response; its events."""
    request: Any = {"type": "response.create", "model": "gpt-5", "input": text, **more}
    connection.send(request)
    found: list[Any] = []
    while not found or found[-1].type not in LAST:
        found.append(connection.recv())
    return found


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def received(connection: Connection) -> list[dict[str, Any]]:
    """The events up to the last one of a response."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] not in LAST:
        found.append(json.loads(connection.recv(20)))
    return found


def test_responses_follow_one_another(connection: ResponsesConnection) -> None:
    for text in ("Hello box", "Again"):
        events = create(connection, text, instructions="Be brief.")
        assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert text_of(events) == f"You said: {text}." == events[-1].response.output_text


def test_last_response_is_continued_though_it_is_not_stored(
    connection: ResponsesConnection, shared_server: RunningServer
) -> None:
    first = create(connection, "One two", store=False)[-1].response
    second = create(connection, "Three", store=False, previous_response_id=first.id)[-1].response
    third = create(connection, "Four", store=False, previous_response_id=second.id)[-1].response
    # The fake model counts words: those of all messages before.
    tokens = [response.usage.input_tokens for response in (first, second, third)]
    assert tokens[1] - tokens[0] == len(["You", "said:", "One", "two.", "Three"])
    assert tokens[2] - tokens[1] == len(["You", "said:", "Three.", "Four"])
    assert shared_server.client.get(f"/v1/responses/{third.id}").status_code == 404


def test_stored_response_is_continued_elsewhere(connection: ResponsesConnection, shared_server: RunningServer) -> None:
    first = create(connection, "One two")[-1].response
    asked = {"model": "gpt-5", "input": "Three", "previous_response_id": first.id}
    assert shared_server.client.post("/v1/responses", json=asked).status_code == 200


def test_tools_are_called_and_answered(connection: ResponsesConnection) -> None:
    response = create(connection, CALL, tools=[WEATHER], store=False)[-1].response
    [call] = [item for item in response.output if item.type == "function_call"]
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    last = create(connection, result, tools=[WEATHER], store=False, previous_response_id=response.id)
    assert "sunny" in text_of(last)


@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        ({"type": "response.steer"}, "unknown_event", "there are: response.create, response.cancel"),
        ({"type": "response.create"}, "missing_required_parameter", "input is missing"),
        ({"type": "response.create", "input": "a", "model": "gpt5000"}, "model_not_found", "is not available"),
        ({"type": "response.create", "input": "a", "previous_response_id": "resp_1"}, "previous_response_not_found",
         "there is no response"),
        ({"type": "response.create", "input": "a", "generate": False}, "unsupported_parameter", "generate"),
        ({"type": "response.create", "input": "a", "max_output_token": 3}, "unknown_parameter", "max_output_tokens"),
        ([], "invalid_value", "a JSON array"),
    ],
)  # fmt: skip
def test_invalid_request_is_answered_and_the_connection_stays_open(
    shared_server: RunningServer, event: Any, code: str, message: str
) -> None:
    with connect(f"ws://127.0.0.1:{shared_server.port}/v1/responses", open_timeout=TIMEOUT) as connection:
        connection.send(json.dumps(event))
        [error] = received(connection)
        assert (error["type"], error["code"], error["error"]["code"]) == ("error", code, code)
        assert message in error["message"] and error["status"] in (400, 404)
        connection.send(json.dumps({"type": "response.create", "model": "default", "input": "Hello"}))
        assert received(connection)[-1]["type"] == "response.completed"


def test_text_that_is_no_json_and_binary_frames_are_rejected(shared_server: RunningServer) -> None:
    with connect(f"ws://127.0.0.1:{shared_server.port}/v1/responses", open_timeout=TIMEOUT) as connection:
        for sent, code in (("{", "invalid_json"), (b"a", "binary_frame")):
            connection.send(sent)
            assert received(connection)[-1]["code"] == code


def test_cancelled_response_ends_and_the_next_one_is_whole(raw: Connection) -> None:
    long = {"type": "response.create", "model": "default", "input": "one two three four " * 20}
    raw.send(json.dumps(long))
    created = json.loads(raw.recv(20))
    raw.send(json.dumps({"type": "response.cancel", "response_id": "resp_another"}))
    raw.send(json.dumps({"type": "response.cancel", "response_id": created["response"]["id"]}))
    last = received(raw)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
    # One that comes too late has no answer.
    raw.send(json.dumps({"type": "response.cancel"}))
    raw.send(json.dumps({"type": "response.create", "model": "default", "input": "Hello"}))
    events = received(raw)
    assert events[0]["type"] == "response.created" and events[-1]["type"] == "response.completed"


def test_requests_wait_for_the_one_before_and_further_ones_are_rejected(raw: Connection) -> None:
    for text in ("one " * 10, "two", "three", "four"):
        raw.send(json.dumps({"type": "response.create", "model": "default", "input": text}))
    events: list[dict[str, Any]] = []
    while [event["type"] for event in events].count("response.completed") < 2:
        events.append(json.loads(raw.recv(20)))
    rejected = [event for event in events if event["type"] == "error"]
    assert {event["code"] for event in rejected} == {"responses_waiting"} and 1 <= len(rejected) <= 2


def test_disconnected_client_ends_its_response(raw: Connection, slow_server: RunningServer) -> None:
    raw.send(json.dumps({"type": "response.create", "model": "default", "input": "one two three " * 40}))
    raw.recv(20)
    raw.close()
    # The slot is free again.
    done = slow_server.client.post("/v1/responses", json={"model": "default", "input": "Hello"})
    assert done.json()["output"][0]["content"][0]["text"] == "You said: Hello."


def test_failed_response_has_one_last_event(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as server:
        with connect(f"ws://127.0.0.1:{server.port}/v1/responses", open_timeout=TIMEOUT) as connection:
            connection.send(json.dumps({"type": "response.create", "model": "default", "input": "one two"}))
            events = received(connection)
    assert [event["type"] for event in events if event["type"] in LAST] == ["response.failed"]


def test_idle_client_is_told_and_disconnected(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("live.idle_seconds=1.1")) as server:
        with connect(f"ws://127.0.0.1:{server.port}/v1/responses", open_timeout=TIMEOUT) as connection:
            assert received(connection)[-1]["code"] == "idle"


def until_closed(connection: Connection) -> tuple[list[str], int]:
    """The types of the events up to the end of the connection, and the code that closes it."""
    found: list[str] = []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            found.append(json.loads(connection.recv(20))["type"])
    assert closed.value.rcvd is not None
    return found, closed.value.rcvd.code


@pytest.mark.slow
def test_end_of_the_server_ends_connections_and_responses(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings()) as server:
        idle, busy = (connect(f"ws://127.0.0.1:{server.port}/v1/responses", open_timeout=TIMEOUT) for _ in range(2))
        idle.send(json.dumps({"type": "response.create", "model": "default", "input": "Hello"}))
        assert received(idle)[-1]["type"] == "response.completed"
        server.appliance.engines.llm.engine.delay = 1  # type: ignore[attr-defined]
        busy.send(json.dumps({"type": "response.create", "model": "default", "input": "one two three " * 9}))
        busy.recv(20)
    assert until_closed(idle) == (["error"], 1012)
    types, code = until_closed(busy)
    assert (types[-1], code) == ("error", 1012)
