"""Out-of-band responses of `/v1/realtime` with OpenAI's official client and fake engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import pytest

from chatapi.engines import PromptMessage, Sampling, TokenChunk
from chatapi.interfaces.http.realtime.out_of_band import MOST
from conftest import TIMEOUT, RunningServer
from realtime_client import SERVER_VAD, Client, silence, speech, talking

LONG = "word " * 60
OUT_OF_BAND: dict[str, Any] = {"conversation": "none", "output_modalities": ["text"]}


def user_message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def ask(client: Client, **response: Any) -> None:
    await client.send("response.create", response={**OUT_OF_BAND, **response})


async def answer(client: Client, **response: Any) -> dict[str, Any]:
    await ask(client, **response)
    event = await client.until("response.done", "error")
    found: dict[str, Any] = event["response"] if event["type"] == "response.done" else event["error"]
    return found


@pytest.mark.anyio
async def test_response_to_input_leaves_no_trace(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        done = await answer(client, input=[user_message("is this urgent")], metadata={"for": "sorting"})
        assert (done["status"], done["conversation_id"], done["metadata"]) == ("completed", None, {"for": "sorting"})
        assert [part["text"] for part in done["output"][0]["content"]] == ["You said: is this urgent."]
        assert done["usage"]["output_tokens"] > 0
        assert not [kind for kind in client.types if kind.startswith("conversation.item")]
        await client.write("hello")
        await client.send("response.create", response={"output_modalities": ["text"]})
        done = (await client.until("response.done"))["response"]
    messages = shared_server.client.get(f"/conversations/{done['conversation_id']}").json()["messages"]
    assert [message["text"] for message in messages] == ["hello", "You said: hello."]


@pytest.mark.anyio
async def test_response_may_have_audio(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        done = await answer(client, input=[user_message("hello")], output_modalities=["audio"])
        assert done["output"][0]["content"][0]["transcript"] == "You said: hello."
        assert len(client.audio()) > 0


@pytest.mark.anyio
async def test_input_may_reference_items_of_the_conversation(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        item = (await client.write("the first"))["item"]
        await client.write("the second")
        done = await answer(client, input=[{"type": "item_reference", "id": item["id"]}])
        assert done["output"][0]["content"][0]["text"] == "You said: the first."
        error = await answer(client, input=[{"type": "item_reference", "id": "item_gone"}])
        assert error["code"] == "item_retrieve_invalid_item_id"


@pytest.mark.anyio
async def test_without_input_it_responds_to_the_conversation_or_the_instructions(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        error = await answer(client)
        assert (error["code"], error["param"]) == ("nothing_to_answer", "response.instructions")
        await client.write("good evening")
        done = await answer(client)
        assert done["output"][0]["content"][0]["text"] == "You said: good evening."
        # The item still has no response in the conversation.
        await client.send("response.create", response={"output_modalities": ["text"]})
        assert (await client.until("response.done"))["response"]["conversation_id"]
        done = await answer(client, instructions="sum it up")
        assert done["output"][0]["content"][0]["text"] == "You said: sum it up."
        done = await answer(client, instructions="sum it up", input=[])
        assert done["output"][0]["content"][0]["text"] == "You said: sum it up."


@pytest.mark.anyio
async def test_system_texts_are_joined_into_one_message(
    shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[PromptMessage] = []
    engine = shared_server.appliance.engines.llm.engine
    generate = engine.generate

    def recording(messages: Sequence[PromptMessage], *rest: Any, **more: Any) -> Iterator[TokenChunk]:
        prompts[:] = messages
        return generate(messages, *rest, **more)

    monkeypatch.setattr(engine, "generate", recording)
    async with talking(shared_server) as client:
        brief = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}
        await answer(client, input=[user_message("hello"), brief], instructions="Be kind.")
    assert [(each.role, each.text) for each in prompts] == [("system", "Be kind.\n\nBe brief."), ("user", "hello")]


@pytest.mark.anyio
async def test_response_has_the_temperature_of_its_session_or_its_own(
    shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    engine = shared_server.appliance.engines.llm.engine
    generate = engine.generate

    def recording(
        messages: Sequence[PromptMessage], sampling: Sampling, *rest: Any, **more: Any
    ) -> Iterator[TokenChunk]:
        used.append(sampling.temperature)
        return generate(messages, sampling, *rest, **more)

    monkeypatch.setattr(engine, "generate", recording)
    async with talking(shared_server) as client:
        await client.update(temperature=1.25)
        await answer(client, input=[user_message("hello")])
        await answer(client, input=[user_message("hello")], temperature=0.75)
    assert used == [1.25, 0.75]


@pytest.mark.anyio
async def test_tool_results_need_their_calls(shared_server: RunningServer) -> None:
    call = {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "call_1"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    async with talking(shared_server) as client:
        done = await answer(client, input=[user_message("how is it"), call, output])
        assert "sunny" in done["output"][0]["content"][0]["text"]
        error = await answer(client, input=[output])
        assert (error["code"], error["param"]) == ("invalid_value", "response.input")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"conversation": "auto", "input": [user_message("hello")]}, "conversation none"),
        ({"conversation": "another"}, "response.conversation: it must be auto"),
        ({"input": [{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": ""}]}]},
         "response.input.0.content.0.type"),
        ({"input": [{"type": "song"}]}, "response.input.0"),
        ({"input": [user_message(" ")]}, "no text"),
        ({"input": []}, "nothing to respond to"),
        ({"input": [user_message("x")] * 257}, "response.input"),
    ],
)  # fmt: skip
async def test_invalid_response_is_rejected(
    shared_server: RunningServer, response: dict[str, Any], message: str
) -> None:
    async with talking(shared_server) as client:
        error = await answer(client, **{"instructions": "", **response})
        assert message in error["message"], error
        assert (await answer(client, input=[user_message("hello")]))["status"] == "completed"


@pytest.mark.anyio
async def test_live_turn_runs_beside_an_out_of_band_response(slow_server: RunningServer) -> None:
    async with talking(slow_server) as client:
        await client.detect(SERVER_VAD, output_modalities=["text"])
        await ask(client, input=[user_message(LONG)])
        out_of_band = (await client.until("response.created"))["response"]
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        live = (await client.until("response.created"))["response"]
        assert live["conversation_id"] is not None
        ended = [(await client.until("response.done"))["response"] for _ in range(2)]
        assert {(each["id"], each["status"]) for each in ended} == {(i["id"], "completed") for i in (out_of_band, live)}


@pytest.mark.anyio
async def test_out_of_band_response_is_cancelled_only_by_its_id(slow_server: RunningServer) -> None:
    async with talking(slow_server) as client:
        await ask(client, input=[user_message(LONG)])
        out_of_band = (await client.until("response.created"))["response"]
        await client.send("response.cancel")
        assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"
        await client.send("response.cancel", response_id=out_of_band["id"])
        done = (await client.until("response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        await client.send("response.cancel", response_id=out_of_band["id"])
        assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"


@pytest.mark.anyio
async def test_out_of_band_responses_have_a_limit(slow_server: RunningServer) -> None:
    async with talking(slow_server) as client:
        for _ in range(MOST + 1):
            await ask(client, input=[user_message(LONG)])
        assert (await client.until("error"))["error"]["code"] == "too_many_responses"
        for reply in [each["response"]["id"] for each in client.events if each["type"] == "response.created"]:
            await client.send("response.cancel", response_id=reply)
        with anyio.fail_after(TIMEOUT):
            while client.types.count("response.done") < MOST:
                await client.until("response.done")
        assert (await answer(client, input=[user_message("hello")]))["status"] == "completed"


@pytest.mark.anyio
@pytest.mark.parametrize("conversation", ["none", "auto"])
async def test_session_of_a_tts_model_reads_texts_aloud(shared_server: RunningServer, conversation: str) -> None:
    async with talking(shared_server, model="tts-1") as client:
        if conversation == "none":
            await ask(client, input=[user_message("is this urgent?")], output_modalities=["audio"])
        else:
            await client.write("is this urgent?")
            await client.send("response.create")
        done = (await client.until("response.done"))["response"]
        assert done["status"] == "completed"
        assert done["output"][0]["content"][0]["transcript"].strip() == "is this urgent?"
        assert len(client.audio()) > 0


@pytest.mark.anyio
async def test_text_without_words_is_a_short_silence_in_a_session_of_a_tts_model(shared_server: RunningServer) -> None:
    async with talking(shared_server, model="gpt-4o-mini-tts") as client:
        done = await answer(client, input=[user_message("👍")], output_modalities=["audio"])
        assert done["status"] == "completed" and done["output"][0]["content"][0]["transcript"] == "👍"
        assert len(client.audio()) > 0 and not client.audio().any()
