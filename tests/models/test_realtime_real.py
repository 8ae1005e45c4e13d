"""The Realtime API with real models and OpenAI's official client."""

from __future__ import annotations

import base64
import json

import anyio
import numpy as np
import pytest

from chatapi.audio import Audio, Samples, wav
from chatapi.audio.decode import decode
from chatapi.bench.wer import word_error_rate
from chatapi.interfaces.http.realtime.audio_format import encode_audio
from conftest import RunningServer
from realtime_client import RATE, SERVER_VAD, Client, silence, talking
from test_completion_real import QUESTION, synthesized, words

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.anyio]


async def speak(client: Client, server: RunningServer, text: str) -> None:
    """Sends speech like a microphone: 0.1 s at a time in real time, then silence."""
    sound = decode(await anyio.to_thread.run_sync(synthesized, server, text)).at(RATE).samples
    samples = np.concatenate([silence(0.3), sound, silence(2.5)])
    for start in range(0, len(samples), RATE // 10):
        await client.send(
            "input_audio_buffer.append", audio=encode_audio(samples[start : start + RATE // 10], "audio/pcm")
        )
        await anyio.sleep(0.1)


async def test_spoken_question_gets_audio_and_transcript(real_server: RunningServer) -> None:
    async with talking(real_server) as client, anyio.create_task_group() as group:
        await client.update(instructions="Answer in one short sentence.", chatapi={})
        group.start_soon(speak, client, real_server, QUESTION)
        with anyio.fail_after(60):
            response = (await client.until("response.done"))["response"]
        timings = (await client.until("chatapi.timings"))["timings"]
        group.cancel_scope.cancel()
    assert response["status"] == "completed"
    samples = next(event for event in client.events if event["type"].endswith("transcription.completed"))
    # Word error rates are measured elsewhere: synthesis varies, and the ASR model is the smallest.
    assert words(samples["transcript"])[:5] == words(QUESTION)[:5]
    said = response["output"][0]["content"][0]["transcript"]
    assert timings["endpoint"] <= timings["end"] and timings["first_audio"] is not None
    answer = wav(Audio(client.audio(), RATE))
    back = real_server.client.post("/completion", content=answer, headers={"content-type": "audio/wav"}).json()[
        "transcript"
    ]
    assert word_error_rate([(said, back)]) < 0.5


async def test_tool_call_has_valid_arguments_and_gets_a_response(real_server: RunningServer) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tools = [{"type": "function", "name": "temperature", "description": "Of a city.", "parameters": city}]
    async with talking(real_server) as client:
        await client.update(output_modalities=["text"], tools=tools)
        await client.write("How warm is it in Rome?")
        await client.send("response.create", response={"tool_choice": "required"})
        with anyio.fail_after(60):
            [call] = (await client.until("response.done"))["response"]["output"]
        assert call["name"] == "temperature" and json.loads(call["arguments"])["city"] in ("Paris", "Rome")
        item = {"type": "function_call_output", "call_id": call["call_id"], "output": "It is 31 degrees in Rome now."}
        await client.send("conversation.item.create", item=item)
        await client.send("response.create", response={"tool_choice": "none"})
        with anyio.fail_after(60):
            response = (await client.until("response.done"))["response"]
    # The answer of so small a model is not reliable.
    assert response["status"] == "completed" and response["output"][0]["type"] == "message"


async def test_out_of_band_response_runs_beside_a_turn(real_server: RunningServer) -> None:
    async with talking(real_server) as client:
        await client.update(output_modalities=["text"])
        item = (await client.write("What is the capital of France?"))["item"]
        given = [{"type": "item_reference", "id": item["id"]}]
        await client.send("response.create", response={"conversation": "none", "input": given, "max_output_tokens": 40})
        await client.send("response.create", response={"max_output_tokens": 40})
        with anyio.fail_after(60):
            ended = [(await client.until("response.done"))["response"] for _ in range(2)]
    # The answer of so small a model is not reliable.
    assert all(response["output"][0]["content"][0]["text"].strip() for response in ended)
    assert sorted(response["conversation_id"] is None for response in ended) == [False, True]


async def recorded(server: RunningServer, rate: int) -> Samples:
    """A spoken question with silence around it."""
    sound = decode(await anyio.to_thread.run_sync(synthesized, server, QUESTION)).at(rate).samples
    pause = np.zeros(rate, np.float32)
    return np.concatenate([pause[: rate // 3], sound, pause])


async def test_transcription_session_hears_chunks_of_odd_size(real_server: RunningServer) -> None:
    samples = await recorded(real_server, RATE)
    raw = base64.b64decode(encode_audio(samples, "audio/pcm"))
    async with talking(real_server, model="gpt-4o-transcribe") as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": SERVER_VAD}}})
        for start in range(0, len(raw), 4801):
            await client.send("input_audio_buffer.append", audio=base64.b64encode(raw[start : start + 4801]).decode())
        heard = ""
        while len(words(heard)) < 5:
            heard += " " + (await client.until("conversation.item.input_audio_transcription.completed"))["transcript"]
        assert words(heard)[:5] == words(QUESTION)[:5] and "response.created" not in client.types


async def test_audio_of_an_item_is_heard(real_server: RunningServer) -> None:
    audio = encode_audio(await recorded(real_server, RATE), "audio/pcm")
    item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": audio}]}
    async with talking(real_server) as client:
        await client.send("conversation.item.create", item=item)
        [part] = (await client.until("conversation.item.done"))["item"]["content"]
        assert words(part["transcript"])[:5] == words(QUESTION)[:5]
        await client.send("response.create", response={"output_modalities": ["text"], "max_output_tokens": 40})
        response = (await client.until("response.done"))["response"]
        assert response["output"][0]["content"][0]["text"].strip()


async def test_call_hears_a_question_and_its_answer_sounds(real_server: RunningServer) -> None:
    pytest.importorskip("aiortc")
    from webrtc_client import RATE as OPUS_RATE
    from webrtc_client import calling

    sound = await recorded(real_server, OPUS_RATE)
    async with calling(real_server, session={"type": "realtime", "max_output_tokens": 40}) as caller:
        await caller.until("session.created")
        caller.microphone.say(sound)
        completed = await caller.until("conversation.item.input_audio_transcription.completed")
        assert words(completed["transcript"])[:5] == words(QUESTION)[:5]
        await caller.until("output_audio_buffer.stopped")
        assert caller.heard_seconds > 0.3 and "error" not in caller.types
