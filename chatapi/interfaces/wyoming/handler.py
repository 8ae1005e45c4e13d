"""Handles a client's events with the services of the appliance."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Protocol

import anyio.lowlevel

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.pcm import Pcm
from chatapi.auth import KeyHolder
from chatapi.engines import Voice
from chatapi.errors import ChatapiError, ModelError, TooLarge, Unprocessable, WrongMode
from chatapi.events import TextDelta, TextWithdrawn, TurnStarted
from chatapi.interfaces.wyoming import events as wire
from chatapi.interfaces.wyoming.framing import WyomingEvent
from chatapi.interfaces.wyoming.info import PROGRAM, has_wake_word, info, wake_word
from chatapi.services.command_recognition.spotting import CommandSpotter
from chatapi.services.turns.completion import Turn
from chatapi.services.turns.run import ClientDisconnected
from chatapi.services.wake_word import WakeWordListener

log = logging.getLogger(__name__)

STEP = 1 << 14
"""Bytes of audio processed at a time, so that one large event does not block other clients."""
CHUNK = 1024
"""Samples of one audio-chunk, the usual size."""
EVENTS_PER_SEND = 16
"""Audio events that are sent at once."""


class WyomingClient(Protocol):
    """The connection to the client."""

    async def send(self, *events: WyomingEvent) -> None: ...

    async def take(self) -> WyomingEvent:
        """The next event."""

    def put_back(self, event: WyomingEvent) -> None:
        """Puts an event back, so that it is the next."""


class WyomingHandler:
    """Handles the events of one client, one after another."""

    def __init__(self, appliance: Appliance, client: WyomingClient, holder: KeyHolder) -> None:
        """`holder`: what the client may do."""
        self._appliance = appliance
        self._client = client
        self._holder = holder
        self._request = wire.Transcribe()
        self._audio_handler = self._transcribe
        """Handler of audio: transcription or detection, whichever the client requested last."""
        self._detected_commands: frozenset[str] = frozenset()
        """The commands that are detected, where no wake word is."""
        self._handlers: dict[str, Callable[[WyomingEvent], Awaitable[None]]] = {
            "describe": self._describe,
            "select-program": self._select,
            "transcribe": self._select_transcription,
            "detect": self._select_detection,
            "audio-start": self._handle_audio,
            "audio-chunk": self._handle_audio,
            "audio-stop": self._ignore,
            "transcript": self._run_turn,
            "recognize": self._reject_recognition,
            "synthesize": self._synthesize,
            "synthesize-start": self._synthesize_stream,
            "synthesize-chunk": self._synthesize_stream,
            "synthesize-stop": self._end_stream,
        }

    async def handle(self, event: WyomingEvent) -> None:
        """Handles an event. After a ChatapiError no further event may be handled."""
        await self._handlers[event.type](event)

    async def _describe(self, event: WyomingEvent) -> None:
        await self._client.send(WyomingEvent("info", await info(self._appliance, self._holder)))

    async def _select(self, event: WyomingEvent) -> None:
        name = wire.read(wire.Program, event).name
        if name != PROGRAM:
            raise Unprocessable(f"program {name!r} does not exist; use {PROGRAM}", code="unknown_program")

    async def _ignore(self, event: WyomingEvent) -> None:
        """Ignores an audio-stop without an audio-start."""

    async def _reject_recognition(self, event: WyomingEvent) -> None:
        request = wire.read(wire.Recognize, event)
        text = "intent recognition is not supported; send the text as transcript to get an answer"
        await self._client.send(WyomingEvent("not-recognized", {"text": text, "context": request.context}))

    async def _select_transcription(self, event: WyomingEvent) -> None:
        request = wire.read(wire.Transcribe, event)
        self._appliance.transcriber.language(request.language)
        active = self._appliance.active.get("asr", self._appliance.settings.asr.engine)
        if request.name not in (None, "", active):
            # Clients keep the name of another server's model. Every model transcribes the same words.
            log.info("requested model is not in use", extra={"requested": request.name, "model": active})
        self._request, self._audio_handler = request, self._transcribe

    async def _select_detection(self, event: WyomingEvent) -> None:
        names = wire.read(wire.Detect, event).names
        if commands := await self._commands(names or ()):
            self._detected_commands, self._audio_handler = commands, self._detect_commands
            return
        if not has_wake_word(self._appliance):
            raise WrongMode(
                "the box has no wake word; `chatapi models list` shows models to fetch", code="no_wake_word"
            )
        await self._appliance.engines.wake_word.open()
        if names and _folded(wake_word(self._appliance)) not in map(_folded, names):
            raise Unprocessable(
                f"wake word {names[0]!r} is not available; use {wake_word(self._appliance)}", code="unknown_wake_word"
            )
        self._audio_handler = self._detect

    async def _commands(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that are commands; a wake word goes before a command of its name."""
        wanted = {_folded(name) for name in names}
        if not wanted or (has_wake_word(self._appliance) and _folded(wake_word(self._appliance)) in wanted):
            return frozenset()
        try:
            labels = await self._appliance.command_recognition.labels()
        except ModelError:
            # The model is not installed.
            return frozenset()
        return frozenset(label for label in labels if _folded(label) in wanted)

    async def _handle_audio(self, event: WyomingEvent) -> None:
        try:
            async with aclosing(self._audio(event)) as audio:
                await self._audio_handler(audio)
        except ClientDisconnected:
            return

    async def _audio(self, start: WyomingEvent) -> AsyncGenerator[tuple[Samples, int | float | None], None]:
        """16 kHz mono audio up to audio-stop, with the client's timestamps. Raises ClientDisconnected.

        `start` may be the first audio-chunk: satellites that listen for the wake word send no audio-start.
        """
        form = wire.read(wire.PcmFormat, start)
        pcm = Pcm(form.rate, form.width, form.channels)
        if start.type == "audio-chunk":
            self._client.put_back(start)
        while True:
            event = await self._client.take()
            if event.type == "audio-chunk":
                chunk = wire.read(wire.PcmFormat, event)
                if (chunk.rate, chunk.width, chunk.channels) != (form.rate, form.width, form.channels):
                    raise Unprocessable("the format of audio-chunk differs from its audio-start", code="bad_audio")
                for first in range(0, len(event.payload), STEP):
                    yield pcm.feed(event.payload[first : first + STEP]), chunk.timestamp
                    await anyio.lowlevel.checkpoint()
            elif event.type == "audio-stop":
                yield pcm.finish(), None
                return
            elif event.type == "describe":
                await self._describe(event)
            else:
                self._client.put_back(event)
                raise ClientDisconnected

    async def _transcribe(self, audio: AsyncIterator[tuple[Samples, int | float | None]]) -> None:
        request, text, language = self._request, "", None
        context = {"context": request.context} if request.context is not None else {}
        async with self._appliance.transcription_service.transcribe_stream(_samples(audio), request.language) as found:
            async for transcript in found:
                if not text:
                    language = transcript.language
                    await self._client.send(WyomingEvent("transcript-start", {"language": language, **context}))
                more = f" {transcript.text}" if text else transcript.text
                text += more
                await self._client.send(WyomingEvent("transcript-chunk", {"text": more}))
        detected = {"language": language} if language else {}
        start = () if text else (WyomingEvent("transcript-start", context),)
        final = WyomingEvent("transcript", {"text": text, **detected, **context})
        await self._client.send(*start, final, WyomingEvent("transcript-stop"))

    async def _detect(self, audio: AsyncIterator[tuple[Samples, int | float | None]]) -> None:
        """Detects the wake word for as long as audio arrives, which may be without an end."""
        listener, received, detected = WakeWordListener(self._appliance.engines.wake_word), 0, False
        async for samples, timestamp in audio:
            for at in await listener.detections(samples):
                when = round((received + at) * 1000 / RATE) if timestamp is None else timestamp
                detected = True
                await self._client.send(
                    WyomingEvent("detection", {"name": wake_word(self._appliance), "timestamp": when})
                )
            received += len(samples)
        if not detected:
            await self._client.send(WyomingEvent("not-detected"))

    async def _detect_commands(self, audio: AsyncIterator[tuple[Samples, int | float | None]]) -> None:
        """Detects the requested commands for as long as audio arrives, which may be without an end."""
        spotter, detected = CommandSpotter(self._appliance.command_recognition), False
        async for samples, timestamp in audio:
            async for found in spotter.feed(samples):
                if found.label in self._detected_commands:
                    when = round(found.end * 1000) if timestamp is None else timestamp
                    detected = True
                    await self._client.send(WyomingEvent("detection", {"name": found.label, "timestamp": when}))
        if not detected:
            await self._client.send(WyomingEvent("not-detected"))

    async def _run_turn(self, event: WyomingEvent) -> None:
        """Runs a turn of a conversation, which later turns continue by their context."""
        request = wire.read(wire.TranscriptRequest, event)
        turn = Turn(prompt=request.text, conversation=request.conversation or None, create_missing=True)
        context, text = dict(request.context or {}), ""
        stop: tuple[WyomingEvent, ...] = ()
        try:
            async with self._appliance.completions.run(turn) as events:
                async for turn_event in events:
                    if isinstance(turn_event, TurnStarted):
                        context["conversation_id"] = turn_event.conversation
                        await self._client.send(WyomingEvent("handled-start", {"context": context}))
                        stop = (WyomingEvent("handled-stop"),)
                    elif isinstance(turn_event, TextDelta):
                        text += turn_event.text
                        await self._client.send(WyomingEvent("handled-chunk", {"text": turn_event.text}))
                    elif isinstance(turn_event, TextWithdrawn):
                        text = ""
        except ChatapiError as error:
            self._appliance.metrics.errors.labels(error.code).inc()
            await self._client.send(WyomingEvent("not-handled", {"text": error.message, "context": context}), *stop)
            return
        await self._client.send(WyomingEvent("handled", {"text": text.rstrip(), "context": context}), *stop)

    async def _synthesize(self, event: WyomingEvent) -> None:
        wanted = wire.read(wire.Synthesize, event)
        voice = self._voice(wanted)
        self._check_length(len(wanted.text))
        await self._send_speech(_one(wanted.text), voice)

    async def _synthesize_stream(self, event: WyomingEvent) -> None:
        voice = self._voice(wire.read(wire.SynthesizeStart, event))
        if event.type == "synthesize-chunk":
            # Text without a start gets the default voice.
            self._client.put_back(event)
        async with aclosing(self._streamed_text()) as text:
            await self._send_speech(text, voice)
        await self._end_stream(event)

    async def _end_stream(self, event: WyomingEvent) -> None:
        """Ends a streamed synthesis, also one that was never started."""
        await self._client.send(WyomingEvent("synthesize-stopped"))

    async def _streamed_text(self) -> AsyncGenerator[str, None]:
        """Streamed text up to synthesize-stop."""
        size = 0
        while (event := await self._client.take()).type != "synthesize-stop":
            if event.type == "synthesize-chunk":
                text = wire.read(wire.Chunk, event).text
                size += len(text)
                self._check_length(size)
                yield text
            elif event.type == "describe":
                await self._describe(event)
            elif event.type != "synthesize":
                # `synthesize` repeats the whole text for servers without streaming.
                raise Unprocessable(f"{event.type} arrived before synthesize-stop", code="unexpected_event")

    def _voice(self, wanted: wire.SynthesizeStart) -> Voice:
        wire.check_text_format(wanted)
        voice = wanted.voice or wire.VoiceSelection()
        if voice.speaker:
            raise Unprocessable(
                f"speaker {voice.speaker!r} is not available; every voice has a single speaker", code="unknown_speaker"
            )
        return self._appliance.synthesis.voice(voice.name, voice.language or "")

    def _check_length(self, size: int) -> None:
        most = self._appliance.settings.limits.prompt_chars
        if size > most:
            limit = f"{most} characters (limits.prompt_chars)"
            raise TooLarge(f"the text is longer than the limit, {limit}", code="text_too_long")

    async def _send_speech(self, text: AsyncIterator[str], voice: Voice) -> None:
        """Synthesizes and sends speech, which starts while text may still arrive."""
        started = False
        async with self._appliance.speech_service.synthesize_stream(text, voice) as speech:
            async for audio in speech:
                form = {"rate": audio.rate, "width": 2, "channels": 1}
                if not started:
                    await self._client.send(WyomingEvent("audio-start", form))
                    started = True
                for events in _chunks(audio):
                    await self._client.send(*events)
        await self._client.send(WyomingEvent("audio-stop"))


def _chunks(audio: Audio) -> list[list[WyomingEvent]]:
    """The audio as events, in groups that are sent at once."""
    form, data, size = {"rate": audio.rate, "width": 2, "channels": 1}, audio.pcm16(), 2 * CHUNK
    events = [WyomingEvent("audio-chunk", form, data[first : first + size]) for first in range(0, len(data), size)]
    return [events[first : first + EVENTS_PER_SEND] for first in range(0, len(events), EVENTS_PER_SEND)]


def _folded(name: str) -> str:
    """The name of a wake word as it is compared: openWakeWord calls `okay_nabu` ok_nabu and ok_nabu_v0.1."""
    plain = re.sub(r"[\s_-]+", "_", re.sub(r"[_-]v[\d.]+$", "", name.strip().lower()))
    return re.sub(r"^ok_", "okay_", plain)


async def _samples(audio: AsyncIterator[tuple[Samples, int | float | None]]) -> AsyncIterator[Samples]:
    async for samples, _ in audio:
        yield samples


async def _one(text: str) -> AsyncIterator[str]:
    yield text
