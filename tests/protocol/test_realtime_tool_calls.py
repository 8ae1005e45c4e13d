"""Tool calls over `/v1/realtime` with OpenAI's official client and fake engines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatapi.engines import PromptMessage
from chatapi.events import ToolCall
from chatapi.services.turns.prompts import Question
from chatapi.storage.history import ConversationState, Exchange, ToolResult
from conftest import RunningServer
from realtime_client import SERVER_VAD, Client, silence, speech, talking

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": CITY}
NEWS = {**WEATHER, "name": "news"}
TEXT = {"output_modalities": ["text"]}


async def send_output(client: Client, call: str, output: str) -> dict[str, Any]:
    item = {"type": "function_call_output", "call_id": call, "output": output}
    await client.send("conversation.item.create", item=item)
    return await client.until("conversation.item.done", "error")


async def answer(client: Client, **response: Any) -> dict[str, Any]:
    await client.send("response.create", response=response)
    done: dict[str, Any] = (await client.until("response.done"))["response"]
    return done


@pytest.mark.anyio
async def test_tool_call_and_its_result_get_a_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
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
        arguments = next(e for e in client.events if e["type"].endswith("arguments.done"))
        assert (arguments["call_id"], arguments["item_id"], arguments["output_index"]) == (
            call["call_id"],
            call["id"],
            0,
        )
        assert (arguments["name"], arguments["arguments"]) == ("news", call["arguments"])
        given = (await send_output(client, call["call_id"], "sunny"))["item"]
        assert (given["type"], given["call_id"], given["output"]) == ("function_call_output", call["call_id"], "sunny")
        done = await answer(client, tool_choice="none")
        text = done["output"][0]["content"][0]["text"]
        assert text == "You said: <tool_response>\nsunny\n</tool_response>."
    path = f"/conversations/{done['conversation_id']}"
    assert [m["text"] for m in shared_server.client.get(path).json()["messages"]] == ["hello", text]


@pytest.mark.anyio
async def test_tool_call_without_text_has_no_audio(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(SERVER_VAD, tools=[WEATHER], tool_choice="required")
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        [call] = (await client.until("response.done"))["response"]["output"]
        assert json.loads(call["arguments"])["city"].startswith("heard ")
        assert not [kind for kind in client.types if "output_audio" in kind or "content_part" in kind]
        # Further speech does not retract the tool call, whose result can still be sent.
        await client.say(speech(0.5), silence(0.8))
        [other] = (await client.until("response.done"))["response"]["output"]
        assert "conversation.item.deleted" not in client.types
        for each in (other, call):
            await send_output(client, each["call_id"], "sunny in Rome")
        done = await answer(client, tool_choice="none")
        text = done["output"][0]["content"][0]["transcript"]
        assert text.count("sunny in Rome") == 2 and max(abs(client.audio())) > 0.2


@pytest.mark.anyio
async def test_text_before_a_tool_call_is_a_separate_item(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.update(tools=[WEATHER])
        await client.write('<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>')
        words, call = (await answer(client))["output"]
        assert words["content"][0]["transcript"].strip() == "You said:" and call["type"] == "function_call"
        places = {e["item"]["id"]: e["output_index"] for e in client.events if e["type"] == "response.output_item.done"}
        assert places == {words["id"]: 0, call["id"]: 1}
        assert len(client.audio()) > 0


@pytest.mark.anyio
async def test_tools_may_be_set_for_one_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.update(**TEXT)
        await client.write("one")
        [call] = (await answer(client, tools=[WEATHER], tool_choice="required"))["output"]
        assert call["name"] == "weather"
        await client.write("two")
        [words] = (await answer(client))["output"]
        assert words["content"][0]["text"] == "You said: two."


@pytest.mark.anyio
async def test_tool_calls_of_an_earlier_session_can_be_created_and_deleted(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.update(**TEXT)
        item = {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "call_1"}
        await client.send("conversation.item.create", item=item)
        assert (await client.until("conversation.item.done"))["item"]["name"] == "weather"
        given = (await send_output(client, "call_1", "sunny"))["item"]
        await client.send("conversation.item.retrieve", item_id=given["id"])
        assert (await client.until("conversation.item.retrieved"))["item"]["output"] == "sunny"
        [words] = (await answer(client))["output"]
        assert "sunny" in words["content"][0]["text"]
        await client.send("conversation.item.delete", item_id=given["id"])
        await client.until("conversation.item.deleted")
        [words] = (await answer(client))["output"]
        assert "sunny" not in words["content"][0]["text"]


@pytest.mark.anyio
async def test_invalid_tools_are_rejected_by_name(shared_server: RunningServer) -> None:
    many = [{**WEATHER, "name": f"weather_{number}", "description": "a" * 16_000} for number in range(4)]
    async with talking(shared_server) as client:
        for session, code, param in (
            ({"tools": [WEATHER, WEATHER]}, "invalid_value", "tools"),
            ({"tools": many}, "string_above_max_length", "tools"),
            ({"tools": [{"type": "mcp", "server_label": "x"}]}, "invalid_value", "session.tools.0.type"),
            ({"tools": [{**WEATHER, "name": "a b"}]}, "invalid_value", "session.tools.0.name"),
            ({"tool_choice": "often"}, "invalid_value", "session.tool_choice"),
        ):
            await client.send("session.update", session={"type": "realtime", **session})
            error = (await client.until("error"))["error"]
            assert (error["code"], error["param"]) == (code, param)
        for choice in ("required", {"type": "function", "name": "news"}):
            await client.send("response.create", response={"tool_choice": choice})
            error = (await client.until("error"))["error"]
            assert (error["code"], error["param"]) == ("invalid_value", "tool_choice")
        assert (await send_output(client, "call_x", "a"))["error"]["code"] == "call_not_found"
        # An unsupported schema is rejected only when the engine has to conform to it.
        strange = {**WEATHER, "parameters": {"type": "object", "patternProperties": {}}}
        await client.update(**TEXT, tools=[strange], tool_choice="required")
        done = await answer(client)
        assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "invalid_json_schema")
        # The rejected request leaves no trace.
        await client.update(**TEXT, tools=[WEATHER])
        [call] = (await answer(client, tool_choice="required"))["output"]
        await send_output(client, call["call_id"], "")
        assert (await send_output(client, call["call_id"], "again"))["error"]["code"] == "call_not_found"


@pytest.mark.anyio
async def test_tool_choice_may_come_before_its_tools(shared_server: RunningServer) -> None:
    for choice in ("required", {"type": "function", "name": "weather"}):
        async with talking(shared_server) as client:
            await client.update(**TEXT, tool_choice=choice)
            assert (await answer(client))["output"][0]["type"] == "message"
            session = (await client.update(tools=[{**WEATHER, "description": None, "strict": None}]))["session"]
            assert (session["tool_choice"], session["tools"][0]["description"]) == (choice, "")
            assert [item["type"] for item in (await answer(client))["output"]] == ["function_call"]


@pytest.mark.anyio
async def test_tools_of_chat_completions_and_without_parameters_are_accepted(shared_server: RunningServer) -> None:
    inner = {"name": "weather", "parameters": None, "description": None}
    async with talking(shared_server) as client:
        tool = {"type": "function", "function": inner}
        await client.update(**TEXT, tools=[tool], tool_choice={"type": "function", "function": {"name": "weather"}})
        [call] = (await answer(client))["output"]
        assert (call["name"], call["arguments"]) == ("weather", "{}")


def test_tool_call_is_in_the_prompt_only_with_its_result() -> None:
    weather, news = ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "news", "{}")
    exchanges = (
        Exchange(1, "Weather and news?", "Let me see."),
        Exchange(2, "", "It is sunny.", (ToolResult(weather, "sunny"),)),
    )
    messages = Question(ConversationState("c", "Be brief.", exchanges), "And?", "", (ToolResult(news, ""),)).messages()
    assert messages == [
        PromptMessage("system", "Be brief."),
        PromptMessage("user", "Weather and news?"),
        PromptMessage("assistant", "Let me see.", (weather,)),
        PromptMessage("tool", "sunny", call="call_1"),
        PromptMessage("assistant", "It is sunny.", (news,)),
        PromptMessage("tool", "", call="call_2"),
        PromptMessage("user", "And?"),
    ]
