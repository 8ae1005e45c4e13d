"""The upstream engine against conforming and non-conforming servers, and a real llama.cpp server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from chat_server import HELLO, Upstream, ask, delta, engine, events, response, stream, text
from chatapi.engines import ContextOverflow, PromptMessage, Sampling, TokenChunk, TokenUsage, Tool
from chatapi.errors import EngineFailed, SettingsError, Unprocessable
from chatapi.events import Token, ToolCall
from conftest import installed_model

USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}},
}


def test_answer_streams_with_finish_reason_and_usage():
    with Upstream(stream(events(delta("Hi"), delta(" there"), delta("", "stop"), USAGE))) as upstream:
        assert ask(upstream) == [TokenChunk("Hi"), TokenChunk(" there"), TokenChunk("", "stop", TokenUsage(9, 2, 5))]


def test_reasoning_tokens_of_the_server_are_passed_on():
    usage = {"prompt_tokens": 9, "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 12}}
    with Upstream(stream(events(delta("Hi", "stop"), {"choices": [], "usage": usage}))) as upstream:
        assert ask(upstream)[-1].usage == TokenUsage(9, 20, reasoning_tokens=12)
    without: dict[str, object] = {**usage, "completion_tokens_details": None}
    with Upstream(stream(events(delta("Hi", "stop"), {"choices": [], "usage": without}))) as upstream:
        assert ask(upstream)[-1].usage == TokenUsage(9, 20)


def test_request_has_all_options_of_the_caller():
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        ask(upstream, Sampling(7, 0.5, seed=3, stop_texts=("END",)), model="large", api_key="s3cret")
        [(line, headers, _)] = upstream.requests
        [chat] = upstream.chats()
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "Bearer s3cret"
    assert (chat["model"], chat["max_tokens"], chat["temperature"], chat["seed"], chat["stop"]) == (
        "large",
        7,
        0.5,
        3,
        ["END"],
    )
    assert chat["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_all_openai_parameters_are_forwarded():
    parts = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
    ]
    told = {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": None,
        "top_logprobs": [{"token": "Ho", "logprob": -1, "bytes": [72]}],
    }
    said = {"choices": [{"delta": {"content": "Hi"}, "logprobs": {"content": [told]}}]}
    calls = [{"choices": [{"delta": {"tool_calls": [part]}}]} for part in parts]
    tool = Tool("weather", "Tells it.", {"type": "object"}, strict=True)
    sampling = Sampling(
        7, 0.5, top_p=0.9, presence_penalty=1.0, logit_bias={5: -1.0}, logprobs=1, schema={"type": "array"},
        tools=(tool,), tool_choice=":weather", parallel=False,
    )  # fmt: skip
    with Upstream(stream(events(said, *calls, delta("", "tool_calls")))) as upstream:
        first, *writing, last = ask(upstream, sampling)
        [chat] = upstream.chats()
    # Deltas of the tool call show progress.
    assert writing == [TokenChunk("")] * len(parts)
    assert first.tokens == (Token("Hi", -0.5, b"Hi", (Token("Ho", -1.0, b"H"),)),)
    assert (last.finish_reason, last.calls) == ("tool_calls", (ToolCall("c1", "weather", '{"city": "Paris"}'),))
    assert (chat["top_p"], chat["presence_penalty"], chat["logit_bias"]) == (0.9, 1.0, {"5": -1.0})
    assert (chat["logprobs"], chat["top_logprobs"], chat["parallel_tool_calls"]) == (True, 1, False)
    assert chat["response_format"]["json_schema"]["schema"] == {"type": "array"}
    assert chat["tools"][0]["function"]["strict"] is True
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


def test_tool_calls_and_results_are_forwarded():
    turns = [
        *HELLO,
        PromptMessage("assistant", "", (ToolCall("c1", "f", "{}"),)),
        PromptMessage("tool", "sunny", call="c1"),
    ]
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        asked = engine(upstream.url)
        list(asked.generate(turns, Sampling(max_tokens=5)))
        asked.close()
        messages = upstream.chats()[0]["messages"]
    assert messages[2]["content"] is None and messages[2]["tool_calls"][0]["function"]["name"] == "f"
    assert messages[3] == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}


def test_parameter_rejected_by_the_server_is_a_caller_error():
    refusal = response(json.dumps({"error": {"message": "no logprobs here", "param": "logprobs"}}).encode(), "400 Bad")
    with Upstream(refusal) as upstream:
        with pytest.raises(Unprocessable, match="no logprobs here") as raised:
            ask(upstream, Sampling(5, logprobs=1))
        assert raised.value.details == {"param": "logprobs"}
        with pytest.raises(EngineFailed):
            ask(upstream)


def test_request_has_no_further_parameters():
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        ask(upstream)
        assert {"seed", "stop"}.isdisjoint(upstream.chats()[0])
        assert all("authorization" not in headers for _, headers, _ in upstream.requests)


def test_first_served_model_is_used_when_none_is_set_and_looked_up_once():
    with Upstream(stream(events(delta("Hi", "stop")))) as upstream:
        asked = engine(upstream.url)
        for _ in range(2):
            list(asked.generate(HELLO, Sampling(max_tokens=5)))
        asked.close()
        assert [chat["model"] for chat in upstream.chats()] == ["tiny", "tiny"]
        assert len(upstream.requests) == 3


def test_engine_is_built_without_a_running_server():
    engine("http://127.0.0.1:9/v1").close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "", "ftp://box/v1", "http://"])
def test_invalid_address_is_rejected(url: str):
    with pytest.raises(SettingsError, match=r"openai_upstream\.url"):
        engine(url)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_events_may_be_split_anywhere_and_carry_any_text(size: int):
    body = events(delta("Zoë "), delta("日本語 🙂"), delta("", "stop")).replace(b"\\u65e5", "日".encode())

    def trickle(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(stream(b""))
        for start in range(0, len(body), size):
            connection.sendall(body[start : start + size])

    with Upstream(trickle) as upstream:
        assert text(ask(upstream)) == "Zoë 日本語 🙂"


def test_unicode_line_separators_stay_within_their_event():
    body = json.dumps(delta("a\u2028b\x85c", "stop"), ensure_ascii=False)
    with Upstream(stream(f"data: {body}\r\n\r\ndata: [DONE]\r\n\r\n".encode())) as upstream:
        assert text(ask(upstream)) == "a\u2028b\x85c"


def test_comments_other_fields_and_multiline_events_are_parsed():
    body = (
        b': ping\n\nevent: x\nid: 4\ndata: {"choices":\ndata:[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    )
    with Upstream(stream(body + b": ping\n\n")) as upstream:
        assert text(ask(upstream)) == "Hi"


def test_usage_is_counted_in_chunks_when_the_server_omits_it():
    with Upstream(stream(events(delta("a"), delta("b", "length")))) as upstream:
        assert ask(upstream)[-1] == TokenChunk("", "length", TokenUsage(completion_tokens=2))


def test_missing_finish_reason_is_accepted_when_the_end_is_marked():
    with Upstream(stream(events(delta("a")))) as upstream:
        assert ask(upstream)[-1].finish_reason == "stop"


def test_reasoning_roles_and_partial_characters_are_not_part_of_the_answer():
    thought = {"choices": [{"delta": {"role": "assistant", "reasoning_content": "hmm", "content": None}}]}
    with Upstream(stream(events(thought, delta("ok\ufffd", "stop")))) as upstream:
        assert text(ask(upstream)) == "ok"


def test_unstreamed_answer_is_accepted():
    whole = {
        "choices": [{"message": {"content": "All of it."}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3},
    }
    with Upstream(response(json.dumps(whole).encode())) as upstream:
        assert ask(upstream) == [TokenChunk("All of it.", "length", TokenUsage(1, 3))]


def test_closed_engine_raises():
    asked = engine("http://127.0.0.1:9/v1")
    asked.close()
    with pytest.raises(EngineFailed, match="was closed"):
        list(asked.generate(HELLO, Sampling(max_tokens=5)))


@pytest.fixture(scope="module")
def llama_server() -> Iterator[tuple[str, str]]:
    """A real llama.cpp server on a loopback port: its address and API key."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    (params.model.path,) = map(str, installed_model("smollm2-135m-instruct").files.values())
    params.n_ctx, params.verbosity, params.api_keys = 512, -1, ["key"]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1", "key"
    del server


@pytest.mark.real
def test_real_server_answers(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key=llama_server[1])
    question = [
        PromptMessage("system", "You answer in one short sentence."),
        PromptMessage("user", "What is the capital of France?"),
    ]
    pieces = list(asked.generate(question, Sampling(20, temperature=0)))
    asked.close()
    assert "Paris" in text(pieces)
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == len(pieces)


@pytest.mark.real
def test_real_server_rejects_a_too_long_prompt(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key=llama_server[1])
    with pytest.raises(ContextOverflow) as raised:
        list(asked.generate([PromptMessage("user", "a " * 600)], Sampling(20)))
    asked.close()
    assert raised.value.context == 512
    assert raised.value.needed > 600


@pytest.mark.real
def test_real_server_rejects_a_wrong_key(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key="wrong", model="any")
    with pytest.raises(EngineFailed, match=r"openai_upstream\.api_key"):
        list(asked.generate(HELLO, Sampling(20)))
    asked.close()


@pytest.mark.real
def test_real_server_is_free_after_stop(llama_server: tuple[str, str]):
    asked = engine(llama_server[0], api_key=llama_server[1])
    answer = asked.generate([PromptMessage("user", "Tell me a very long story.")], Sampling(400))
    next(answer)
    answer.close()
    assert text(list(asked.generate(HELLO, Sampling(5)))) != ""
    asked.close()
