"""The Realtime API with real models and OpenAI's official client."""

from __future__ import annotations

import json

import anyio
import numpy as np
import pytest

from chatapi.audio import Audio, wav
from chatapi.audio.decode import decode
from chatapi.bench.wer import word_error_rate
from chatapi.interfaces.http.realtime.audio_format import encode_audio
from conftest import RunningServer
from realtime_client import RATE, Client, silence, talking
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
