"""`/v1/realtime` with OpenAI's official client and fake engines."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import anyio
import numpy as np
import pytest

from chatapi.audio import Audio
from chatapi.interfaces.http.realtime.audio_format import (
    InputAudioStream,
    OutputAudioStream,
    decode_audio,
    encode_audio,
)
from chatapi.settings import Settings
from conftest import RunningServer, serving, tone
from realtime_client import RATE, SERVER_VAD, raw, receive_event, silence, speech, talking

pytestmark = pytest.mark.anyio


async def test_session_created_has_the_configuration(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        session = client.events[0]["session"]
        assert (session["type"], session["model"], session["output_modalities"]) == ("realtime", "default", ["audio"])
        assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": RATE}
        assert session["instructions"] == shared_server.appliance.settings.llm.system_prompt
        assert session["id"].startswith("sess_")


async def test_text_item_gets_a_text_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.update(output_modalities=["text"])
        assert (await client.write("hello"))["item"]["content"][0]["text"] == "hello"
        await client.send("response.create")
        done = (await client.until("response.done"))["response"]
        assert (done["status"], done["output"][0]["content"][0]["text"]) == ("completed", "You said: hello.")
        assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"] > 0
        text = "".join(event["delta"] for event in client.events if event["type"] == "response.output_text.delta")
        assert text == "You said: hello."
        order = [kind for kind in client.types if "delta" not in kind][-9:]
        assert order == [
            "response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added",
            "response.output_text.done", "response.content_part.done", "response.output_item.done",
            "conversation.item.done", "response.done",
        ]  # fmt: skip
        assert len({event["event_id"] for event in client.events}) == len(client.events)


async def test_spoken_question_gets_an_audio_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(SERVER_VAD)
        await client.say(silence(0.3), speech(1.0), silence(0.8))
        done = (await client.until("response.done"))["response"]
        started = next(e for e in client.events if e["type"] == "input_audio_buffer.speech_started")
        stopped = next(e for e in client.events if e["type"] == "input_audio_buffer.speech_stopped")
        assert 200 <= started["audio_start_ms"] <= 450 and 1200 <= stopped["audio_end_ms"] <= 1500
        completed = next(e for e in client.events if e["type"].endswith("transcription.completed"))
        assert completed["transcript"].startswith("heard ") and completed["item_id"] == started["item_id"]
        assert done["output"][0]["content"][0]["transcript"] == f"You said: {completed['transcript']}."
        assert len(client.audio()) / RATE == pytest.approx(0.06 * 5, abs=0.01)
        assert max(abs(client.audio())) > 0.2
        kinds = client.types
        assert kinds.index("input_audio_buffer.committed") < kinds.index("response.created")


async def test_manual_turn_gets_a_response_on_request(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(None)
        for _ in range(2):
            await client.say(speech(0.6), silence(0.8))
            await client.send("input_audio_buffer.commit")
            await client.until("conversation.item.input_audio_transcription.completed")
            assert not [kind for kind in client.types if kind.endswith(("speech_started", "speech_stopped"))]
            await client.send("response.create")
            # Further audio does not cancel the requested response.
            await client.say(silence(0.3))
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared")
        await client.send("input_audio_buffer.commit", event_id="mine")
        error = (await client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")


async def test_manual_turn_streams_transcript_deltas(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client, anyio.create_task_group() as group:
        await client.detect(None)

        async def speak() -> None:
            while True:
                await client.say(speech(0.2))
                await anyio.sleep(0.02)

        group.start_soon(speak)
        delta = await client.until("conversation.item.input_audio_transcription.delta")
        group.cancel_scope.cancel()
    assert delta["delta"] == "heard" and not [kind for kind in client.types if kind.endswith("committed")]


async def test_transcript_deltas_are_a_prefix_of_the_transcript(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(None)
        for _ in range(4):
            await client.say(speech(1.0))
        await client.send("input_audio_buffer.commit")
        done = await client.until("conversation.item.input_audio_transcription.completed")
        deltas = [event for event in client.events if event["type"].endswith("transcription.delta")]
        assert "".join(event["delta"] for event in deltas) == done["transcript"]
        assert {event["item_id"] for event in deltas} == {done["item_id"]}


async def test_speed_changes_the_length_of_the_audio(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        seconds = []
        for speed in (0.5, 1.5):
            await client.update(audio={"output": {"speed": speed}})
            await client.write("one two three")
            await client.send("response.create")
            await client.until("response.done")
            seconds.append(len(client.audio()) / RATE)
            client.events.clear()
        assert seconds == [pytest.approx(5 * 0.06 / speed, abs=0.01) for speed in (0.5, 1.5)]


async def test_language_of_a_region_is_accepted(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        for language in ("en-US", "EN", "english"):
            await client.update(audio={"input": {"transcription": {"language": language}}})


async def test_idle_timeout_starts_a_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect({**SERVER_VAD, "idle_timeout_ms": 5000})
        await client.say(silence(8))
        await client.write("hello")
        await client.send("response.create")
        await client.until("response.done")
        seconds = len(client.audio()) / RATE
        assert "input_audio_buffer.timeout_triggered" not in client.types
        client.events.clear()
        await client.say(silence(5.5))
        triggered = await client.until("input_audio_buffer.timeout_triggered")
        assert triggered["audio_start_ms"] == pytest.approx(1000 * (8 + seconds), abs=700)
        assert 5000 <= triggered["audio_end_ms"] - triggered["audio_start_ms"] <= 5600
        assert (await client.until("input_audio_buffer.committed"))["item_id"] == triggered["item_id"]
        done = (await client.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"] == "You said: (I say nothing.)."
        # The idle timeout waits while the user speaks.
        client.events.clear()
        await client.say(silence(3), speech(3), silence(3))
        done = (await client.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"].startswith("You said: heard ")
        assert "input_audio_buffer.timeout_triggered" not in client.types


async def test_silent_commit_creates_an_item_with_an_empty_transcript(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(None)
        await client.say(silence(0.5))
        await client.send("input_audio_buffer.commit")
        done = await client.until("conversation.item.input_audio_transcription.completed")
        assert done["transcript"] == ""


async def test_response_is_cancelled(slow_server: RunningServer) -> None:
    async with talking(slow_server) as client:
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


async def test_barge_in_cancels_the_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
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
    messages = shared_server.client.get(f"/conversations/{conversation}").json()["messages"]
    assert messages[1]["text"].startswith("You said: one two three")
    assert messages[1]["text"].endswith(" —") and len(messages[1]["text"].split()) < 13


async def test_speech_before_first_audio_cancels_the_response(slow_server: RunningServer) -> None:
    async with talking(slow_server) as client:
        await client.detect(SERVER_VAD)
        await client.write("one two three four five six seven eight nine ten")
        await client.send("response.create")
        await client.until("response.output_audio_transcript.delta")
        await client.say(speech(0.5))
        await client.until("input_audio_buffer.speech_started")
        response = (await client.until("response.done"))["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "turn_detected")
        assert "response.output_audio.delta" not in client.types


async def test_resumed_speech_before_playback_extends_the_turn(slow_server: RunningServer) -> None:
    async with talking(slow_server) as client:
        await client.detect(SERVER_VAD)
        await client.say(speech(0.5), silence(0.4))
        first = (await client.until("input_audio_buffer.committed"))["item_id"]
        answer = (await client.until("response.output_item.added"))["item"]["id"]
        await client.say(speech(0.5), silence(0.5))
        second = (await client.until("input_audio_buffer.committed"))["item_id"]
        deleted = [event["item_id"] for event in client.events if event["type"] == "conversation.item.deleted"]
        assert sorted(deleted) == sorted([first, answer]) and second not in deleted
        completed = await client.until("conversation.item.input_audio_transcription.completed")
        assert float(completed["transcript"].split()[1]) > 1.3
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        statuses = [event["response"]["status"] for event in client.events if event["type"] == "response.done"]
        assert statuses == ["cancelled", "completed"]


async def test_pausing_client_gets_speech_started_only_for_a_barge_in(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        updated = await client.detect(SERVER_VAD, chatapi={"pausing": True})
        others = {"speakers": False, "known_speaker_names": [], "commands": False}
        assert updated["session"]["chatapi"] == {"pausing": True, **others}
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        timings = (await client.until("chatapi.timings"))["timings"]
        assert timings["first_audio"] <= timings["end"]
        await client.send("chatapi.played", audio_end_ms=500)
        await client.say(silence(0.3), speech(0.3))
        await client.until("chatapi.output_audio.paused")
        assert "input_audio_buffer.speech_started" not in client.types
        # The transcript is no backchannel, so that the answer is cancelled.
        await client.say(speech(0.8), silence(0.6))
        await client.until("input_audio_buffer.speech_started")
        cut = await client.until("chatapi.interrupted")
        assert cut["text"].startswith("You said: one") and not cut["text"].endswith("ten.")
        last = [event["response"]["id"] for event in client.events if event["type"] == "response.created"][-1]
        assert cut["response_id"] == last
        await client.until("response.done")
    assert "error" not in client.types


async def test_conversation_id_of_session_created_continues_the_conversation(shared_server: RunningServer) -> None:
    async with raw(shared_server) as plain:
        conversation_id = (await receive_event(plain, "session.created"))["session"]["chatapi"]["conversation"]
        await plain.send(json.dumps({"type": "response.create"}))
        await receive_event(plain, "response.done")
    async with raw(shared_server, f"?conversation={conversation_id}") as plain:
        assert (await receive_event(plain, "session.created"))["session"]["chatapi"] == {
            "conversation": conversation_id
        }


async def test_late_played_event_does_not_count_for_the_next_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(SERVER_VAD, chatapi={"pausing": True})
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        await client.until("chatapi.timings")
        await client.send("chatapi.played", audio_end_ms=60_000, response_id="resp_before")
        await client.say(silence(0.3), speech(0.3))
        await client.until("chatapi.output_audio.paused")


async def test_false_interruption_resumes_the_response(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.detect(SERVER_VAD, chatapi={"pausing": True})
        await client.write("one two three four five six seven eight nine ten " * 4)
        await client.send("response.create")
        await client.until("chatapi.timings")
        await client.say(silence(0.3), speech(0.25))
        await client.until("chatapi.output_audio.paused")
        await client.send("input_audio_buffer.clear")
        await client.until("chatapi.output_audio.resumed")


async def test_extension_sends_the_text_of_the_audio(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.update(chatapi={})
        await client.write("One two three. Four five six.")
        await client.send("response.create")
        await client.until("chatapi.timings")
        spans = [event for event in client.events if event["type"] == "chatapi.speech"]
        assert " ".join(event["text"] for event in spans) == "You said: One two three. Four five six."
        assert [event["audio_start_ms"] for event in spans] == [0, *(event["audio_end_ms"] for event in spans[:-1])]
        assert spans[-1]["audio_end_ms"] == pytest.approx(1000 * len(client.audio()) / RATE, abs=20)
        assert client.types.index("chatapi.speech") < client.types.index("response.output_audio.delta")


async def test_output_audio_buffer_clear_stops_playback(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.write("one two three")
        await client.send("response.create")
        response = (await client.until("response.done"))["response"]
        await client.send("output_audio_buffer.clear")
        assert (await client.until("output_audio_buffer.cleared"))["response_id"] == response["id"]


async def test_items_are_created_retrieved_and_deleted(shared_server: RunningServer) -> None:
    async with talking(shared_server) as client:
        await client.update(output_modalities=["text"])
        await client.write("Be brief.", "system")
        question = (await client.write("one"))["item"]
        first = await client.write("the answer to one", "assistant")
        again = await client.write("two")
        assert again["previous_item_id"] == first["item"]["id"]
        await client.send("conversation.item.retrieve", item_id=question["id"])
        assert (await client.until("conversation.item.retrieved"))["item"]["content"][0]["text"] == "one"
        await client.send("response.create")
        conversation = (await client.until("response.done"))["response"]["conversation_id"]
        path = f"/conversations/{conversation}"
        texts = [m["text"] for m in shared_server.client.get(path).json()["messages"]]
        assert texts == ["one", "the answer to one", "two", "You said: two."]
        for item in (question, first["item"]):
            await client.send("conversation.item.delete", item_id=item["id"])
            await client.until("conversation.item.deleted")
        assert [m["text"] for m in shared_server.client.get(path).json()["messages"]] == ["two", "You said: two."]
        pending = (await client.write("never mind"))["item"]
        await client.send("conversation.item.delete", item_id=pending["id"])
        await client.until("conversation.item.deleted")
        await client.send("conversation.item.retrieve", item_id=pending["id"], event_id="e1")
        error = (await client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("item_retrieve_invalid_item_id", "e1")
        await client.write("three")
        await client.send("response.create")
        text = (await client.until("response.done"))["response"]["output"][0]["content"][0]["text"]
        assert text == "You said: three."


async def test_conversation_continues_in_another_session(shared_server: RunningServer) -> None:
    async with raw(shared_server) as plain:
        await plain.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
        conversation = (await receive_event(plain, "response.done"))["response"]["conversation_id"]
    async with raw(shared_server, f"?conversation={conversation}") as plain:
        await plain.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
        assert (await receive_event(plain, "response.done"))["response"]["conversation_id"] == conversation
    async with raw(shared_server, "?conversation=none") as plain:
        assert (await receive_event(plain, "error"))["error"]["code"] == "unknown_conversation"


async def test_engine_failure_gives_a_failed_response(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as server:
        async with talking(server) as client:
            await client.write("hello there")
            await client.send("response.create")
            response = (await client.until("response.done"))["response"]
            assert (response["status"], response["status_details"]["error"]["type"]) == ("failed", "server_error")
            # The fallback phrase is spoken and sent as text.
            assert len(client.audio()) and "sorry" in response["output"][0]["content"][0]["transcript"]


@pytest.mark.parametrize("form", ["audio/pcmu", "audio/pcma"])
async def test_g711_formats_work_in_both_directions(shared_server: RunningServer, form: str) -> None:
    async with talking(shared_server) as client:
        await client.update(audio={
            "input": {"format": {"type": form}, "turn_detection": SERVER_VAD}, "output": {"format": {"type": form}},
        })  # fmt: skip
        sound = np.concatenate([tone(0.8, rate=8000), np.zeros(5600, np.float32)])
        await client.send("input_audio_buffer.append", audio=encode_audio(sound, form))
        await client.until("response.done")
        deltas = [event["delta"] for event in client.events if event["type"] == "response.output_audio.delta"]
        assert sum(len(base64.b64decode(delta)) for delta in deltas) / 8000 == pytest.approx(0.3, abs=0.01)


def test_resampled_chunks_join_without_clicks() -> None:
    whole = tone(2.0, 300, RATE)
    stream = InputAudioStream("audio/pcm")
    resampled = np.concatenate([stream.feed(encode_audio(piece, "audio/pcm")) for piece in np.array_split(whole, 37)])
    assert np.abs(np.diff(resampled, 2)).max() < 0.3 * (2 * np.pi * 300 / 16_000) ** 2 * 1.5
    out = OutputAudioStream("audio/pcm")
    deltas = [delta for piece in np.array_split(tone(2.0, 300), 9) for delta in out.feed(Audio(piece, 16_000))]
    joined = np.concatenate([decode_audio(delta, "audio/pcm") for delta in [*deltas, *out.finish()]])
    assert len(joined) == 2 * RATE
    assert all(len(base64.b64decode(delta)) <= 0.5 * RATE * 2 for delta in deltas)
    assert np.abs(np.diff(joined[100:-100], 2)).max() < 0.3 * (2 * np.pi * 300 / RATE) ** 2 * 1.5
