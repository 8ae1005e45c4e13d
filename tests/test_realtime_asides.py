"""Responses outside of the conversation of `/v1/realtime`, with OpenAI's own client and engines that need no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import pytest

from chatapi.engines import PromptMessage, TokenChunk
from chatapi.interfaces.http.realtime.out_of_band import MOST
from conftest import Served
from realtime_client import SERVER_VAD, Client, silence, speech, talking

LONG = "word " * 60
OUT: dict[str, Any] = {"conversation": "none", "output_modalities": ["text"]}


def written(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def ask(client: Client, **response: Any) -> None:
    await client.send("response.create", response={**OUT, **response})


async def answer(client: Client, **response: Any) -> dict[str, Any]:
    await ask(client, **response)
    event = await client.until("response.done", "error")
    found: dict[str, Any] = event["response"] if event["type"] == "response.done" else event["error"]
    return found


@pytest.mark.anyio
async def test_it_answers_its_input_and_leaves_no_trace(served: Served) -> None:
    async with talking(served) as client:
        done = await answer(client, input=[written("is this urgent")], metadata={"for": "sorting"})
        assert (done["status"], done["conversation_id"], done["metadata"]) == ("completed", None, {"for": "sorting"})
        assert [part["text"] for part in done["output"][0]["content"]] == ["You said: is this urgent."]
        assert done["usage"]["output_tokens"] > 0
        assert not [kind for kind in client.types if kind.startswith("conversation.item")]
        await client.write("hello")
        await client.send("response.create", response={"output_modalities": ["text"]})
        done = (await client.until("response.done"))["response"]
    messages = served.client.get(f"/conversations/{done['conversation_id']}").json()["messages"]
    assert [message["text"] for message in messages] == ["hello", "You said: hello."]


@pytest.mark.anyio
async def test_it_may_be_spoken(served: Served) -> None:
    async with talking(served) as client:
        done = await answer(client, input=[written("hello")], output_modalities=["audio"])
        assert done["output"][0]["content"][0]["transcript"] == "You said: hello."
        assert len(client.audio()) > 0


@pytest.mark.anyio
async def test_items_of_the_conversation_can_be_named(served: Served) -> None:
    async with talking(served) as client:
        item = (await client.write("the first"))["item"]
        await client.write("the second")
        done = await answer(client, input=[{"type": "item_reference", "id": item["id"]}])
        assert done["output"][0]["content"][0]["text"] == "You said: the first."
        error = await answer(client, input=[{"type": "item_reference", "id": "item_gone"}])
        assert error["code"] == "item_not_found"


@pytest.mark.anyio
async def test_without_input_it_answers_the_conversation_or_what_the_instructions_say(served: Served) -> None:
    async with talking(served) as client:
        error = await answer(client)
        assert (error["code"], error["param"]) == ("nothing_to_answer", "response.instructions")
        await client.write("good evening")
        done = await answer(client)
        assert done["output"][0]["content"][0]["text"] == "You said: good evening."
        # What it answered still waits for its answer.
        await client.send("response.create", response={"output_modalities": ["text"]})
        assert (await client.until("response.done"))["response"]["conversation_id"]
        done = await answer(client, instructions="sum it up")
        assert done["output"][0]["content"][0]["text"] == "You said: sum it up."
        done = await answer(client, instructions="sum it up", input=[])
        assert done["output"][0]["content"][0]["text"] == "You said: sum it up."


@pytest.mark.anyio
async def test_what_the_system_says_is_told_in_one_message(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[PromptMessage] = []
    engine = served.appliance.engines.llm.engine
    generate = engine.generate

    def listening(messages: Sequence[PromptMessage], *rest: Any) -> Iterator[TokenChunk]:
        told[:] = messages
        return generate(messages, *rest)

    monkeypatch.setattr(engine, "generate", listening)
    async with talking(served) as client:
        brief = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}
        await answer(client, input=[written("hello"), brief], instructions="Be kind.")
    assert [(each.role, each.text) for each in told] == [("system", "Be kind.\n\nBe brief."), ("user", "hello")]


@pytest.mark.anyio
async def test_what_functions_gave_belongs_to_their_calls(served: Served) -> None:
    call = {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "call_1"}
    given = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    async with talking(served) as client:
        done = await answer(client, input=[written("how is it"), call, given])
        assert "sunny" in done["output"][0]["content"][0]["text"]
        error = await answer(client, input=[given])
        assert (error["code"], error["param"]) == ("invalid_value", "response.input")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("response", "told"),
    [
        ({"conversation": "auto", "input": [written("hello")]}, "conversation none"),
        ({"conversation": "another"}, "response.conversation: it is auto"),
        ({"input": [{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": ""}]}]},
         "response.input.0.content.0.type"),
        ({"input": [{"type": "song"}]}, "response.input.0"),
        ({"input": [written(" ")]}, "no text"),
        ({"input": []}, "nothing waits"),
        ({"input": [written("x")] * 257}, "response.input"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said(served: Served, response: dict[str, Any], told: str) -> None:
    async with talking(served) as client:
        error = await answer(client, **{"instructions": "", **response})
        assert told in error["message"], error
        assert (await answer(client, input=[written("hello")]))["status"] == "completed"


@pytest.mark.anyio
async def test_somebody_speaks_and_is_answered_meanwhile(slow: Served) -> None:
    async with talking(slow) as client:
        await client.detect(SERVER_VAD, output_modalities=["text"])
        await ask(client, input=[written(LONG)])
        aside = (await client.until("response.created"))["response"]
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        live = (await client.until("response.created"))["response"]
        assert live["conversation_id"] is not None
        ended = [(await client.until("response.done"))["response"] for _ in range(2)]
        assert {(each["id"], each["status"]) for each in ended} == {(i["id"], "completed") for i in (aside, live)}


@pytest.mark.anyio
async def test_one_is_cancelled_by_its_id_alone(slow: Served) -> None:
    async with talking(slow) as client:
        await ask(client, input=[written(LONG)])
        aside = (await client.until("response.created"))["response"]
        await client.send("response.cancel")
        assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"
        await client.send("response.cancel", response_id=aside["id"])
        done = (await client.until("response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        await client.send("response.cancel", response_id=aside["id"])
        assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"


@pytest.mark.anyio
async def test_there_is_a_most_of_them(slow: Served) -> None:
    async with talking(slow) as client:
        for _ in range(MOST + 1):
            await ask(client, input=[written(LONG)])
        assert (await client.until("error"))["error"]["code"] == "too_many_responses"
        for reply in [each["response"]["id"] for each in client.told if each["type"] == "response.created"]:
            await client.send("response.cancel", response_id=reply)
        with anyio.fail_after(10):
            while client.types.count("response.done") < MOST:
                await client.until("response.done")
        assert (await answer(client, input=[written("hello")]))["status"] == "completed"
