"""Requests over Wyoming with the protocol's own client, for the scripts of the programs that speak it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from features import Failed, pcm_of
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event

STEP = 2048
"""Bytes of one chunk of audio."""


def sound(path: Path) -> list[Any]:
    """A recording as events."""
    data = pcm_of(path)
    chunks = [AudioChunk(16_000, 2, 1, data[first : first + STEP]) for first in range(0, len(data), STEP)]
    return [AudioStart(16_000, 2, 1), *chunks, AudioStop()]


async def ask(uri: str, *events: Any, end: Iterable[str]) -> list[Event]:
    """Sends events on a new connection; the responses up to the first of one of these types."""
    found: list[Event] = []
    async with AsyncClient.from_uri(uri) as client:
        for each in events:
            await client.write_event(each.event())
        while not found or found[-1].type not in end:
            event = await asyncio.wait_for(client.read_event(), 60)
            if event is None or event.type == "error":
                raise Failed(f"after {[each.type for each in found]} came {event and event.data}")
            found.append(event)
    return found


async def transcribe(uri: str, path: Path, **options: Any) -> str:
    found = await ask(uri, Transcribe(**options), *sound(path), end=["transcript"])
    return str(found[-1].data["text"])


def audio_of(events: list[Event]) -> tuple[bytes, int]:
    """The samples in the events, and their rate in hertz."""
    chunks = [AudioChunk.from_event(event) for event in events if event.type == "audio-chunk"]
    if not chunks:
        raise Failed(f"no audio in {[event.type for event in events]}")
    return b"".join(chunk.audio for chunk in chunks), chunks[0].rate


def free_uri() -> str:
    """An address on loopback that no server has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.asynccontextmanager
async def running(*words: str, uri: str) -> AsyncIterator[None]:
    """Runs a module of the environment until the block ends; it begins once the module listens on the address."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *words, stdout=sys.stderr, stderr=sys.stderr)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                async with AsyncClient.from_uri(uri):
                    break
            await asyncio.sleep(0.1)
        else:
            raise Failed(f"{words[0]} does not listen")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 5)
        if process.returncode is None:
            process.kill()
            await process.wait()
