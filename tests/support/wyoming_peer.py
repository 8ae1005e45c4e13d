"""A Wyoming server, and helpers for the protocol's official client."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient, AsyncTcpClient
from wyoming.event import Event

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.interfaces.wyoming.server import WyomingServer

TIMEOUT = 60
"""Timeout of a response, in seconds."""


@asynccontextmanager
async def open_to_wyoming(appliance: Appliance, *more: socket.socket) -> AsyncIterator[tuple[WyomingServer, int]]:
    """Runs the server; yields it and its port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = WyomingServer(appliance, [listening, *more])
        port = listening.getsockname()[1]
        async with anyio.create_task_group() as group:
            group.start_soon(server.run)
            yield server, port
            group.cancel_scope.cancel()


async def until(client: AsyncClient, *types: str) -> list[Event]:
    """The events up to the first of one of these types, or the end of the connection."""
    found: list[Event] = []
    with anyio.fail_after(TIMEOUT):
        while not found or found[-1].type not in types:
            event = await client.read_event()
            if event is None:
                return found
            found.append(event)
    return found


async def ask(port: int, *events: Any, end: Iterable[str]) -> list[Event]:
    """Sends events on a new connection, and returns the responses."""
    async with AsyncTcpClient("127.0.0.1", port) as client:
        for each in events:
            await client.write_event(each if isinstance(each, Event) else each.event())
        return await until(client, *end, "error")


def audio_events(samples: Samples, rate: int = RATE, width: int = 2, channels: int = 1, size: int = 1024) -> list[Any]:
    """Audio as events, `size` samples in each chunk."""
    data = pcm(samples, width, channels)
    step = size * width * channels
    chunks = [AudioChunk(rate, width, channels, data[at : at + step]) for at in range(0, len(data), step)]
    return [AudioStart(rate, width, channels), *chunks, AudioStop()]


def pcm(samples: Samples, width: int, channels: int) -> bytes:
    """Little-endian PCM, the same on every channel; 8-bit samples are unsigned, as in WAV."""
    many = np.repeat(np.clip(samples, -1, 1)[:, np.newaxis], channels, axis=1).astype(np.float64)
    if width == 1:
        return np.round(many * 127 + 128).astype(np.uint8).tobytes()
    whole = np.round(many * (2 ** (8 * width - 1) - 1)).astype("<i4")
    return whole.view(np.uint8).reshape(*whole.shape, 4)[:, :, :width].tobytes()


def audio_of(events: Iterable[Event]) -> Audio:
    """The audio in the events."""
    chunks = [AudioChunk.from_event(event) for event in events if event.type == "audio-chunk"]
    assert {(chunk.width, chunk.channels) for chunk in chunks} == {(2, 1)}
    data = np.frombuffer(b"".join(chunk.audio for chunk in chunks), "<i2")
    return Audio(data.astype(np.float32) / 32768, chunks[0].rate)


def types(events: Iterable[Event]) -> list[str]:
    """The types of the events, with repetitions merged."""
    found: list[str] = []
    for event in events:
        if found[-1:] != [event.type]:
            found.append(event.type)
    return found
