"""Reasoning and markers of a model reach no text, no speech and no history, on every interface."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import pytest
from openai import OpenAI
from wyoming.asr import Transcript

from chat_server import Upstream, delta, events, stream
from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.services.turns.completion import Turn
from conftest import FAKE_ENGINES, RunningServer, serving, until
from realtime_client import talking
from wyoming_peer import ask, open_to_wyoming

SECRET = "unicorn"
ANSWERS = [
    f"<think>\nthe {SECRET} wants</think>\n\nGood morning, Ada.",
    f"the user is a {SECRET}\n</think>\n\nGood morning, Ada.",
    f"Greet the {SECRET}.\n</think>\n\nGood morning, Ada.",
    f"<|channel|>analysis<|message|>{SECRET}<|end|><|start|>assistant<|channel|>final<|message|>Good morning, Ada.",
    f"Good morning, Ada.<|im_end|>\n<|im_start|>user\n{SECRET}",
    f'assistant\n\nGood morning, Ada.<tool_call>{{"name":"{SECRET}","arguments":{{}}}}</tool_call></s>',
]
GREETING = "Good morning, Ada."
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


class Model:
    """A chat server whose answers a test sets, in small deltas; the last one repeats."""

    def __init__(self) -> None:
        self.answers = ["Hello."]
        self.before_mark: Callable[[], object] = lambda: None
        """Waits before the mark that ends a thought is sent."""
        self._lock = threading.Lock()
        self.upstream = Upstream(self._script)

    def _script(self, connection: socket.socket) -> None:
        with self._lock:
            text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        thought, mark, rest = text.partition("</think>")
        deltas = [[delta(part[at : at + 3]) for at in range(0, len(part), 3)] for part in (thought, mark + rest)]
        connection.sendall(stream(events(*deltas[0], done=False)))
        self.before_mark()
        connection.sendall(events(*deltas[1], delta("", "stop")))


def chosen(url: str, data: Path) -> Any:
    upstream = ("llm.engine=openai_upstream", f"openai_upstream.url={url}")
    return settings.load([*FAKE_ENGINES, *upstream, f"data={data}"], environ={}).settings


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model()
    with model.upstream:
        yield model


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(chosen(model.upstream.url, tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    # What one answer teaches about the model does not help the next test.
    server.appliance.chat.generator.omits_reasoning_marker = False
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20) as found:
        yield found


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_over_http_are_without(client: OpenAI, server: RunningServer, model: Model, text: str) -> None:
    model.answers = [text]
    messages: Any = [{"role": "user", "content": "Hello"}]
    completion = client.chat.completions.create(model="default", messages=messages)
    assert completion.choices[0].message.content == GREETING
    response = client.responses.create(model="default", input="Hello")
    assert response.output_text == GREETING and SECRET not in response.model_dump_json()
    assert client.completions.create(model="default", prompt="Hello").choices[0].text == GREETING
    asked = server.client.post("/completion", json={"prompt": "Hello"}).json()
    assert asked["reply"] == GREETING
    stored = server.client.get(f"/conversations/{asked['conversation']}").json()
    assert stored["messages"][-1]["text"] == GREETING


@pytest.mark.anyio
@pytest.mark.parametrize("text", ANSWERS)
async def test_voice_does_not_speak_it(tmp_path: Path, model: Model, text: str) -> None:
    async with running(model, tmp_path) as appliance:
        model.answers = [text]
        async with appliance.completions.run(Turn(prompt="Hello", speak=True)) as turn_events:
            found = [event async for event in turn_events]
    if text != ANSWERS[2]:
        # There the first words have been synthesized before the marker shows what they were.
        spoken = " ".join(event.text for event in found if hasattr(event, "audio"))
        assert spoken == GREETING


@asynccontextmanager
async def running(model: Model, data: Path) -> AsyncIterator[Appliance]:
    async with Appliance(chosen(model.upstream.url, data)).running() as appliance:
        model.answers = ["Hello."]
        await appliance.load()
        yield appliance


def test_spoken_answer_is_withdrawn_as_a_whole(client: OpenAI, server: RunningServer, model: Model) -> None:
    model.answers = [ANSWERS[2]]
    asked = server.client.post("/completion", json={"prompt": "Hello", "reply": "voice"})
    assert asked.status_code == 200 and unquote(asked.headers["x-chatapi-reply"]) == GREETING
    # Three words of the fake voice, less the silence at their start.
    assert 0 <= 44 + 2 * 3 * 960 - len(asked.content) < 20
    # From then on reasoning without an opening marker is expected, and none of it is sent.
    with client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "Hello"}], stream=True
    ) as chunks:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == GREETING


def test_reasoning_is_sent_as_reasoning_content(client: OpenAI, model: Model) -> None:
    model.answers = [ANSWERS[0]]
    messages: Any = [{"role": "user", "content": "Hello"}]
    whole: Any = client.chat.completions.create(model="default", messages=messages).choices[0].message
    assert (whole.content, whole.reasoning_content) == (GREETING, f"the {SECRET} wants")
    with client.chat.completions.create(model="default", messages=messages, stream=True) as chunks:
        deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(each.content or "" for each in deltas) == GREETING
    assert "".join(getattr(each, "reasoning_content", "") for each in deltas).strip() == f"the {SECRET} wants"


def test_usage_counts_the_tokens_of_the_reasoning(client: OpenAI, model: Model) -> None:
    model.answers = [ANSWERS[0]]
    messages: Any = [{"role": "user", "content": "Hello"}]
    # The model's chunks have three characters, and six of them begin between the markers.
    whole: Any = client.chat.completions.create(model="default", messages=messages)
    assert whole.usage.completion_tokens_details.reasoning_tokens == 6
    with client.chat.completions.create(
        model="default", messages=messages, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        *_, last = chunks
    assert last.usage == whole.usage
    response: Any = client.responses.create(model="default", input="Hello")
    assert response.usage.output_tokens_details.reasoning_tokens == 6


@pytest.mark.anyio
@pytest.mark.parametrize("text", ANSWERS)
async def test_realtime_and_wyoming_are_without(server: RunningServer, model: Model, text: str, tmp_path: Path) -> None:
    model.answers = [text]
    server.appliance.chat.generator.omits_reasoning_marker = False
    async with talking(server) as client:
        await client.update(output_modalities=["text"])
        await client.write("hello")
        await client.send("response.create")
        done = (await client.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["text"] == GREETING
    async with running(model, tmp_path) as appliance, open_to_wyoming(appliance) as (_, port):
        model.answers = [text]
        handled = (await ask(port, Transcript("Hello"), end=["handled"]))[-1]
        assert handled.data["text"] == GREETING


@pytest.mark.anyio
async def test_thought_that_was_spoken_is_not_what_was_played(
    server: RunningServer, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tts = server.appliance.engines.tts
    model.answers, before = [ANSWERS[2]], tts.items_produced
    monkeypatch.setattr(model, "before_mark", lambda: anyio.run(until, lambda: tts.items_produced > before))
    server.appliance.chat.generator.omits_reasoning_marker = False
    async with talking(server) as client:
        await client.write("hello")
        await client.send("response.create")
        done = (await client.until("response.done"))["response"]
        # Three words of the thought, and one of the answer.
        heard = {"item_id": done["output"][0]["id"], "content_index": 0, "audio_end_ms": 260}
        await client.send("conversation.item.truncate", **heard)
        await client.until("conversation.item.truncated")
        conversation = done["conversation_id"]
    messages = server.client.get(f"/conversations/{conversation}").json()["messages"]
    assert messages[-1]["text"] == "Good —"


def test_call_that_cannot_be_read_is_told_the_model(client: OpenAI, model: Model) -> None:
    wrong = '<tool_call>{"name":"get_weather","arguments":{"city":"Oslo"}}</tool_call>'
    right = '{"name":"weather","arguments":{"city":"Oslo"}}'
    messages: Any = [{"role": "user", "content": "Is it raining in Oslo?"}]
    model.answers = [wrong, right]
    model.upstream.requests.clear()
    [choice] = client.chat.completions.create(model="default", messages=messages, tools=[WEATHER]).choices  # type: ignore[list-item]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    [call] = choice.message.tool_calls or ()
    assert call.type == "function" and json.loads(call.function.arguments) == {"city": "Oslo"}
    first, second = model.upstream.chats()
    told: Any = second["messages"]
    assert told[: len(first["messages"])] == first["messages"]  # type: ignore[arg-type]
    assert told[-2] == {"role": "assistant", "content": wrong} and "no function 'get_weather'" in told[-1]["content"]


def test_call_that_stays_wrong_becomes_an_apology(client: OpenAI, server: RunningServer, model: Model) -> None:
    messages: Any = [{"role": "user", "content": "Is it raining in Oslo?"}]
    model.answers = ['Sure! <tool_call>{"name":"get_weather"}</tool_call>']
    [choice] = client.chat.completions.create(model="default", messages=messages, tools=[WEATHER]).choices  # type: ignore[list-item]
    apology = server.appliance.settings.llm.no_answer
    assert choice.finish_reason == "stop" and choice.message.content == f"Sure! Sure! {apology}"
