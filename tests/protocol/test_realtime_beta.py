"""`/v1/realtime` as OpenAI's beta had it, with the beta's part of OpenAI's official client and its types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

import anyio
import pytest
from openai import AsyncOpenAI
from openai.types.beta.realtime import RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter
from websockets import Subprotocol

from chatapi.interfaces.http.realtime.audio_format import decode_audio, encode_audio
from conftest import TIMEOUT, RunningServer
from realtime_client import SERVER_VAD, Event, raw, receive_event, silence, speech

pytestmark = pytest.mark.anyio

MODEL = "gpt-4o-realtime-preview"
BETA = Subprotocol("openai-beta.realtime-v1")
CREATED = "conversation.item.created"
UNDECLARED = ("transcription_session.created", "transcription_session.updated")
"""Events that the beta sent and its client does not declare, or only with a client secret."""
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


@cache
def _models() -> dict[str, type[BaseModel]]:
    models = get_args(get_args(RealtimeServerEvent)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in models}


def check_beta_event(event: Mapping[str, Any]) -> None:
    """Raises ValidationError for an event that is not as the beta's client declares it."""
    if event["type"] not in UNDECLARED:
        assert event["type"] in _models(), f"the beta has no event {event['type']}"
        TypeAdapter(_models()[event["type"]]).validate_python(event, strict=True)


class BetaClient:
    """A connection of the beta's client, and all events it received."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.events: list[Event] = []

    async def until(self, kind: str) -> Event:
        with anyio.fail_after(TIMEOUT):
            while True:
                event: Event = json.loads(await self.connection.recv_bytes())
                check_beta_event(event)
                self.events.append(event)
                if event["type"] == kind:
                    return event

    async def say(self) -> None:
        for sound in (silence(0.3), speech(1.0), silence(0.8)):
            await self.connection.input_audio_buffer.append(audio=encode_audio(sound, "audio/pcm"))

    def joined(self, kind: str) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == kind)


def opened(openai: AsyncOpenAI, **options: Any) -> Any:
    return openai.beta.realtime.connect(model=MODEL, **options)


@pytest.fixture
async def openai(shared_server: RunningServer) -> Any:
    # Without the second address this client takes a WebSocket with TLS.
    addresses = {"base_url": f"{shared_server.url}/v1", "websocket_base_url": f"ws://127.0.0.1:{shared_server.port}/v1"}
    async with AsyncOpenAI(api_key="none", **addresses) as client:  # type: ignore[arg-type]
        yield client


async def test_voice_turn_has_the_events_of_the_beta(openai: AsyncOpenAI) -> None:
    async with opened(openai) as connection:
        client = BetaClient(connection)
        created = (await client.until("session.created"))["session"]
        assert created["modalities"] == ["audio", "text"] and created["max_response_output_tokens"] == "inf"
        assert not {"audio", "output_modalities", "max_output_tokens", "type"} & created.keys()
        await connection.session.update(session={"turn_detection": SERVER_VAD, "voice": "verse", "instructions": "Hi."})
        session = (await client.until("session.updated"))["session"]
        assert (session["voice"], session["instructions"], session["input_audio_format"]) == ("verse", "Hi.", "pcm16")
        assert session["turn_detection"]["silence_duration_ms"] == 200
        await client.say()
        done = (await client.until("response.done"))["response"]
    [message] = done["output"]
    assert (done["status"], done["modalities"]) == ("completed", ["audio", "text"])
    assert done["output_audio_format"] == "pcm16"
    assert message["content"] == [{"type": "audio", "transcript": client.joined("response.audio_transcript.delta")}]
    deltas = [event["delta"] for event in client.events if event["type"] == "response.audio.delta"]
    assert sum(len(decode_audio(delta, "audio/pcm")) for delta in deltas) > 2000
    roles = [event["item"]["role"] for event in client.events if event["type"] == CREATED]
    assert roles == ["user", "assistant"]


async def test_text_tools_and_items_have_the_form_of_the_beta(openai: AsyncOpenAI) -> None:
    async with opened(openai) as connection:
        client = BetaClient(connection)
        await connection.session.update(session={"modalities": ["text"], "tools": [WEATHER]})  # type: ignore[list-item]
        assert (await client.until("session.updated"))["session"]["modalities"] == ["text"]
        text: Any = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello."}]}
        await connection.conversation.item.create(item=text)
        assert (await client.until(CREATED))["item"]["content"] == [{"type": "text", "text": "Hello."}]
        asked: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Good day"}]}
        await connection.conversation.item.create(item=asked)
        await connection.response.create(response={"modalities": ["text"]})
        done = (await client.until("response.done"))["response"]
        answer = client.joined("response.text.delta")
        assert done["output"][0]["content"] == [{"type": "text", "text": answer}] and "Good day" in answer
        call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
        asked["content"][0]["text"] = call
        await connection.conversation.item.create(item=asked)
        await connection.response.create()
        done = (await client.until("response.done"))["response"]
        assert [item["type"] for item in done["output"]][-1] == "function_call"


async def test_transcription_session_has_the_events_of_the_beta(openai: AsyncOpenAI) -> None:
    async with opened(openai, extra_query={"intent": "transcription"}) as connection:
        client = BetaClient(connection)
        await client.until("transcription_session.created")
        await connection.transcription_session.update(
            session={"input_audio_transcription": {"model": "whisper-1"}, "turn_detection": {"type": "server_vad"}}
        )
        session = (await client.until("transcription_session.updated"))["session"]
        assert session["input_audio_transcription"]["model"] == "whisper-1" and "voice" not in session
        await client.say()
        done = await client.until("conversation.item.input_audio_transcription.completed")
        assert done["transcript"].startswith("heard ")


async def test_browser_asks_for_the_beta_by_a_subprotocol(shared_server: RunningServer) -> None:
    async with raw(shared_server, f"?model={MODEL}", subprotocols=[Subprotocol("realtime"), BETA]) as plain:
        event: Event = json.loads(await plain.recv())
        check_beta_event(event)
        assert event["session"]["modalities"] == ["audio", "text"]
    async with raw(shared_server, subprotocols=[Subprotocol("realtime")]) as plain:
        assert (await receive_event(plain, "session.created"))["session"]["output_modalities"] == ["audio"]
