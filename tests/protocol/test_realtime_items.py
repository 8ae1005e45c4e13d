"""Conversation items of `/v1/realtime`: what clients send as an item, and where it is inserted."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from chatapi.engines import PromptMessage, TokenChunk
from chatapi.interfaces.http.realtime.audio_format import encode_audio
from conftest import RunningServer
from realtime_client import Client, Event, silence, speech, talking

pytestmark = pytest.mark.anyio

TEXT = {"output_modalities": ["text"]}
Prompt = list[tuple[str, str]]


@pytest.fixture
def prompts(shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """Role and text of the messages of every prompt that the language model gets, without the system message."""
    found: list[Prompt] = []
    engine = shared_server.appliance.engines.llm.engine
    generate = engine.generate

    def recording(messages: Sequence[PromptMessage], *rest: Any, **more: Any) -> Iterator[TokenChunk]:
        found.append([(each.role, each.text) for each in messages if each.role != "system"])
        return generate(messages, *rest, **more)

    monkeypatch.setattr(engine, "generate", recording)
    return found


async def create(client: Client, item: Event, **fields: Any) -> Event:
    await client.send("conversation.item.create", item=item, **fields)
    return await client.until("conversation.item.done", "error")


def message(text: str, role: str = "user", **fields: Any) -> Event:
    return {"type": "message", "role": role, "content": text, **fields}


async def answer(client: Client) -> str:
    await client.send("response.create", response=TEXT)
    output = (await client.until("response.done"))["response"]["output"]
    text: str = output[0]["content"][0]["text"]
    return text


SOUND = encode_audio(speech(1.0), "audio/pcm")


@pytest.mark.parametrize(
    ("content", "heard"),
    [
        ("one two", "one two"),
        ([{"type": "input_text", "text": "one two"}], "one two"),
        ([{"type": "text", "text": "one two"}], "one two"),
        ([{"type": "input_audio", "transcript": "one two"}], "one two"),
        ([{"type": "input_audio", "transcript": "one two", "audio": SOUND}], "one two"),
        ([{"type": "input_audio", "audio": SOUND, "transcript": None}], "heard 1.0 seconds"),
        ([{"type": "audio", "audio": SOUND}], "heard 1.0 seconds"),
        ([{"type": "input_audio", "audio": encode_audio(silence(1.0), "audio/pcm")}], ""),
        ([{"type": "input_text", "text": "look:"}, {"type": "input_audio", "transcript": "one"}], "look:\none"),
        ([], ""),
        (None, ""),
    ],
)
async def test_content_of_every_kind_is_understood(shared_server: RunningServer, content: Any, heard: str) -> None:
    async with talking(shared_server) as client:
        created = await create(client, {"type": "message", "role": "user", "content": content})
        [part] = created["item"]["content"]
        got = part["transcript"] if part["type"] == "input_audio" else part["text"]
        assert got.split()[:1] == heard.split()[:1] and len(got.split()) == len(heard.split())
        assert await answer(client) == (f"You said: {got}." if got else "You said: .")


async def test_answers_are_created_from_text_and_transcripts(
    shared_server: RunningServer, prompts: list[Prompt]
) -> None:
    parts = [
        {"type": "output_audio", "transcript": "first"},
        {"type": "output_text", "text": "second"},
        {"type": "text", "text": "third"},
        {"type": "audio", "transcript": "fourth"},
    ]
    async with talking(shared_server) as client:
        for part in parts:
            await create(client, message("go on"))
            created = await create(client, {"type": "message", "role": "assistant", "content": [part]})
            assert created["item"]["content"][0]["type"].startswith("output_")
        await create(client, message("now"))
        await answer(client)
    texts = ("first", "second", "third", "fourth")
    assert prompts[-1] == [
        *(each for text in texts for each in (("user", "go on"), ("assistant", text))),
        ("user", "now"),
    ]


async def test_images_and_damaged_audio_are_rejected(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        image = [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]
        rejected = await create(client, {"type": "message", "role": "user", "content": image})
        assert rejected["error"]["param"] == "item.content.0.type" and "images" in rejected["error"]["message"]
        damaged = [{"type": "input_audio", "audio": "?"}]
        rejected = await create(client, {"type": "message", "role": "user", "content": damaged})
        assert rejected["error"]["code"] == "invalid_audio"


async def test_items_are_inserted_anywhere(shared_server: RunningServer, prompts: list[Prompt]) -> None:
    async with talking(shared_server) as client:
        first = await create(client, message("one"))
        assert await answer(client) == "You said: one."
        reply = client.events[-1]["response"]["output"][0]["id"]
        await create(client, message("three"))
        # Between an answer and the request after it, at the beginning, and between a request and its answer.
        inserted = await create(client, message("two"), previous_item_id=reply)
        assert inserted["previous_item_id"] == reply
        at_root = await create(client, message("zero"), previous_item_id="root")
        assert at_root["previous_item_id"] is None
        await create(client, message("and a half"), previous_item_id=first["item"]["id"])
        await answer(client)
        assert prompts[-1] == [
            ("user", "zero one and a half"), ("assistant", "You said: one."), ("user", "two three")
        ]  # fmt: skip
        # A greeting at the beginning, an answer within the requests of a turn, and one after another answer.
        await create(client, message("hello", "assistant"), previous_item_id="root")
        await create(client, message("a one", "assistant"), previous_item_id=first["item"]["id"])
        await create(client, message("Indeed.", "assistant"), previous_item_id=reply)
        await create(client, message("four"))
        await answer(client)
        assert prompts[-1] == [
            ("assistant", "hello"), ("user", "zero one"), ("assistant", "a one"), ("user", "and a half"),
            ("assistant", "You said: one. Indeed."), ("user", "two three"), ("assistant", "You said: two three."),
            ("user", "four"),
        ]  # fmt: skip
        conversation = client.events[-1]["response"]["conversation_id"]
        await client.send("conversation.item.delete", item_id=first["item"]["id"])
        await client.until("conversation.item.deleted")
    stored = shared_server.client.get(f"/conversations/{conversation}").json()["messages"]
    assert [each["text"] for each in stored if each["text"]] == [
        "hello", "zero", "a one", "and a half", "You said: one. Indeed.", "two three", "You said: two three.", "four",
        "You said: four.",
    ]  # fmt: skip


async def test_pending_items_keep_the_order_of_their_insertion(
    shared_server: RunningServer, prompts: list[Prompt]
) -> None:
    async with talking(shared_server) as client:
        await create(client, message("one", id="one"))
        await create(client, message("three", id="three"))
        await create(client, message("two"), previous_item_id="one")
        await create(client, message("so far", "assistant"), previous_item_id="one")
        await answer(client)
    assert prompts[-1] == [("user", "one"), ("assistant", "so far"), ("user", "two three")]


async def test_tool_calls_are_inserted_between_a_request_and_its_answer(
    shared_server: RunningServer, prompts: list[Prompt]
) -> None:
    async with talking(shared_server) as client:
        for each in (
            message("weather?", id="q"),
            {"type": "function_call", "id": "c", "call_id": "call", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "id": "o", "call_id": "call", "output": "rain"},
            message("It rains.", "assistant", id="a"),
            message("and news?", id="q2"),
            message("None.", "assistant", id="a2"),
        ):
            assert (await create(client, each))["type"] == "conversation.item.done"
        call = {"type": "function_call", "id": "c2", "call_id": "call_2", "name": "news", "arguments": "{}"}
        await create(client, call, previous_item_id="q2")
        output = {"type": "function_call_output", "id": "o2", "call_id": "call_2", "output": "no news"}
        assert (await create(client, output, previous_item_id="c2"))["previous_item_id"] == "c2"
        await create(client, message("thanks"))
        await answer(client)
    # The model has no tool calls of its own: they are text, and so are their results.
    kept = [next(word for word in ORDER if word in text) for _, text in prompts[-1]]
    assert kept == ORDER


ORDER = [
    "weather?", '"name": "weather"', "\nrain", "It rains.", "and news?", '"name": "news"', "\nno news", "None.",
    "thanks",
]  # fmt: skip


async def test_unknown_items_get_openais_codes(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        rejected = await create(client, message("lost"), previous_item_id="item_gone")
        assert rejected["error"]["code"] == "item_create_invalid_previous_item_id"
        gone = (await create(client, message("hello")))["item"]["id"]
        await client.send("conversation.item.delete", item_id=gone)
        await client.until("conversation.item.deleted")
        for action in ("delete", "retrieve"):
            await client.send(f"conversation.item.{action}", item_id=gone)
            error = (await client.until("error"))["error"]
            assert (error["code"], error["param"]) == (f"item_{action}_invalid_item_id", "item_id")


async def test_audio_of_odd_size_and_of_every_form_of_base64_is_heard(shared_server: RunningServer) -> None:
    raw = base64.b64decode(SOUND)
    async with talking(shared_server) as client:
        await client.detect(None)
        heard = []
        for size, write in (
            (len(raw), lambda part: base64.b64encode(part).decode()),
            (4801, lambda part: base64.encodebytes(part).decode()),
            (1323, lambda part: base64.urlsafe_b64encode(part).decode().rstrip("=")),
            (333, lambda part: "data:audio/pcm;base64," + base64.b64encode(part).decode()),
        ):
            for start in range(0, len(raw), size):
                await client.send("input_audio_buffer.append", audio=write(raw[start : start + size]))
            await client.send("input_audio_buffer.commit")
            done = await client.until("conversation.item.input_audio_transcription.completed", "error")
            heard.append(done.get("transcript"))
        assert [float(text.split()[1]) > 0.9 for text in heard] == [True] * 4
        # Half a sample does not reach into the next turn.
        await client.send("input_audio_buffer.append", audio=base64.b64encode(raw + b"\x01").decode())
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.input_audio_transcription.completed")
        await client.send("input_audio_buffer.append", audio=SOUND)
        await client.send("input_audio_buffer.commit")
        done = await client.until("conversation.item.input_audio_transcription.completed")
        assert float(done["transcript"].split()[1]) > 0.9
