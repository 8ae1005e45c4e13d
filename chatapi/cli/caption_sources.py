"""The audio of `chatapi caption`: the microphone, a file, standard input or a stream at a URL."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from chatapi.audio import Samples
from chatapi.audio.decode import blocks, duration, live_blocks
from chatapi.cli.transcribe_sources import is_url
from chatapi.cli.turn_io import STANDARD
from chatapi.errors import BadInput
from chatapi.services.transcription.speakers import KnownSpeaker, sample
from chatapi.settings import Settings

MICROPHONE = "microphone"
WATCH_SECONDS = 0.5
"""Interval between two looks at the microphone's state, in seconds."""

Notice = Callable[[str], None]


@dataclass(frozen=True)
class CaptionInput:
    """Audio to caption."""

    blocks: AsyncIterator[Samples]
    """16 kHz mono."""
    waits: bool
    """Whether the source waits for the recognizer, as a file does."""


@asynccontextmanager
async def caption_input(settings: Settings, chosen: argparse.Namespace, notice: Notice) -> AsyncIterator[CaptionInput]:
    """The audio of the command's source. Raises BadInput, SettingsError (sound_library_missing)."""
    source = chosen.source
    if chosen.raw and source != STANDARD:
        raise BadInput("--raw is only used with standard input (-)")
    if source == MICROPHONE:
        async with _microphone(settings, notice) as captured:
            yield CaptionInput(captured, waits=False)
    elif source == STANDARD:
        # The thread may wait for ever for what never comes; the process ends without it.
        yield CaptionInput(_from_thread(live_blocks(sys.stdin.fileno(), chosen.raw), abandon=True), waits=True)
    elif is_url(source):
        async with _stream(settings, source, notice) as stream:
            yield CaptionInput(stream, waits=False)
    else:
        await anyio.to_thread.run_sync(duration, Path(source))
        yield CaptionInput(_from_thread(blocks(Path(source))), waits=True)


@asynccontextmanager
async def _microphone(settings: Settings, notice: Notice) -> AsyncIterator[AsyncIterator[Samples]]:
    from chatapi.interfaces.audio_device.devices import AudioDevices

    devices = AudioDevices(settings.audio_device.input, cancel_echo=False, playback=False)

    async def watch() -> None:
        before = ""
        while True:
            state = devices.state["input"]
            if state["state"] == "lost" != before:
                notice(f"the microphone is missing: {state['error']}")
            elif state["state"] == "ok" and before == "lost":
                notice(f"the microphone is back: {state['name']}")
            before = state["state"]
            await anyio.sleep(WATCH_SECONDS)

    async with devices.running(), anyio.create_task_group() as group:
        group.start_soon(watch)
        notice("listening; Ctrl-C ends")
        yield devices.captured()
        group.cancel_scope.cancel()


def _stream(settings: Settings, url: str, notice: Notice) -> AbstractAsyncContextManager[AsyncIterator[Samples]]:
    from chatapi.services.captions.stream_url import StreamUrl

    lost = [False]

    async def on_state(state: str, message: str) -> None:
        if state == "reconnecting":
            lost[0] = True
            notice(f"the stream broke off: {message}; connecting again")
        elif lost[0]:
            lost[0] = False
            notice("the stream is back")

    # The user of this machine may name addresses of its networks.
    return StreamUrl(url, True, settings.captions.give_up_seconds, on_state).opened()


async def _from_thread(decoded: Generator[Samples, None, None], abandon: bool = False) -> AsyncIterator[Samples]:
    """The blocks of a blocking generator."""
    while True:
        block = await anyio.to_thread.run_sync(next, decoded, None, abandon_on_cancel=abandon)
        if block is None:
            return
        yield block


def known_speaker_files(given: list[str]) -> list[tuple[str, Path]]:
    """The names and files of `--known-speaker NAME=FILE`. Raises BadInput."""
    found = []
    for each in given:
        name, equals, file = each.partition("=")
        if not (name.strip() and equals and file):
            raise BadInput(f"--known-speaker {each} is not NAME=FILE")
        if not Path(file).is_file():
            raise BadInput(f"--known-speaker {name}: there is no file {file}")
        found.append((name.strip(), Path(file)))
    if len({name for name, _ in found}) < len(found):
        raise BadInput("--known-speaker has a name twice")
    return found


async def known_speakers(given: list[str]) -> tuple[KnownSpeaker, ...]:
    """The known speakers with their samples. Raises BadInput."""
    return tuple(
        [KnownSpeaker(name, await anyio.to_thread.run_sync(sample, file)) for name, file in known_speaker_files(given)]
    )
