"""Functions that are called by way of `/v1/realtime`, with OpenAI's own client and engines that need no model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatapi.engines import PromptMessage
from chatapi.events import ToolCall
from chatapi.services.turns.prompts import Question
from chatapi.storage.history import ConversationState, Exchange, ToolResult
from conftest import Served
from realtime_client import SERVER_VAD, Client, silence, speech, talking

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": CITY}
NEWS = {**WEATHER, "name": "news"}
TEXT = {"output_modalities": ["text"]}


async def give(client: Client, call: str, output: str) -> dict[str, Any]:
    item = {"type": "function_call_output", "call_id": call, "output": output}
    await client.send("conversation.item.create", item=item)
    return await client.until("conversation.item.done", "error")


async def answer(client: Client, **response: Any) -> dict[str, Any]:
    await client.send("response.create", response=response)
    done: dict[str, Any] = (await client.until("response.done"))["response"]
    return done


@pytest.mark.anyio
async def test_a_function_is_called_and_answered_for(served: Served) -> None:
    async with talking(served) as client:
        updated = await client.update(**TEXT, tools=[WEATHER, NEWS], tool_choice={"type": "function", "name": "news"})
        assert updated["session"]["tools"] == [WEATHER, NEWS]
        assert updated["session"]["tool_choice"] == {"type": "function", "name": "news"}
        await client.write("hello")
        done = await answer(client)
        [call] = done["output"]
        assert (done["status"], call["type"], call["status"], call["name"]) == (
            "completed", "function_call", "completed", "news",
        )  # fmt: skip
        assert json.loads(call["arguments"]) == {"city": "hello"}
        kinds = [kind for kind in client.types if kind.startswith(("response", "conversation.item"))]
        assert kinds[2:] == [
            "response.created", "response.output_item.added", "conversation.item.added",
            "response.function_call_arguments.delta", "response.function_call_arguments.done",
            "response.output_item.done", "conversation.item.done", "response.done",
        ]  # fmt: skip
        written = next(e for e in client.told if e["type"].endswith("arguments.done"))
        assert (written["call_id"], written["item_id"], written["output_index"]) == (call["call_id"], call["id"], 0)
        assert (written["name"], written["arguments"]) == ("news", call["arguments"])
        given = (await give(client, call["call_id"], "sunny"))["item"]
        assert (given["type"], given["call_id"], given["output"]) == ("function_call_output", call["call_id"], "sunny")
        done = await answer(client, tool_choice="none")
        said = done["output"][0]["content"][0]["text"]
        assert said == "You said: <tool_response>\nsunny\n</tool_response>."
    path = f"/conversations/{done['conversation_id']}"
    assert [m["text"] for m in served.client.get(path).json()["messages"]] == ["hello", said]


@pytest.mark.anyio
async def test_a_spoken_turn_that_is_answered_by_a_call_sounds_of_nothing(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(SERVER_VAD, tools=[WEATHER], tool_choice="required")
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        [call] = (await client.until("response.done"))["response"]["output"]
        assert json.loads(call["arguments"])["city"].startswith("heard ")
        assert not [kind for kind in client.types if "output_audio" in kind or "content_part" in kind]
        # Who speaks again now has heard of the answer: it stands, and can still be answered for.
        await client.say(speech(0.5), silence(0.8))
        [other] = (await client.until("response.done"))["response"]["output"]
        assert "conversation.item.deleted" not in client.types
        for each in (other, call):
            await give(client, each["call_id"], "sunny in Rome")
        done = await answer(client, tool_choice="none")
        said = done["output"][0]["content"][0]["transcript"]
        assert said.count("sunny in Rome") == 2 and max(abs(client.audio())) > 0.2


@pytest.mark.anyio
async def test_words_before_a_call_are_an_item_of_their_own(served: Served) -> None:
    async with talking(served) as client:
        await client.update(tools=[WEATHER])
        await client.write('<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>')
        words, call = (await answer(client))["output"]
        assert words["content"][0]["transcript"].strip() == "You said:" and call["type"] == "function_call"
        places = {e["item"]["id"]: e["output_index"] for e in client.told if e["type"] == "response.output_item.done"}
        assert places == {words["id"]: 0, call["id"]: 1}
        assert len(client.audio()) > 0


@pytest.mark.anyio
async def test_functions_may_be_offered_for_one_response_only(served: Served) -> None:
    async with talking(served) as client:
        await client.update(**TEXT)
        await client.write("one")
        [call] = (await answer(client, tools=[WEATHER], tool_choice="required"))["output"]
        assert call["name"] == "weather"
        await client.write("two")
        [words] = (await answer(client))["output"]
        assert words["content"][0]["text"] == "You said: two."


@pytest.mark.anyio
async def test_calls_of_an_earlier_session_are_put_back_and_can_be_deleted(served: Served) -> None:
    async with talking(served) as client:
        await client.update(**TEXT)
        item = {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "call_1"}
        await client.send("conversation.item.create", item=item)
        assert (await client.until("conversation.item.done"))["item"]["name"] == "weather"
        given = (await give(client, "call_1", "sunny"))["item"]
        await client.send("conversation.item.retrieve", item_id=given["id"])
        assert (await client.until("conversation.item.retrieved"))["item"]["output"] == "sunny"
        [words] = (await answer(client))["output"]
        assert "sunny" in words["content"][0]["text"]
        await client.send("conversation.item.delete", item_id=given["id"])
        await client.until("conversation.item.deleted")
        [words] = (await answer(client))["output"]
        assert "sunny" not in words["content"][0]["text"]


@pytest.mark.anyio
async def test_what_is_wrong_with_functions_is_told_by_name(served: Served) -> None:
    async with talking(served) as client:
        for session, code, param in (
            ({"tools": [WEATHER, WEATHER]}, "invalid_value", "tools"),
            ({"tools": [{**WEATHER, "description": "a" * 20_000}]}, "string_above_max_length", "tools"),
            ({"tools": [{"type": "mcp", "server_label": "x"}]}, "invalid_value", "session.tools.0.type"),
            ({"tools": [{**WEATHER, "name": "a b"}]}, "invalid_value", "session.tools.0.name"),
            ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
            ({"tool_choice": "often"}, "invalid_value", "session.tool_choice"),
            ({"tools": [NEWS], "tool_choice": {"type": "function", "name": "weather"}}, "invalid_value", "tool_choice"),
        ):
            await client.send("session.update", session={"type": "realtime", **session})
            error = (await client.until("error"))["error"]
            assert (error["code"], error["param"]) == (code, param)
        assert (await give(client, "call_x", "a"))["error"]["code"] == "call_not_found"
        # A schema that the engine does not follow is found out when it is to follow it.
        strange = {**WEATHER, "parameters": {"type": "object", "patternProperties": {}}}
        await client.update(**TEXT, tools=[strange], tool_choice="required")
        done = await answer(client)
        assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "invalid_json_schema")
        # Nothing of that is left.
        await client.update(**TEXT, tools=[WEATHER])
        [call] = (await answer(client, tool_choice="required"))["output"]
        await give(client, call["call_id"], "")
        assert (await give(client, call["call_id"], "again"))["error"]["code"] == "call_not_found"


def test_a_call_stands_beside_what_it_gave_and_nowhere_else() -> None:
    weather, news = ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "news", "{}")
    exchanges = (
        Exchange(1, "Weather and news?", "Let me see."),
        Exchange(2, "", "It is sunny.", (ToolResult(weather, "sunny"),)),
    )
    told = Question(ConversationState("c", "Be brief.", exchanges), "And?", "", (ToolResult(news, ""),)).messages()
    assert told == [
        PromptMessage("system", "Be brief."),
        PromptMessage("user", "Weather and news?"),
        PromptMessage("assistant", "Let me see.", (weather,)),
        PromptMessage("tool", "sunny", call="call_1"),
        PromptMessage("assistant", "It is sunny.", (news,)),
        PromptMessage("tool", "", call="call_2"),
        PromptMessage("user", "And?"),
    ]
