"""`/v1/realtime` with OpenAI's own client, unmodified, and engines that need no model."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import anyio
import numpy as np
import pytest

from chatapi.audio import Audio
from chatapi.interfaces.http.realtime.audio_format import Incoming, Outgoing, received, sent
from chatapi.settings import Settings
from conftest import Served, serving, tone
from realtime_client import RATE, SERVER_VAD, heard, raw, silence, speech, talking

pytestmark = pytest.mark.anyio


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


async def test_who_ends_turns_by_hand_is_told_the_words_while_they_speak(served: Served) -> None:
    async with talking(served) as client, anyio.create_task_group() as group:
        await client.detect(None)

        async def speak() -> None:
            while True:
                await client.say(speech(0.2))
                await anyio.sleep(0.02)

        group.start_soon(speak)
        told = await client.until("conversation.item.input_audio_transcription.delta")
        group.cancel_scope.cancel()
    assert told["delta"] == "heard" and not [kind for kind in client.types if kind.endswith("committed")]


async def test_words_told_while_they_are_spoken_begin_the_transcript(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(None)
        for _ in range(4):
            await client.say(speech(1.0))
        await client.send("input_audio_buffer.commit")
        done = await client.until("conversation.item.input_audio_transcription.completed")
        deltas = [event for event in client.told if event["type"].endswith("transcription.delta")]
        assert "".join(event["delta"] for event in deltas) == done["transcript"]
        assert {event["item_id"] for event in deltas} == {done["item_id"]}


async def test_the_answer_is_spoken_as_fast_as_is_asked(served: Served) -> None:
    async with talking(served) as client:
        seconds = []
        for speed in (0.5, 1.5):
            await client.update(audio={"output": {"speed": speed}})
            await client.write("one two three")
            await client.send("response.create")
            await client.until("response.done")
            seconds.append(len(client.audio()) / RATE)
            client.told.clear()
        assert seconds == [pytest.approx(5 * 0.06 / speed, abs=0.01) for speed in (0.5, 1.5)]


async def test_who_says_nothing_for_long_is_spoken_to(served: Served) -> None:
    async with talking(served) as client:
        await client.detect({**SERVER_VAD, "idle_timeout_ms": 5000})
        await client.say(silence(8))
        await client.write("hello")
        await client.send("response.create")
        await client.until("response.done")
        seconds = len(client.audio()) / RATE
        assert "input_audio_buffer.timeout_triggered" not in client.types
        client.told.clear()
        await client.say(silence(5.5))
        triggered = await client.until("input_audio_buffer.timeout_triggered")
        assert triggered["audio_start_ms"] == pytest.approx(1000 * (8 + seconds), abs=700)
        assert 5000 <= triggered["audio_end_ms"] - triggered["audio_start_ms"] <= 5600
        assert (await client.until("input_audio_buffer.committed"))["item_id"] == triggered["item_id"]
        done = (await client.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"] == "You said: (I say nothing.)."
        # Who speaks is waited for.
        client.told.clear()
        await client.say(silence(3), speech(3), silence(3))
        done = (await client.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"].startswith("You said: heard ")
        assert "input_audio_buffer.timeout_triggered" not in client.types


async def test_a_silent_commit_is_an_item_without_words(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(None)
        await client.say(silence(0.5))
        await client.send("input_audio_buffer.commit")
        done = await client.until("conversation.item.input_audio_transcription.completed")
        assert done["transcript"] == ""


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


async def test_a_client_that_pauses_is_told_only_of_what_matters(served: Served) -> None:
    async with talking(served) as client:
        updated = await client.detect(SERVER_VAD, chatapi={"pausing": True})
        assert updated["session"]["chatapi"] == {"pausing": True}
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        timings = (await client.until("chatapi.timings"))["timings"]
        assert timings["first_audio"] <= timings["end"]
        await client.send("chatapi.played", audio_end_ms=500)
        await client.say(silence(0.3), speech(0.3))
        await client.until("chatapi.output_audio.paused")
        assert "input_audio_buffer.speech_started" not in client.types
        # What is heard is no backchannel, so that the answer is given up.
        await client.say(speech(0.8), silence(0.6))
        await client.until("input_audio_buffer.speech_started")
        cut = await client.until("chatapi.interrupted")
        assert cut["text"].startswith("You said: one") and not cut["text"].endswith("ten.")
        last = [event["response"]["id"] for event in client.told if event["type"] == "response.created"][-1]
        assert cut["response_id"] == last
        await client.until("response.done")
    assert "error" not in client.types


async def test_the_conversations_id_is_told_and_goes_on_with_it(served: Served) -> None:
    async with raw(served) as plain:
        known_as = (await heard(plain, "session.created"))["session"]["chatapi"]["conversation"]
        await plain.send(json.dumps({"type": "response.create"}))
        await heard(plain, "response.done")
    async with raw(served, f"?conversation={known_as}") as plain:
        assert (await heard(plain, "session.created"))["session"]["chatapi"] == {"conversation": known_as}


async def test_what_was_played_of_one_answer_does_not_count_for_the_next(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(SERVER_VAD, chatapi={"pausing": True})
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        await client.until("chatapi.timings")
        await client.send("chatapi.played", audio_end_ms=60_000, response_id="resp_before")
        await client.say(silence(0.3), speech(0.3))
        await client.until("chatapi.output_audio.paused")


async def test_an_answer_goes_on_after_a_noise(served: Served) -> None:
    async with talking(served) as client:
        await client.detect(SERVER_VAD, chatapi={"pausing": True})
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        await client.until("chatapi.timings")
        await client.say(silence(0.3), speech(0.25))
        await client.until("chatapi.output_audio.paused")
        await client.send("input_audio_buffer.clear")
        await client.until("chatapi.output_audio.resumed")


async def test_a_client_that_asks_is_told_which_words_its_sound_says(served: Served) -> None:
    async with talking(served) as client:
        await client.update(chatapi={})
        await client.write("One two three. Four five six.")
        await client.send("response.create")
        await client.until("chatapi.timings")
        told = [event for event in client.told if event["type"] == "chatapi.speech"]
        assert " ".join(event["text"] for event in told) == "You said: One two three. Four five six."
        assert [event["audio_start_ms"] for event in told] == [0, *(event["audio_end_ms"] for event in told[:-1])]
        assert told[-1]["audio_end_ms"] == pytest.approx(1000 * len(client.audio()) / RATE, abs=20)
        assert client.types.index("chatapi.speech") < client.types.index("response.output_audio.delta")


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
    with serving(echo_settings("fake.fault=raise")) as served:
        async with talking(served) as client:
            await client.write("hello there")
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            assert (response["status"], response["status_details"]["error"]["type"]) == ("failed", "server_error")
            # The excuse is heard, and read.
            assert len(client.audio()) and "sorry" in response["output"][0]["content"][0]["transcript"]


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
