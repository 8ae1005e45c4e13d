"""OpenAI's official client of `/v1/realtime`, and a plain WebSocket client for invalid input."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import numpy as np
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect

from chatapi.audio import Samples
from chatapi.interfaces.http.realtime.audio_format import decode_audio, encode_audio
from conftest import TIMEOUT, RunningServer, tone
from openai_events import check_event

RATE = 24_000


SERVER_VAD = {"type": "server_vad", "silence_duration_ms": 200}


Event = dict[str, Any]


class Client:
    """The official client's connection, and all events it received."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.events: list[Event] = []

    async def until(self, *kinds: str) -> Event:
        """Waits for the next event of one of these types."""
        with anyio.fail_after(TIMEOUT):
            while True:
                raw_event = await self.connection.recv_bytes()
                check_event(json.loads(raw_event))
                event = self.connection.parse_event(raw_event).model_dump()
                self.events.append(event)
                if event["type"] in kinds:
                    return event

    async def rest(self, seconds: float = 0.3) -> list[str]:
        """The types of all events, after waiting for further ones."""
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
            await self.send("input_audio_buffer.append", audio=encode_audio(chunk, "audio/pcm"))

    async def write(self, text: str, role: str = "user") -> Event:
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": role, "content": content})
        return await self.until("conversation.item.done", "error")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def audio(self) -> Samples:
        deltas = [event["delta"] for event in self.events if event["type"] == "response.output_audio.delta"]
        return np.concatenate([decode_audio(delta, "audio/pcm") for delta in deltas])


def speech(seconds: float) -> Samples:
    return tone(seconds, rate=RATE)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


@asynccontextmanager
async def talking(server: RunningServer, key: str = "none", model: str = "default") -> AsyncIterator[Client]:
    async with AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1") as openai:
        async with openai.realtime.connect(model=model) as connection:
            client = Client(connection)
            await client.until("session.created", "error")
            yield client


@asynccontextmanager
async def raw(server: RunningServer, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    options = {"open_timeout": TIMEOUT, "max_size": None, **options}
    async with connect(f"ws://127.0.0.1:{server.port}/v1/realtime{query}", **options) as plain:
        yield plain


async def receive_event(plain: ClientConnection, *kinds: str) -> Event:
    with anyio.fail_after(TIMEOUT):
        while True:
            event: Event = json.loads(await plain.recv())
            check_event(event)
            if event["type"] in kinds:
                return event
