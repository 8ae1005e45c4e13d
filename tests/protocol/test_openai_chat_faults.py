"""`/v1/chat/completions` with malformed, huge, invalid and contradictory bodies: OpenAI's errors, never a 5xx."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.errors import NotFound
from chatapi.interfaces.http.json_body import LARGE, MOST_VALUES
from chatapi.services.turns.chat_completion import MAX_AUDIO_IDS
from conftest import FAKE_ENGINES, RunAppliance, RunningServer, serving, tone

PATH = "/v1/chat/completions"
FIRST = "messages[0].content[0]"
SPEAK = ["text", "audio"]
USER = {"role": "user", "content": "hello"}
CALLS = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
TOOL = {"type": "function", "function": {"name": "f"}}
LONG_SCHEMA = {"title": "a" * 64_000}


@pytest.fixture(scope="module")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("data")
    with serving(settings.load([*FAKE_ENGINES, f"data={data}"], environ={}).settings) as running:
        yield running


def ask(chat_server: RunningServer, **body: Any) -> httpx.Response:
    return chat_server.client.post(PATH, json={"model": "default", "messages": [USER], **body})


def sound(data: str, form: str = "wav") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": form}}]}


def encoded(file: bytes) -> str:
    return base64.b64encode(file).decode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b'{"model": "default", "messages": [', "invalid_json"),
        (b"\xff\xfe\x00binary\x00", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"messages": ' + b'{"a":' * 100 + b"1" + b"}" * 101, "invalid_json"),
        (b'{"messages": [], "seed": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "a\\u0000b"}]}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "invalid_json"),
        (b"null", "invalid_value"),
        (b'["messages"]', "invalid_value"),
        (b"{}", "missing_required_parameter"),
    ],
)
def test_malformed_body_is_rejected(chat_server: RunningServer, body: bytes, code: str) -> None:
    reply = chat_server.client.post(PATH, content=body, headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (400, "invalid_request_error", code)
    assert error["message"] and error["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("path", [PATH, "/v1/audio/speech", "/completion"])
def test_too_many_values_are_rejected_before_parsing(chat_server: RunningServer, path: str) -> None:
    body = b'{"input": [' + b"[]," * (MOST_VALUES // 2) + b"[]]}"
    reply = chat_server.client.post(path, content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json().get("error", reply.json())["code"]) == (413, "too_many_values")


def test_long_body_is_validated_like_a_short_one(chat_server: RunningServer) -> None:
    assert ask(chat_server, user="b" * LARGE).status_code == 200
    error = ask(chat_server, user="b" * LARGE + "\0").json()["error"]
    assert error["code"] == "invalid_json" and "NUL" in error["message"]
    broken = chat_server.client.post(PATH, content=b"{" * LARGE, headers={"content-type": "application/json"})
    assert broken.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "hello"}, "invalid_value", "messages"),
        ({"messages": [5]}, "invalid_value", "messages[0]"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "invalid_value", "messages[0]"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "empty_messages", "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty_messages", "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "empty_messages", "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_value", "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "empty_messages", "messages"),
        ({"messages": [USER, CALLS]}, "invalid_value", "messages"),
        ({"messages": [{"role": "system", "content": "a", "name": "b c"}]}, "invalid_value", "messages[0].name"),
        (
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": "c1", "name": "f"}]},
            "invalid_value",
            "messages[0].tool_call_id",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
            "unsupported_content",
            FIRST,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file", "file": {}}]}]},
            "unsupported_content",
            "messages[0].content[1]",
        ),
        (
            {"messages": [{"role": "tool", "tool_call_id": "c1", "content": "a"}]},
            "invalid_value",
            "messages[0].tool_call_id",
        ),
        ({"messages": [{"role": "user", "content": "a" * 32_001}]}, "string_above_max_length", "messages[0]"),
        ({"messages": [{"role": "user", "content": "a" * 31_999}] * 5}, "context_length_exceeded", "messages"),
        ({"messages": [{"role": "user", "content": "a "  * 8200}]}, "context_length_exceeded", "messages"),
        ({"messages": [USER] * 1001}, "invalid_value", "messages"),
        ({"messages": [sound("not base64!")]}, "invalid_audio", "messages[0].content[0].input_audio.data"),
        ({"messages": [sound("")]}, "bad_audio", FIRST),
        ({"messages": [sound(encoded(b"\x00\x01garbage" * 50), "mp3")]}, "bad_audio", FIRST),
        ({"messages": [sound(encoded(wav(Audio(np.zeros(RATE, np.float32), RATE))))]}, "no_speech", FIRST),
        ({"messages": [sound("", "f" * 51)]}, "invalid_value", "messages[0].content[0].input_audio.format"),
        ({"model": "llama-9000"}, "model_not_found", "model"),
        ({"model": 5}, "invalid_value", "model"),
        ({"messages": [USER], "message": 1}, "unknown_parameter", "message"),
        ({"n": 9}, "invalid_value", "n"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "invalid_value", "max_tokens"),
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"top_p": -0.1}, "invalid_value", "top_p"),
        ({"frequency_penalty": 3}, "invalid_value", "frequency_penalty"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop"),
        ({"seed": 2**70}, "invalid_value", "seed"),
        ({"logit_bias": {"a": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"stream": "yes"}, "invalid_value", "stream"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "invalid_value", "stream_options.include_usage"),
        ({"modalities": ["audio"]}, "invalid_value", "modalities"),
        ({"modalities": SPEAK}, "missing_required_parameter", "audio"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "invalid_value", "audio"),
        ({"modalities": SPEAK, "audio": {"voice": "bob", "format": "wav"}}, "unknown_voice", "audio.voice"),
        ({"modalities": SPEAK, "audio": {"voice": "alloy", "format": "ogg"}}, "invalid_value", "audio.format"),
        (
            {"modalities": SPEAK, "audio": {"voice": "alloy", "format": "wav"}, "stream": True},
            "unsupported_value",
            "audio.format",
        ),
        ({"response_format": {"type": "xml"}}, "invalid_value", "response_format"),
        ({"response_format": {"type": "json_schema"}}, "missing_required_parameter", "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "blub"}}}},
            "invalid_json_schema",
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": LONG_SCHEMA}}},
            "string_above_max_length",
            "response_format",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "invalid_value", "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "invalid_value", "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "invalid_value", "tools[0].function.name"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
                "tool_choice": "required",
            },
            "invalid_json_schema",
            "tools",
        ),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "invalid_value",
            "tool_choice",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]},
                },
            },
            "invalid_value",
            "tool_choice",
        ),
    ],
)  # fmt: skip
def test_invalid_value_is_reported_with_its_path(
    chat_server: RunningServer, change: Any, code: str, param: str
) -> None:
    reply = ask(chat_server, **change)
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert reply.status_code == (404 if code == "model_not_found" else 400)
    assert "Input should" not in error["message"]


def test_other_media_types_are_rejected(chat_server: RunningServer) -> None:
    reply = chat_server.client.post(PATH, data={"model": "default"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_body_of_a_hundred_megabytes_is_rejected_before_it_is_read(chat_server: RunningServer) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {100 << 20}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", chat_server.port), timeout=20) as connection:
        connection.sendall(head.encode())
        with connection.makefile("rb") as file:
            reply = file.read()
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_audio_of_all_messages_has_a_limit(chat_server: RunningServer) -> None:
    long = sound(encoded(wav(Audio(tone(61, rate=8000), 8000))))
    reply = ask(chat_server, messages=[long, {"role": "assistant", "content": "ok"}, long])
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "audio_too_long")


def test_while_models_load_requests_get_retry_after(tmp_path: Any) -> None:
    with serving(settings.load([*FAKE_ENGINES, f"data={tmp_path}"], environ={}).settings, load=False) as cold:
        reply = ask(cold)
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
        assert reply.headers["retry-after"]
        # Models and voices are not known yet.
        for other in (
            ask(cold, model="some-model"),
            cold.client.get("/v1/models/some-model"),
            cold.client.post("/v1/audio/speech", json={"model": "some-voice", "input": "hello", "voice": "alloy"}),
        ):
            assert (other.status_code, other.json()["error"]["code"]) == (503, "not_ready")
            assert other.headers["retry-after"] == "1"


@pytest.mark.anyio
async def test_stored_audio_ids_have_a_limit(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        for number in range(MAX_AUDIO_IDS + 1):
            appliance.chat.remember(str(number), "said")
        assert appliance.chat.audio_text("1", "here") == "said"
        with pytest.raises(NotFound):
            appliance.chat.audio_text("0", "here")


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_audio", "image_url", "refusal"])},
    optional={
        "text": JSON,
        "input_audio": st.fixed_dictionaries({"data": st.text(max_size=30), "format": st.just("wav")}),
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "x"])},
        optional={"content": st.text(max_size=30) | st.lists(PARTS, max_size=3) | JSON, "tool_call_id": JSON,
                  "tool_calls": JSON, "audio": JSON, "name": JSON},
    ),
    max_size=4,
)  # fmt: skip
SCHEMAS = st.recursive(
    st.sampled_from([{}, {"type": "string"}, {"type": "null"}, {"enum": [1]}, {"$ref": "#/properties/a"}]) | JSON,
    lambda inner: st.fixed_dictionaries({}, optional={"type": st.sampled_from(["object", "array"]), "items": inner,
                  "properties": st.dictionaries(st.just("a"), inner), "anyOf": st.lists(inner, max_size=2),
                  "minItems": st.integers(-1, 10**9), "required": JSON}),
)  # fmt: skip
OTHERS = (
    "max_tokens", "temperature", "top_p", "stop", "seed", "n", "logprobs", "top_logprobs", "logit_bias",
    "stream_options", "presence_penalty", "store", "metadata", "functions",
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {"messages": st.just([USER]) | MESSAGES},
    optional={
        "model": st.just("default") | JSON,
        "stream": st.booleans() | JSON,
        "modalities": st.sampled_from([["text"], ["text", "audio"]]) | JSON,
        "audio": st.just({"voice": "alloy", "format": "pcm16"}) | JSON,
        "response_format": st.builds(
            lambda schema: {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}, SCHEMAS
        ),
        "tools": st.builds(
            lambda schema: [{"type": "function", "function": {"name": "f", "parameters": schema}}], SCHEMAS
        ),
        "tool_choice": st.sampled_from(["auto", "required", "none"]) | JSON,
        **dict.fromkeys(OTHERS, JSON),
    },
)  # fmt: skip


@hypothesis.given(body=BODIES)
@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_body_is_answered_or_rejected(chat_server: RunningServer, body: Any) -> None:
    reply = chat_server.client.post(
        PATH, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert reply.status_code in (200, 400, 404, 413), reply.text
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert error["message"] and error["code"] and error["type"] == "invalid_request_error"
    elif "text/event-stream" in reply.headers["content-type"]:
        assert reply.text.endswith("data: [DONE]\n\n") and '"error"' not in reply.text
    else:
        assert reply.json()["choices"]
