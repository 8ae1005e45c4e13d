"""`/v1/realtime` with OpenAI's own client, unmodified, and engines that need no model."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
import websockets
from conftest import Served, serving, tone, until
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect

from chatapi.audio import Audio, Samples
from chatapi.faces.web.realtime.sound import Incoming, Outgoing, received, sent
from chatapi.settings import Settings

pytestmark = pytest.mark.anyio
RATE = 24_000
SERVER_VAD = {"type": "server_vad", "silence_duration_ms": 200}
Event = dict[str, Any]


class Client:
    """The official client's connection, and all it was told."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.told: list[Event] = []

    async def until(self, *kinds: str) -> Event:
        """The next event of one of these types."""
        with anyio.fail_after(10):
            while True:
                event = (await self.connection.recv()).model_dump()
                self.told.append(event)
                if event["type"] in kinds:
                    return event

    async def rest(self, seconds: float = 0.3) -> list[str]:
        """Types of what still comes."""
        with anyio.move_on_after(seconds):
            await self.until("nothing")
        return self.types

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send({"type": kind, **fields})

    async def update(self, **fields: Any) -> Event:
        await self.send("session.update", session={"type": "realtime", **fields})
        return await self.until("session.updated")

    async def detect(self, detection: Event | None, **fields: Any) -> Event:
        return await self.update(audio={"input": {"turn_detection": detection}}, **fields)

    async def say(self, *sounds: Samples) -> None:
        for chunk in np.array_split(np.concatenate(sounds), 10):
            await self.send("input_audio_buffer.append", audio=sent(chunk, "audio/pcm"))

    async def write(self, text: str, role: str = "user") -> Event:
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": role, "content": content})
        return await self.until("conversation.item.done", "error")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.told]

    def audio(self) -> Samples:
        deltas = [event["delta"] for event in self.told if event["type"] == "response.output_audio.delta"]
        return np.concatenate([received(delta, "audio/pcm") for delta in deltas])


def speech(seconds: float) -> Samples:
    return tone(seconds, rate=RATE)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


@asynccontextmanager
async def talking(served: Served, key: str = "none", model: str = "default") -> AsyncIterator[Client]:
    async with AsyncOpenAI(api_key=key, base_url=f"{served.url}/v1") as openai:
        async with openai.realtime.connect(model=model) as connection:
            client = Client(connection)
            await client.until("session.created", "error")
            yield client


@asynccontextmanager
async def raw(served: Served, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{served.port}/v1/realtime{query}", max_size=None, **options) as plain:
        yield plain


async def heard(plain: ClientConnection, *kinds: str) -> Event:
    with anyio.fail_after(10):
        while True:
            event: Event = json.loads(await plain.recv())
            if event["type"] in kinds:
                return event


async def test_a_session_says_what_it_is(served: Served) -> None:
    async with talking(served) as client:
        session = client.told[0]["session"]
        assert (session["type"], session["model"], session["output_modalities"]) == ("realtime", "default", ["audio"])
        assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": RATE}
        assert session["instructions"] == served.appliance.settings.llm.system
        assert session["id"].startswith("sess_")


async def test_a_written_question_is_answered_in_text(served: Served) -> None:
    async with talking(served) as client:
        await client.update(output_modalities=["text"])
        assert (await client.write("hello"))["item"]["content"][0]["text"] == "hello"
        await client.send("response.create")
        done = (await client.until("response.done"))["response"]
        assert (done["status"], done["output"][0]["content"][0]["text"]) == ("completed", "You said: hello.")
        assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"] > 0
        told = "".join(event["delta"] for event in client.told if event["type"] == "response.output_text.delta")
        assert told == "You said: hello."
        order = [kind for kind in client.types if "delta" not in kind][-9:]
        assert order == [
            "response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added",
            "response.output_text.done", "response.content_part.done", "response.output_item.done",
            "conversation.item.done", "response.done",
        ]  # fmt: skip
        assert len({event["event_id"] for event in client.told}) == len(client.told)


async def test_a_spoken_question_is_answered_aloud(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(SERVER_VAD)
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        done = (await client.until("response.done"))["response"]
        started = next(e for e in client.told if e["type"] == "input_audio_buffer.speech_started")
        stopped = next(e for e in client.told if e["type"] == "input_audio_buffer.speech_stopped")
        assert 200 <= started["audio_start_ms"] <= 450 and 1200 <= stopped["audio_end_ms"] <= 1500
        completed = next(e for e in client.told if e["type"].endswith("transcription.completed"))
        assert completed["transcript"].startswith("heard ") and completed["item_id"] == started["item_id"]
        assert done["output"][0]["content"][0]["transcript"] == f"You said: {completed['transcript']}."
        assert len(client.audio()) / RATE == pytest.approx(0.06 * 5, abs=0.01)
        assert max(abs(client.audio())) > 0.2
        kinds = client.types
        assert kinds.index("input_audio_buffer.committed") < kinds.index("response.created")


async def test_who_ends_turns_by_hand_is_answered_when_asking(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(None)
        for _ in range(2):
            await client.say(speech(0.6), silence(0.8))
            await client.send("input_audio_buffer.commit")
            await client.until("conversation.item.input_audio_transcription.completed")
            assert not [kind for kind in client.types if kind.endswith(("speech_started", "speech_stopped"))]
            await client.send("response.create")
            # Sound that goes on does not take back what was asked for.
            await client.say(silence(0.3))
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared")
        await client.send("input_audio_buffer.commit", event_id="mine")
        error = (await client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")


async def test_a_silent_commit_is_an_item_without_words(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(None)
        await client.say(silence(0.5))
        await client.send("input_audio_buffer.commit")
        done = await client.until("conversation.item.input_audio_transcription.completed")
        assert done["transcript"] == ""


@pytest.fixture
def slow(echo_settings: Callable[..., Settings]) -> Any:
    """A box that takes 50 ms for every word it writes."""
    with serving(echo_settings("echo.delay=0.05")) as running:
        yield running


async def test_a_response_is_cancelled(slow: Served) -> None:
    async with talking(slow) as client:
        await client.update(output_modalities=["text"])
        await client.write("one two three four five six seven eight nine ten")
        await client.send("response.create", response={"metadata": {"mine": "yes"}})
        await client.until("response.output_text.delta")
        await client.send("response.create")
        assert (await client.until("error"))["error"]["code"] == "conversation_already_has_active_response"
        await client.send("response.cancel")
        done = (await client.until("response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert done["metadata"] == {"mine": "yes"} and done["output"][0]["status"] == "incomplete"
        await client.send("response.cancel")
        assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"
        await client.write("again")
        await client.send("response.create", response={"max_output_tokens": 2})
        done = (await client.until("response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


async def test_speech_against_an_answer_cancels_it(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(SERVER_VAD)
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        item = (await client.until("response.done"))["response"]["output"][0]
        await client.say(silence(0.5), speech(0.4), silence(0.2))
        await client.until("input_audio_buffer.speech_started")
        await client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=600)
        await client.until("conversation.item.truncated")
        await client.say(silence(0.6))
        conversation = (await client.until("response.done"))["response"]["conversation_id"]
    messages = served.client.get(f"/conversations/{conversation}").json()["messages"]
    assert messages[1]["text"].startswith("You said: one two three")
    assert messages[1]["text"].endswith(" —") and len(messages[1]["text"].split()) < 13


async def test_speech_before_an_answer_sounds_cancels_it_as_well(slow: Served) -> None:
    async with talking(slow) as client:
        await client.detect(SERVER_VAD)
        await client.write("one two three four five six seven eight nine ten")
        await client.send("response.create")
        await client.until("response.output_audio_transcript.delta")
        await client.say(speech(0.5))
        await client.until("input_audio_buffer.speech_started")
        response = (await client.until("response.done"))["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "turn_detected")
        assert "response.output_audio.delta" not in client.types


async def test_a_turn_that_was_ended_too_soon_becomes_one_with_what_follows(slow: Served) -> None:
    async with talking(slow) as client:
        await client.detect(SERVER_VAD)
        await client.say(speech(0.5), silence(0.4))
        first = (await client.until("input_audio_buffer.committed"))["item_id"]
        answer = (await client.until("response.output_item.added"))["item"]["id"]
        await client.say(speech(0.5), silence(0.5))
        second = (await client.until("input_audio_buffer.committed"))["item_id"]
        deleted = [event["item_id"] for event in client.told if event["type"] == "conversation.item.deleted"]
        assert sorted(deleted) == sorted([first, answer]) and second not in deleted
        heard = await client.until("conversation.item.input_audio_transcription.completed")
        assert float(heard["transcript"].split()[1]) > 1.3
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        statuses = [event["response"]["status"] for event in client.told if event["type"] == "response.done"]
        assert statuses == ["cancelled", "completed"]


async def test_whatever_clients_do_nothing_is_left_behind(echo_settings: Callable[..., Settings]) -> None:
    chance, told = random.Random(5), {"error": 0}
    acts: Sequence[Event] = [
        *[
            {"type": "input_audio_buffer.append", "audio": sent(sound, "audio/pcm")}
            for sound in (speech(0.3), silence(0.5))
        ]
        * 2,
        {"type": "input_audio_buffer.commit"},
        {"type": "response.create"},
        {"type": "response.cancel"},
        {"type": "output_audio_buffer.clear"},
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
    ]

    async def act(served: Served) -> None:
        async with raw(served) as plain:
            for _ in range(chance.randrange(12)):
                await plain.send(json.dumps(chance.choice(acts)))
                with anyio.move_on_after(chance.random() * 0.05):
                    told["error"] += (await heard(plain, "error"))["type"] == "error"
            if chance.random() < 0.7:
                plain.transport.abort()

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    with serving(echo_settings("live.sessions=8", "echo.delay=0.01")) as served:
        before = served.run(tasks)
        for _ in range(4):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(act, served)
            await until(lambda: served.appliance.live.sessions == 0)
        await until(lambda: all(worker.gate.used == 0 for worker in served.appliance.engines.all()))
        await until(lambda: served.run(tasks) == before)
    assert told["error"]


async def test_a_client_that_pauses_is_told_only_of_what_matters(served: Served) -> None:
    async with talking(served) as client:
        updated = await client.detect(SERVER_VAD, chatapi={"pausing": True})
        assert updated["session"]["chatapi"] == {"pausing": True}
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        ledger = (await client.until("chatapi.ledger"))["ledger"]
        assert ledger["first_audio"] <= ledger["end"]
        await client.send("chatapi.played", audio_end_ms=500)
        await client.say(silence(0.3), speech(0.3))
        await client.until("chatapi.output_audio.paused")
        assert "input_audio_buffer.speech_started" not in client.types
        # What is heard is no backchannel, so that the answer is given up.
        await client.say(speech(0.8), silence(0.6))
        await client.until("input_audio_buffer.speech_started")
        await client.until("response.done")
    assert "error" not in client.types


async def test_an_answer_goes_on_after_a_noise(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(SERVER_VAD, chatapi={"pausing": True})
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        await client.until("chatapi.ledger")
        await client.say(silence(0.3), speech(0.25))
        await client.until("chatapi.output_audio.paused")
        await client.send("input_audio_buffer.clear")
        await client.until("chatapi.output_audio.resumed")


async def test_what_plays_is_silenced(served: Served) -> None:
    async with talking(served) as client:
        await client.write("one two three")
        await client.send("response.create")
        response = (await client.until("response.done"))["response"]
        await client.send("output_audio_buffer.clear")
        assert (await client.until("output_audio_buffer.cleared"))["response_id"] == response["id"]


async def test_items_are_kept_given_back_and_forgotten(served: Served) -> None:
    async with talking(served) as client:
        await client.update(output_modalities=["text"])
        await client.write("Be brief.", "system")
        asked = (await client.write("one"))["item"]
        first = await client.write("the answer to one", "assistant")
        again = await client.write("two")
        assert again["previous_item_id"] == first["item"]["id"]
        await client.send("conversation.item.retrieve", item_id=asked["id"])
        assert (await client.until("conversation.item.retrieved"))["item"]["content"][0]["text"] == "one"
        await client.send("response.create")
        conversation = (await client.until("response.done"))["response"]["conversation_id"]
        path = f"/conversations/{conversation}"
        texts = [m["text"] for m in served.client.get(path).json()["messages"]]
        assert texts == ["one", "the answer to one", "two", "You said: two."]
        for item in (asked, first["item"]):
            await client.send("conversation.item.delete", item_id=item["id"])
            await client.until("conversation.item.deleted")
        assert [m["text"] for m in served.client.get(path).json()["messages"]] == ["two", "You said: two."]
        pending = (await client.write("never mind"))["item"]
        await client.send("conversation.item.delete", item_id=pending["id"])
        await client.until("conversation.item.deleted")
        await client.send("conversation.item.retrieve", item_id=pending["id"], event_id="e1")
        error = (await client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("item_not_found", "e1")
        await client.write("three")
        await client.send("response.create")
        text = (await client.until("response.done"))["response"]["output"][0]["content"][0]["text"]
        assert text == "You said: three."


async def test_two_talk_at_once_and_a_third_is_refused(served: Served) -> None:
    async with talking(served) as one, talking(served) as two:
        async with talking(served) as third:
            assert third.told[0]["error"]["code"] == "too_many_sessions"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await third.until("nothing")
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
        for client in (one, two):
            await client.write("hello")
        for client in (one, two):
            await client.send("response.create")
        for client in (one, two):
            assert (await client.until("response.done"))["response"]["status"] == "completed"
    await until(lambda: served.appliance.live.sessions == 0)


async def test_only_who_has_the_key_gets_in(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings("server.api_key=secret")) as served:
        async with talking(served, key="secret") as client:
            assert client.types == ["session.created"]
        for protocols in (["realtime", "openai-insecure-api-key.secret"],):
            async with raw(served, subprotocols=protocols) as plain:
                assert plain.subprotocol == "realtime"
                await heard(plain, "session.created")
        async with raw(served, additional_headers={"X-Api-Key": "secret"}) as plain:
            await heard(plain, "session.created")
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with raw(served, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body or b"")["code"] == "unauthorized"


@pytest.mark.parametrize(("host", "origin"), [("127.0.0.1", "http://evil.example"), ("evil.example", None)])
async def test_foreign_pages_stay_outside(served: Served, host: str, origin: Any) -> None:
    uri = f"ws://{host}:{served.port}/v1/realtime"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(uri, host="127.0.0.1", port=served.port, origin=origin):
            pass
    assert refused.value.response.status_code == 403


async def test_an_unknown_model_is_refused_and_openais_names_are_taken(served: Served) -> None:
    async with talking(served, model="gpt-realtime-2.1") as client:
        assert client.told[0]["session"]["model"] == "gpt-realtime-2.1"
    async with talking(served, model="llama-9000") as client:
        assert client.told[0]["error"]["code"] == "model_not_found"


async def test_a_session_waits_for_the_models(
    echo_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(echo_settings(), load=False) as served:
        async with raw(served) as plain:
            served.portal.start_task_soon(served.appliance.load)
            await heard(plain, "session.created")
    monkeypatch.setattr("chatapi.faces.web.realtime.READY_SECONDS", 0.1)
    with serving(echo_settings(), load=False) as served:
        async with raw(served) as plain:
            assert (await heard(plain, "error"))["error"]["code"] == "not_ready"


GARBAGE: Sequence[tuple[str | bytes, str]] = (
    ("", "invalid_json"),
    ('{"type": "response.cre', "invalid_json"),
    ("[]", "invalid_json"),
    ("[" * 100_000, "invalid_json"),
    ('{"type": "\\ud800"}', "invalid_json"),
    ('{"type": NaN}', "invalid_json"),
    (b"\x00\x01\x02", "binary_frame"),
    ("{}", "invalid_value"),
    ('{"type": 7, "event_id": []}', "invalid_value"),
    ('{"type": "response.dance"}', "invalid_value"),
    ('{"type": "response.create", "and": 1}', "unknown_parameter"),
    ('{"type": "input_audio_buffer.append"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_audio"),
    ('{"type": "input_audio_buffer.append", "audio": "ö"}', "invalid_audio"),
    ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_audio"),
    ('{"type": "session.update", "session": {"tools": [{"type": "function"}]}}', "invalid_value"),
    ('{"type": "session.update", "session": {"audio": {"input": {"color": 1}}}}', "unknown_parameter"),
    ('{"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}}', "unknown_voice"),
    ('{"type": "session.update", "session": {"audio": {"output": {"speed": 2}}}}', "invalid_value"),
    ('{"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": "tlh"}}}}}',
     "unknown_language"),
    ('{"type": "session.update", "session": {"type": "transcription"}}', "invalid_value"),
    ('{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1}', "item_not_found"),
    ('{"type": "conversation.item.create", "item": {"type": "function_call"}}', "invalid_value"),
)  # fmt: skip


async def test_garbage_is_answered_and_the_session_goes_on(served: Served) -> None:
    async with raw(served) as plain:
        for text, code in GARBAGE:
            await plain.send(text)
            assert (await heard(plain, "error"))["error"]["code"] == code, text[:80]
        document = {"type": "session.update", "session": {"tools": [1]}, "event_id": "here"}
        await plain.send(json.dumps(document))
        error = (await heard(plain, "error"))["error"]
        assert (error["event_id"], error["param"], error["type"]) == ("here", "session.tools", "invalid_request_error")
        await plain.send(json.dumps({"type": "response.create"}))
        assert (await heard(plain, "response.done"))["response"]["status"] == "completed"


async def test_a_conversation_goes_on_in_another_session(served: Served) -> None:
    async with raw(served) as plain:
        await plain.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
        conversation = (await heard(plain, "response.done"))["response"]["conversation_id"]
    async with raw(served, f"?conversation={conversation}") as plain:
        await plain.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
        assert (await heard(plain, "response.done"))["response"]["conversation_id"] == conversation
    async with raw(served, "?conversation=none") as plain:
        assert (await heard(plain, "error"))["error"]["code"] == "unknown_conversation"


async def test_a_model_that_fails_is_a_failed_response(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings("echo.fault=raise")) as served:
        async with talking(served) as client:
            await client.write("hello there")
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            assert (response["status"], response["status_details"]["error"]["type"]) == ("failed", "server_error")
            # The excuse is heard, and read.
            assert len(client.audio()) and "sorry" in response["output"][0]["content"][0]["transcript"]


async def test_a_server_that_stops_ends_its_sessions(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings()) as served:
        plain = await connect(f"ws://127.0.0.1:{served.port}/v1/realtime")
        await heard(plain, "session.created")
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await plain.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    await plain.wait_closed()


async def test_a_huge_message_ends_its_own_connection_only(served: Served) -> None:
    async with talking(served) as other:
        async with raw(served) as plain:
            await heard(plain, "session.created")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await plain.send("x" * (17 << 20))
                await heard(plain, "nothing")
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
        await until(lambda: served.appliance.live.sessions == 1)
        await other.write("still here")


async def test_more_sound_than_a_turn_may_have_is_refused(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings("limits.audio_seconds=1")) as served:
        async with talking(served) as client:
            await client.detect(None)
            await client.say(silence(0.9))
            await client.say(silence(0.9))
            assert (await client.until("error"))["error"]["code"] == "input_audio_buffer_full"
            await client.send("input_audio_buffer.commit")
            await client.until("input_audio_buffer.committed")


async def test_a_silent_client_is_let_go_but_not_by_what_guards_requests(
    echo_settings: Callable[..., Settings],
) -> None:
    with serving(echo_settings("live.idle_seconds=1.5", "server.body_seconds=0.2")) as served:
        async with raw(served) as plain:
            await heard(plain, "session.created")
            await anyio.sleep(0.8)
            await plain.send(json.dumps({"type": "input_audio_buffer.clear"}))
            await heard(plain, "input_audio_buffer.cleared")
            assert (await heard(plain, "error"))["error"]["code"] == "session_idle"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await plain.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
        await until(lambda: served.appliance.live.sessions == 0)


@pytest.mark.parametrize("moment", ["created", "speaking", "answered"])
async def test_a_client_that_disappears_leaves_nothing(slow: Served, moment: str) -> None:
    async with raw(slow) as plain:
        await heard(plain, "session.created")
        if moment == "speaking":
            audio = sent(speech(1.0), "audio/pcm")
            await plain.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await heard(plain, "input_audio_buffer.speech_started")
        elif moment == "answered":
            await plain.send(json.dumps({"type": "response.create"}))
            await heard(plain, "response.output_audio_transcript.delta")
        assert slow.appliance.live.sessions == 1
        plain.transport.abort()
        await until(lambda: slow.appliance.live.sessions == 0)
    await until(lambda: all(worker.gate.used == 0 for worker in slow.appliance.engines.all()))


async def test_a_client_that_stops_reading_is_dropped(echo_settings: Callable[..., Settings]) -> None:
    many = "one two three four five six seven eight nine ten " * 300
    with serving(echo_settings("server.send_seconds=0.5", "llm.max_tokens=9000", "llama_cpp.context=20000")) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await anyio.to_thread.run_sync(_ask_and_never_read, plain, many)
            await until(lambda: served.appliance.live.sessions == 1)
            await until(lambda: served.appliance.live.sessions == 0, 20)


def _ask_and_never_read(plain: socket.socket, text: str) -> None:
    lines = (
        "GET /v1/realtime HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(b'0' * 16).decode()}", "", "",
    )  # fmt: skip
    plain.sendall("\r\n".join(lines).encode())
    # Frames may follow only once the handshake is answered.
    assert plain.recv(12) == b"HTTP/1.1 101"
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
        body = json.dumps(event).encode()
        size = bytes([0xFE]) + len(body).to_bytes(2, "big") if len(body) > 125 else bytes([0x80 | len(body)])
        plain.sendall(b"\x81" + size + b"\0\0\0\0" + body)


@pytest.mark.parametrize("form", ["audio/pcmu", "audio/pcma"])
async def test_telephones_speak_and_hear(served: Served, form: str) -> None:
    async with talking(served) as client:
        await client.update(audio={
            "input": {"format": {"type": form}, "turn_detection": SERVER_VAD}, "output": {"format": {"type": form}},
        })  # fmt: skip
        sound = np.concatenate([tone(0.8, rate=8000), np.zeros(5600, np.float32)])
        await client.send("input_audio_buffer.append", audio=sent(sound, form))
        await client.until("response.done")
        deltas = [event["delta"] for event in client.told if event["type"] == "response.output_audio.delta"]
        assert sum(len(base64.b64decode(delta)) for delta in deltas) / 8000 == pytest.approx(0.3, abs=0.01)


def test_pieces_of_a_stream_join_without_clicks() -> None:
    whole = tone(2.0, 300, RATE)
    stream = Incoming("audio/pcm")
    heard = np.concatenate([stream.feed(sent(piece, "audio/pcm")) for piece in np.array_split(whole, 37)])
    assert np.abs(np.diff(heard, 2)).max() < 0.3 * (2 * np.pi * 300 / 16_000) ** 2 * 1.5
    out = Outgoing("audio/pcm")
    deltas = [delta for piece in np.array_split(tone(2.0, 300), 9) for delta in out.feed(Audio(piece, 16_000))]
    joined = np.concatenate([received(delta, "audio/pcm") for delta in [*deltas, *out.finish()]])
    assert len(joined) == 2 * RATE
    assert all(len(base64.b64decode(delta)) <= 0.5 * RATE * 2 for delta in deltas)
    assert np.abs(np.diff(joined[100:-100], 2)).max() < 0.3 * (2 * np.pi * 300 / RATE) ** 2 * 1.5


def test_a_page_that_asks_by_http_is_told_that_there_is_nothing(served: Served) -> None:
    assert httpx.get(f"{served.url}/v1/realtime").status_code == 404
