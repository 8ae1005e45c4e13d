"""The items of stored responses with OpenAI's official Python client, over a real server with fake engines."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses.response_item_list import ResponseItemList

from conftest import RunningServer
from openai_client import chat_server, client

__all__ = ["chat_server", "client"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA}]


@pytest.fixture
def last(client: OpenAI) -> Any:
    """The last of two responses: a question with a call, and the call's result."""
    first = client.responses.create(model="default", input="one", tools=TOOLS, tool_choice="required")
    result = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "sunny"}  # type: ignore[union-attr]
    asked: Any = [result, {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]}]
    return client.responses.create(model="default", input=asked, previous_response_id=first.id)


def test_input_items_are_those_of_the_chain(client: OpenAI, last: Any) -> None:
    items: list[Any] = list(client.responses.input_items.list(last.id, order="asc"))
    assert [item.type for item in items] == ["message", "function_call", "function_call_output", "message"]
    assert items[0].content[0].text == "one" and items[0].role == "user"
    assert items[1].call_id == items[2].call_id and items[2].output == "sunny"
    assert items[3].content[0].text == "and now?"
    newest: list[Any] = list(client.responses.input_items.list(last.id))
    assert [item.id for item in newest] == [item.id for item in items][::-1]


def test_input_items_come_in_pages(chat_server: RunningServer, client: OpenAI, last: Any) -> None:
    whole: list[Any] = list(client.responses.input_items.list(last.id))
    paged: list[Any] = list(client.responses.input_items.list(last.id, limit=3))
    assert [item.id for item in paged] == [item.id for item in whole]
    path = f"/v1/responses/{last.id}/input_items"
    page = chat_server.client.get(path, params={"limit": 3})
    read = ResponseItemList.model_validate_json(page.text, strict=True)
    assert (read.has_more, read.first_id, read.last_id) == (True, whole[0].id, whole[2].id)
    for params, param in (({"limit": 0}, "limit"), ({"after": "msg_0"}, "after"), ({"order": "up"}, "order")):
        refused = chat_server.client.get(path, params=params)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_input_items_of_a_missing_response(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list("resp_0000")


def test_items_of_stored_responses_can_be_referred_to(client: OpenAI) -> None:
    first = client.responses.create(model="default", input="one")
    called = client.responses.create(model="default", input="two", tools=TOOLS, tool_choice="required")
    [asked] = client.responses.input_items.list(called.id).data
    message, call = first.output[0], called.output[0]
    assert message.type == "message" and call.type == "function_call"
    items: Any = [
        {"role": "user", "content": "one"},
        {"type": "item_reference", "id": message.id},
        {"type": "item_reference", "id": asked.id},
        {"id": call.id},
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    after = client.responses.create(model="default", input=items, tools=TOOLS)
    assert after.output_text == "You said: <tool_response>\nsunny\n</tool_response>."
    again: list[Any] = list(client.responses.input_items.list(after.id, order="asc"))
    assert [item.type for item in again] == ["message"] * 3 + ["function_call", "function_call_output"]
    output = client.responses.create(
        model="default", input=[items[0], items[3], {"type": "item_reference", "id": again[-1].id}], tools=TOOLS
    )
    assert output.output_text == after.output_text
    for wrong in ("msg_0000_0", "msg", message.id + "0", "conv_1"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="default", input=[{"type": "item_reference", "id": wrong}])
        assert (caught.value.code, caught.value.param) == ("item_not_found", "input[0].id")
