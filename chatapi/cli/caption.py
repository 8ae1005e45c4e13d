"""`chatapi caption`: captions of the microphone, a file or a stream in a terminal, while somebody speaks."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from chatapi.audio import Samples
from chatapi.cli.caption_screen import CaptionFile, CaptionScreen
from chatapi.cli.caption_sources import CaptionInput, caption_input, known_speakers
from chatapi.cli.turn_io import loaded_appliance
from chatapi.engines import TranscriptionOptions
from chatapi.errors import BadInput, collapse_exception_group
from chatapi.events import Transcript
from chatapi.runtime.admission import Priority
from chatapi.services.captions.captioner import CaptionOptions, captioning
from chatapi.services.transcription.transcriber import prompt_text
from chatapi.settings import Settings


class _Recognizer(Protocol):
    """Captioner or RemoteCaptioner."""

    async def feed(self, samples: Samples, settled: bool = False) -> None: ...

    async def finish(self) -> None: ...


class _Written:
    """Where lines go: the screen, and a file where one is wanted."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.screen = CaptionScreen(chosen.json)
        self.lines = 0
        self._file = CaptionFile(chosen.output) if chosen.output is not None else None

    def show(self, transcript: Transcript) -> None:
        self.screen.show(transcript)
        if transcript.final:
            self.lines += 1
            if self._file is not None:
                self._file.add(transcript)

    async def send(self, transcript: Transcript) -> None:
        self.show(transcript)

    def close(self) -> None:
        self.screen.end()
        if self._file is not None:
            self._file.close()


async def caption(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run until the audio ends or Ctrl-C. Status 0 when anything was said, 1 when there was no speech."""
    if not chosen.server and (chosen.key or chosen.fingerprint):
        raise BadInput("--key and --fingerprint are only used with --server")
    known = await known_speakers(chosen.known_speaker)
    written = _Written(chosen)
    options = CaptionOptions(
        language=chosen.language,
        transcription=TranscriptionOptions(prompt_text(chosen.prompt, _listed(chosen.hotwords))),
        partials=written.screen.replaces,
        speakers=chosen.speakers or bool(known),
        known=known,
    )
    try:
        async with caption_input(settings, chosen, written.screen.notice) as source:
            opening = _remote if chosen.server else _local
            async with anyio.create_task_group() as group, opening(settings, chosen, options, written) as recognizer:
                await run(group, source, recognizer)
                group.cancel_scope.cancel()
    except Exception as error:
        raise collapse_exception_group(error) from None
    finally:
        written.close()
    if not written.lines:
        written.screen.notice("no speech was detected")
    return 0 if written.lines else 1


async def run(group: TaskGroup, source: CaptionInput, recognizer: _Recognizer) -> None:
    """Feed the audio to its end, or until a signal; the last words are kept."""
    feeding = anyio.CancelScope()

    async def stop() -> None:
        # A handler of its own, because SIGINT is ignored in a program that is started in the background.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if feeding.cancel_called:
                    # A second one does not wait for the last words.
                    group.cancel_scope.cancel()
                feeding.cancel()

    group.start_soon(stop)
    with feeding:
        async for block in source.blocks:
            await recognizer.feed(block, source.waits)
    feeding.cancel()
    await recognizer.finish()


@asynccontextmanager
async def _local(
    settings: Settings, chosen: argparse.Namespace, options: CaptionOptions, written: _Written
) -> AsyncIterator[_Recognizer]:
    roles = {"vad", "asr", *(("speaker",) if options.speakers else ())}
    async with loaded_appliance(settings, roles) as appliance:
        services = (appliance.engines, appliance.transcriber, appliance.settings)
        async with captioning(services, options, written.send, Priority.LIVE) as captioner:
            yield captioner


@asynccontextmanager
async def _remote(
    settings: Settings, chosen: argparse.Namespace, options: CaptionOptions, written: _Written
) -> AsyncIterator[_Recognizer]:
    from chatapi.cli.caption_remote import RemoteCaptioner
    from chatapi.client.connecting import KEY
    from chatapi.interfaces.audio_device.realtime_link import parse_address

    own = settings.server.api_key
    key = chosen.key or os.environ.get(KEY) or (own.get_secret_value() if own is not None else None)
    address = parse_address(chosen.server, key, chosen.fingerprint, settings.data)
    remote = RemoteCaptioner(address, options, written.show, written.screen.notice)
    async with anyio.create_task_group() as group:
        group.start_soon(remote.run)
        await remote.connected.wait()
        yield remote
        group.cancel_scope.cancel()


def _listed(given: list[str]) -> list[str]:
    return [each.strip() for text in given for each in text.split(",") if each.strip()]
