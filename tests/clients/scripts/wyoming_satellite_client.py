"""Wyoming Satellite, whose wake word is detected by the box; the script acts as Home Assistant."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from features import FOX, REAL_WYOMING, WAKE, WORK, expect, expect_fox, feature, main, pcm_of
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.pipeline import RunPipeline
from wyoming.satellite import RunSatellite
from wyoming.tts import Synthesize
from wyoming_requests import ask, audio_of, free_uri, running

MICROPHONE = """
import sys, time
data = open(sys.argv[1], "rb").read() + bytes(16000 * 2 * 60)
for first in range(0, len(data), 2048):
    sys.stdout.buffer.write(data[first : first + 2048])
    sys.stdout.buffer.flush()
    time.sleep(0.064)
"""
"""A program that plays a file as a microphone would, with a minute of silence after it."""


def microphone(name: str, *paths: Path) -> str:
    """The command of a microphone that hears these recordings."""
    program, data = WORK / "microphone.py", WORK / f"{name}.raw"
    program.write_text(MICROPHONE)
    data.write_bytes(b"".join(map(pcm_of, paths)))
    return f"{sys.executable} {program} {data}"


@asynccontextmanager
async def satellite(name: str, *options: str) -> AsyncIterator[AsyncClient]:
    """A running satellite, to which Home Assistant is connected."""
    uri = free_uri()
    words = ("wyoming_satellite", "--name", name, "--uri", uri, "--no-zeroconf", *options)
    async with running(*words, uri=uri), AsyncClient.from_uri(uri) as client:
        await client.write_event(RunSatellite().event())
        yield client


async def next_event(client: AsyncClient, *types: str) -> Event:
    """The next event of one of these types."""
    while True:
        event = await asyncio.wait_for(client.read_event(), 60)
        if event is None or event.type in types:
            return event


@feature("wake word on the server")
async def _wake() -> None:
    wake = ("--wake-uri", REAL_WYOMING, "--wake-word-name", "ok_nabu")
    command = microphone("waking", FOX, WAKE)
    async with satellite("waking", "--mic-command", command, *wake) as client:
        event = await next_event(client, "run-pipeline")
        expect(RunPipeline.from_event(event).start_stage.value in ("asr", "wake"), event.data)
        expect((await next_event(client, "audio-chunk")).type == "audio-chunk", "no audio")


@feature("wake word on the server, again after a turn")
async def _again() -> None:
    wake = ("--wake-uri", REAL_WYOMING, "--wake-word-name", "okay_nabu")
    command = microphone("again", WAKE, FOX, FOX, WAKE)
    async with satellite("again", "--mic-command", command, *wake) as client:
        await next_event(client, "run-pipeline")
        await client.write_event(Transcript("a question").event())
        await next_event(client, "run-pipeline")


@feature("always streaming: speech to text on the server, and its voice on the satellite")
async def _streaming() -> None:
    out = WORK / "satellite.out"
    options = ("--mic-command", microphone("streaming", FOX), "--snd-command", f"dd of={out} status=none")
    async with satellite("streaming", *options) as client, AsyncClient.from_uri(REAL_WYOMING) as box:
        await next_event(client, "run-pipeline")
        await box.write_event(Transcribe(language="en").event())
        await box.write_event(AudioStart(16_000, 2, 1).event())
        for _ in range(70):
            event = await next_event(client, "audio-chunk")
            await box.write_event(AudioChunk.from_event(event).event())
        await box.write_event(AudioStop().event())
        expect_fox((await next_event(box, "transcript")).data["text"])
        for event in await ask(REAL_WYOMING, Synthesize("Good morning."), end=["audio-stop"]):
            await client.write_event(event)
        data, _ = audio_of(await ask(REAL_WYOMING, Synthesize("Good morning."), end=["audio-stop"]))
        for _ in range(100):
            if out.exists() and out.stat().st_size > len(data) * 0.8:
                return
            await asyncio.sleep(0.1)
        expect(False, "the satellite played nothing")


main()
