"""`/v1/conversations`, responses that continue them, and counted tokens, with OpenAI's official client."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.conversations import Conversation, ConversationItemList, Message

from chatapi.audio import RATE, Audio, wav
from chatapi.services.turns import item_conversations
from chatapi.settings import Settings
from conftest import RunningServer, serving, tone
from openai_client import NO_SYSTEM, chat_server, client

__all__ = ["chat_server", "client"]
BOB: Any = {"type": "message", "role": "user", "content": "my name is Bob"}
HELLO: Any = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello Bob."}]}
CALL: Any = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Rome"}'}
RESULT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
REASONING: Any = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
WEATHER: Any = {
    "type": "function", "name": "weather", "strict": False, "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip
WORDS = 4
"""Words of `BOB`, which are the tokens of the fake language model."""


def ids(client: OpenAI, conversation: str, **options: Any) -> list[str]:
    return [item.id for item in client.conversations.items.list(conversation, order="asc", **options)]  # type: ignore[misc]


def raw_items(server: RunningServer, conversation: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    return found


def test_conversation_is_created_labelled_and_deleted(client: OpenAI) -> None:
    created = client.conversations.create(metadata={"user": "bob"}, items=[BOB])
    assert (created.object, created.metadata, created.id[:5]) == ("conversation", {"user": "bob"}, "conv_")
    labelled = client.conversations.update(created.id, metadata={"user": "ann"})
    assert labelled == created.model_copy(update={"metadata": {"user": "ann"}})
    assert client.conversations.retrieve(created.id) == labelled
    Conversation.model_validate_json(labelled.model_dump_json(), strict=True)
    assert len(ids(client, created.id)) == 1
    assert client.conversations.delete(created.id).deleted
    for gone in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            gone(created.id)
        assert caught.value.code == "conversation_not_found"


def test_items_are_kept_in_order_and_listed_by_page(chat_server: RunningServer, client: OpenAI) -> None:
    conversation = client.conversations.create().id
    added = client.conversations.items.create(conversation, items=[BOB, HELLO, CALL, RESULT, REASONING])
    ConversationItemList.model_validate_json(added.model_dump_json(by_alias=True, exclude_unset=True), strict=True)
    items = raw_items(chat_server, conversation)
    assert [item["id"] for item in items] == [item.id for item in added.data]
    assert [item["type"] for item in items] == [
        "message", "message", "function_call", "function_call_output", "reasoning",
    ]  # fmt: skip
    assert items[0]["content"] == [{"type": "input_text", "text": "my name is Bob"}]
    assert items[1]["content"] == [{"type": "output_text", "text": "Hello Bob.", "annotations": [], "logprobs": []}]
    assert (items[2]["arguments"], items[3]["output"]) == ('{"city": "Rome"}', "sunny")
    assert items[4] == {**REASONING}
    every = ids(client, conversation)
    assert ids(client, conversation, limit=2) == every, "all pages"
    page = client.conversations.items.list(conversation, limit=2)
    assert [item.id for item in page.data] == every[:2:-1] and page.has_more
    assert client.conversations.items.list(conversation, after=every[-1], order="asc").data == []


def test_item_is_retrieved_and_deleted(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[BOB, HELLO]).id
    first, second = ids(client, conversation)
    found = client.conversations.items.retrieve(second, conversation_id=conversation)
    assert isinstance(found, Message) and found.content[0].text == "Hello Bob."  # type: ignore[union-attr]
    assert client.conversations.items.delete(first, conversation_id=conversation).id == conversation
    assert ids(client, conversation) == [second]
    client.conversations.items.delete(second, conversation_id=conversation)
    assert ids(client, conversation) == []
    with pytest.raises(openai.NotFoundError) as caught:
        client.conversations.items.retrieve(first, conversation_id=conversation)
    assert caught.value.code == "item_not_found"


def test_ids_of_clients_are_kept_unless_they_are_taken(client: OpenAI) -> None:
    named = {**BOB, "id": "msg_mine"}
    conversation = client.conversations.create(items=[named, named]).id
    client.conversations.items.create(conversation, items=[named, {**BOB, "id": "no id/../"}])
    found = ids(client, conversation)
    assert found[0] == "msg_mine" and len(set(found)) == 4
    assert all(each.startswith("msg_") and len(each) == 36 for each in found[1:])


def test_response_continues_a_conversation_and_is_added_to_it(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[BOB, HELLO])
    answer = client.responses.create(model="gpt-5", input="who am I", conversation=conversation.id)
    assert answer.usage is not None and answer.usage.input_tokens == WORDS + 2 + 3
    assert answer.conversation is not None and answer.conversation.id == conversation.id
    with client.responses.stream(model="gpt-5", input="again", conversation={"id": conversation.id}) as stream:
        streamed = stream.get_final_response()
    assert streamed.usage is not None and streamed.usage.input_tokens == answer.usage.total_tokens + 1
    found = ids(client, conversation.id)
    assert len(found) == 6 and [found[3], found[5]] == [answer.output[0].id, streamed.output[0].id]


def test_tool_call_of_a_conversation_is_answered_there(client: OpenAI) -> None:
    conversation = client.conversations.create().id
    options: Any = {"model": "gpt-5", "conversation": conversation, "tools": [WEATHER]}
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    asked = client.responses.create(input=text, **options)
    [call] = [item for item in asked.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    answered = client.responses.create(input=[result], **options)
    assert answered.output_text
    kinds = [item.type for item in client.conversations.items.list(conversation, order="asc")]
    assert kinds == ["message", "message", "function_call", "function_call_output", "message"]


def test_audio_of_a_response_is_kept_as_its_transcript(chat_server: RunningServer, client: OpenAI) -> None:
    conversation = client.conversations.create().id
    recording = base64.b64encode(wav(Audio(tone(1), RATE))).decode()
    part: Any = {"type": "input_audio", "input_audio": {"data": recording, "format": "wav"}}
    client.responses.create(model="gpt-5", input=[{"role": "user", "content": [part]}], conversation=conversation)
    assert raw_items(chat_server, conversation)[0]["content"][0]["type"] == "input_text"
    assert recording not in str(raw_items(chat_server, conversation))
    with pytest.raises(openai.BadRequestError) as caught:
        client.conversations.items.create(conversation, items=[{"role": "user", "content": [part]}])
    assert caught.value.param == "items[0].content[0].type"


def test_response_that_is_not_stored_is_still_added_to_its_conversation(client: OpenAI) -> None:
    conversation = client.conversations.create().id
    answer = client.responses.create(model="gpt-5", input="hello", conversation=conversation, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    assert len(ids(client, conversation)) == 2


def test_items_of_the_conversation_are_sent_once(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[BOB]).id
    [first] = ids(client, conversation)
    request: Any = [{"type": "item_reference", "id": first}, {"role": "user", "content": "more"}]
    answer = client.responses.create(model="gpt-5", input=request, conversation=conversation)
    assert answer.usage is not None and answer.usage.input_tokens == WORDS + 1


def test_conversation_with_a_response_is_busy(slow_server: RunningServer) -> None:
    with OpenAI(base_url=f"{slow_server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        conversation = client.conversations.create(items=[BOB]).id
        text = " ".join(["word"] * 40)
        with client.responses.create(model="gpt-5", input=text, conversation=conversation, stream=True) as stream:
            events = iter(stream)
            assert next(events).type == "response.created"
            with pytest.raises(openai.InternalServerError) as caught:
                client.responses.create(model="gpt-5", input="hello", conversation=conversation)
            assert caught.value.code == "conversation_busy"
            added = threading.Thread(
                target=client.conversations.items.create, args=(conversation,), kwargs={"items": [CALL]}
            )
            added.start()
            assert [event.type for event in events][-1] == "response.completed"
        added.join(60)
        kinds = [item.type for item in client.conversations.items.list(conversation, order="asc")]
        assert kinds == ["message", "message", "message", "function_call"], "after the items of the response"


def test_failed_response_adds_nothing(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as server:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            conversation = client.conversations.create(items=[BOB]).id
            with pytest.raises(openai.InternalServerError):
                client.responses.create(model="gpt-5", input="hello", conversation=conversation)
            assert len(ids(client, conversation)) == 1


def test_conversation_survives_a_restart(fake_settings: Callable[..., Settings]) -> None:
    settings = fake_settings()
    with serving(settings) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        conversation = client.conversations.create(items=[BOB], metadata={"a": "b"})
        client.responses.create(model="gpt-5", input="hello", conversation=conversation.id)
        before = ids(client, conversation.id)
    with serving(settings) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        assert client.conversations.retrieve(conversation.id) == conversation
        assert ids(client, conversation.id) == before and len(before) == 3


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "unsupported_value", "items[0].type"),
        ({"items": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
         "unsupported_content", "items[0].content[0]"),
        ({"items": [{"type": "computer_call", "id": "x"}]}, "invalid_value", "items[0]"),
        ({"items": "hello"}, "invalid_value", "items"),
        ({"metadata": {"a": 1}}, "invalid_value", "metadata"),
        ({"metadata": {"a": "b" * 513}}, "invalid_value", "metadata"),
        ({"messages": []}, "unsupported_parameter", "messages"),
        ({"item": [BOB]}, "unknown_parameter", "item"),
    ],
)  # fmt: skip
def test_invalid_conversation_is_rejected(chat_server: RunningServer, body: Any, code: str, param: str) -> None:
    reply = chat_server.client.post("/v1/conversations", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, code), error
    assert error["param"].startswith(param)


def test_unknown_and_contradicting_conversations_are_rejected(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-5", input="a", conversation="conv_0")
    assert (missing.value.code, missing.value.param) == ("conversation_not_found", "conversation")
    conversation = client.conversations.create().id
    answer = client.responses.create(model="gpt-5", input="a", conversation=conversation)
    with pytest.raises(openai.BadRequestError) as both:
        client.responses.create(model="gpt-5", input="a", conversation=conversation, previous_response_id=answer.id)
    assert both.value.param == "conversation"
    with pytest.raises(openai.BadRequestError) as within:
        client.responses.create(model="gpt-5", input="a", previous_response_id=answer.id)
    assert within.value.param == "previous_response_id" and conversation in within.value.message


def test_conversation_of_responses_is_none_of_another_route(chat_server: RunningServer, client: OpenAI) -> None:
    conversation = client.conversations.create(items=[BOB]).id
    reply = chat_server.client.post("/completion", json={"prompt": "more", "conversation": conversation})
    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_conversation")
    assert chat_server.client.delete(f"/conversations/{conversation}").status_code == 404
    other = chat_server.client.post("/completion", json={"prompt": "hello"}).json()["conversation"]
    assert chat_server.client.get(f"/v1/conversations/{other}").status_code == 404


def test_full_conversation_takes_no_more(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_conversations, "MOST_ITEMS", 3)
    conversation = client.conversations.create(items=[BOB, HELLO]).id
    for create in (
        lambda: client.conversations.items.create(conversation, items=[BOB, HELLO]),
        lambda: client.conversations.create(items=[BOB] * 4),
        lambda: client.responses.create(model="gpt-5", input=[BOB, BOB], conversation=conversation),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create()
        assert caught.value.code == "conversation_full"
    assert len(ids(client, conversation)) == 2


def test_counted_tokens_are_those_of_the_response(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[BOB, HELLO]).id
    request: Any = {"model": "gpt-5", "instructions": "Be brief.", "tools": [WEATHER], "conversation": conversation}
    counted = client.responses.input_tokens.count(input="who am I", **request)
    assert counted.object == "response.input_tokens" and len(ids(client, conversation)) == 2, "nothing is added"
    answer = client.responses.create(input="who am I", **request)
    assert answer.usage is not None and counted.input_tokens == answer.usage.input_tokens > WORDS + 2 + 3


def test_tokens_beyond_the_context_are_counted(fake_settings: Callable[..., Settings]) -> None:
    settings = fake_settings("llama_cpp.context=256", *NO_SYSTEM)
    with serving(settings) as server, OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        text = " ".join(["word"] * 700)
        assert client.responses.input_tokens.count(model="gpt-5", input=text).input_tokens == 700
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="gpt-5", input=text)


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/v1/responses/compact", "compresses no context"),
        ("POST", "/responses/compact/", "compresses no context"),
        ("POST", "/v1/responses/resp_1/cancel", "in the background"),
        ("POST", "/v1/embeddings", "no embedding model"),
        ("POST", "/v1/images/generations", "images"),
        ("POST", "/v1/videos", "videos"),
        ("POST", "/v1/moderations", "no moderation model"),
        ("GET", "/v1/files", "stores no files"),
        ("POST", "/v1/batches", "stores no files and batches"),
        ("GET", "/v1/chat/completions/chatcmpl-1", "stores no chat completions"),
        ("POST", "/v1/assistants", "/v1/responses"),
        ("GET", "/v1/fine_tuning/jobs", "trains"),
        ("POST", "/v1/audio/voice_consents", "clones no voices"),
        ("POST", "/v1/realtime/calls/rtc_1/accept", "SIP"),
    ],
)
def test_route_of_openai_that_is_missing_says_why(
    chat_server: RunningServer, method: str, path: str, reason: str
) -> None:
    reply = chat_server.client.request(method, path, json={} if method == "POST" else None)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_supported")
    assert reason in reply.json()["error"]["message"]


def test_list_of_stored_chat_completions_says_why_and_what_it_supports(chat_server: RunningServer) -> None:
    reply = chat_server.client.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert "stores no chat completions" in reply.json()["error"]["message"]
