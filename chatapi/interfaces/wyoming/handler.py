"""What a client asks, event by event, and what the abilities make of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

import anyio.lowlevel

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Pcm, Samples
from chatapi.engines import Voice
from chatapi.errors import ChatapiError, TooLarge, Unprocessable, WrongMode
from chatapi.events import TextDelta, TurnStarted
from chatapi.interfaces.wyoming import events as wire
from chatapi.interfaces.wyoming.framing import WyomingEvent
from chatapi.interfaces.wyoming.info import PROGRAM, has_wake_word, info, wake_word
from chatapi.services.turns.completion import Turn
from chatapi.services.turns.run import ClientDisconnected
from chatapi.services.wake_word import WakeWordListener

STEP = 1 << 14
"""Bytes of audio heard at a time, so that one large event does not hold up others."""
CHUNK = 1024
"""Samples of one event of speech, as everybody sends them."""
TOGETHER = 16
"""Events of speech that are written at once."""


class WyomingClient(Protocol):
    """Who asks."""

    async def send(self, *events: WyomingEvent) -> None: ...

    async def take(self) -> WyomingEvent:
        """The next event."""

    def put_back(self, event: WyomingEvent) -> None:
        """It is the next again."""


class WyomingHandler:
    """One client's, one after another."""

    def __init__(self, appliance: Appliance, client: WyomingClient) -> None:
        self._appliance = appliance
        self._client = client
        self._asked = wire.Transcribe()
        self._hears = self._transcribe
        """What sound is meant for: what was asked for last, `transcribe` or `detect`."""
        self._handlers: dict[str, Callable[[WyomingEvent], Awaitable[None]]] = {
            "describe": self._describe,
            "select-program": self._select,
            "transcribe": self._ask_transcript,
            "detect": self._ask_detection,
            "audio-start": self._hear,
            "audio-chunk": self._misplaced,
            "audio-stop": self._pass,
            "transcript": self._reply,
            "synthesize": self._synthesize,
            "synthesize-start": self._synthesize_stream,
            "synthesize-chunk": self._misplaced,
            "synthesize-stop": self._misplaced,
        }

    async def answer(self, event: WyomingEvent) -> None:
        """Raises ChatapiError, after which nothing more is to be answered."""
        await self._handlers[event.type](event)

    async def _describe(self, event: WyomingEvent) -> None:
        await self._client.send(WyomingEvent("info", await info(self._appliance)))

    async def _select(self, event: WyomingEvent) -> None:
        name = wire.read(wire.Program, event).name
        if name != PROGRAM:
            raise Unprocessable(f"there is no program {name!r}; there is {PROGRAM}", code="unknown_program")

    async def _pass(self, event: WyomingEvent) -> None:
        """An end of sound that has ended already harms nobody."""

    async def _misplaced(self, event: WyomingEvent) -> None:
        first = "audio-start" if event.type == "audio-chunk" else "synthesize-start"
        raise Unprocessable(f"{event.type} comes before {first}", code="unexpected_event")

    async def _ask_transcript(self, event: WyomingEvent) -> None:
        asked = wire.read(wire.Transcribe, event)
        self._appliance.transcriber.language(asked.short)
        active = self._appliance.active.get("asr", self._appliance.settings.asr.engine)
        if asked.name not in (None, "", active):
            raise Unprocessable(f"there is no model {asked.name!r}; there is {active}", code="unknown_model")
        self._asked, self._hears = asked, self._transcribe

    async def _ask_detection(self, event: WyomingEvent) -> None:
        names = wire.read(wire.Detect, event).names
        if not has_wake_word(self._appliance):
            raise WrongMode("the box has no wake word; `chatapi models list` shows those to fetch", code="no_wake_word")
        await self._appliance.engines.wake_word.open()
        if names and wake_word(self._appliance) not in names:
            raise Unprocessable(
                f"there is no wake word {names[0]!r}; there is {wake_word(self._appliance)}", code="unknown_wake_word"
            )
        self._hears = self._detect

    async def _hear(self, event: WyomingEvent) -> None:
        try:
            async with aclosing(self._sound(event)) as sound:
                await self._hears(sound)
        except ClientDisconnected:
            return

    async def _sound(self, start: WyomingEvent) -> AsyncGenerator[tuple[Samples, int | float | None], None]:
        """16 kHz mono up to audio-stop, with the time its sender gave it. Raises Abandoned."""
        form = wire.read(wire.PcmFormat, start)
        pcm = Pcm(form.rate, form.width, form.channels)
        while True:
            event = await self._client.take()
            if event.type == "audio-chunk":
                chunk = wire.read(wire.PcmFormat, event)
                if (chunk.rate, chunk.width, chunk.channels) != (form.rate, form.width, form.channels):
                    raise Unprocessable("audio-chunk has another format than its audio-start", code="bad_audio")
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

    async def _transcribe(self, sound: AsyncIterator[tuple[Samples, int | float | None]]) -> None:
        asked, text, language = self._asked, "", None
        context = {"context": asked.context} if asked.context is not None else {}
        async with self._appliance.transcription_service.transcribe_stream(_samples(sound), asked.short) as found:
            async for transcript in found:
                if not text:
                    language = transcript.language
                    await self._client.send(WyomingEvent("transcript-start", {"language": language, **context}))
                more = f" {transcript.text}" if text else transcript.text
                text += more
                await self._client.send(WyomingEvent("transcript-chunk", {"text": more}))
        spoken = {"language": language} if language else {}
        start = () if text else (WyomingEvent("transcript-start", context),)
        final = WyomingEvent("transcript", {"text": text, **spoken, **context})
        await self._client.send(*start, final, WyomingEvent("transcript-stop"))

    async def _detect(self, sound: AsyncIterator[tuple[Samples, int | float | None]]) -> None:
        """For as long as sound comes, which may be for ever."""
        listener, heard, detected = WakeWordListener(self._appliance.engines.wake_word.engine), 0, False
        async for samples, timestamp in sound:
            for at in listener.detections(samples):
                when = round((heard + at) * 1000 / RATE) if timestamp is None else timestamp
                detected = True
                await self._client.send(
                    WyomingEvent("detection", {"name": wake_word(self._appliance), "timestamp": when})
                )
            heard += len(samples)
        if not detected:
            await self._client.send(WyomingEvent("not-detected"))

    async def _reply(self, event: WyomingEvent) -> None:
        """A whole turn of a conversation, which follow-ups go on with by their context."""
        asked = wire.read(wire.TranscriptRequest, event)
        turn = Turn(prompt=asked.text, conversation=asked.conversation or None, create_missing=True)
        context, text = dict(asked.context or {}), ""
        stop: tuple[WyomingEvent, ...] = ()
        try:
            async with self._appliance.completions.run(turn) as events:
                async for happened in events:
                    if isinstance(happened, TurnStarted):
                        context["conversation_id"] = happened.conversation
                        await self._client.send(WyomingEvent("handled-start", {"context": context}))
                        stop = (WyomingEvent("handled-stop"),)
                    elif isinstance(happened, TextDelta):
                        text += happened.text
                        await self._client.send(WyomingEvent("handled-chunk", {"text": happened.text}))
        except ChatapiError as error:
            self._appliance.metrics.errors.labels(error.code).inc()
            await self._client.send(WyomingEvent("not-handled", {"text": error.message, "context": context}), *stop)
            return
        await self._client.send(WyomingEvent("handled", {"text": text.rstrip(), "context": context}), *stop)

    async def _synthesize(self, event: WyomingEvent) -> None:
        wanted = wire.read(wire.Synthesize, event)
        voice = self._voice(wanted)
        self._check_length(len(wanted.text))
        await self._speak(_one(wanted.text), voice)

    async def _synthesize_stream(self, event: WyomingEvent) -> None:
        voice = self._voice(wire.read(wire.SynthesizeStart, event))
        async with aclosing(self._written()) as text:
            await self._speak(text, voice)
        await self._client.send(WyomingEvent("synthesize-stopped"))

    async def _written(self) -> AsyncGenerator[str, None]:
        """Text up to synthesize-stop, as it comes."""
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
                # That one repeats the text for servers that know no pieces of it.
                raise Unprocessable(f"{event.type} comes before synthesize-stop", code="unexpected_event")

    def _voice(self, wanted: wire.SynthesizeStart) -> Voice:
        wire.as_text(wanted)
        asked = wanted.voice or wire.VoiceWanted()
        if asked.speaker:
            raise Unprocessable(
                f"there is no speaker {asked.speaker!r}; every voice here has one alone", code="unknown_speaker"
            )
        return self._appliance.synthesis.voice(asked.name, asked.short or "")

    def _check_length(self, size: int) -> None:
        most = self._appliance.settings.limits.prompt_chars
        if size > most:
            raise TooLarge(f"the text has more than {most} characters, the most that are taken", code="text_too_long")

    async def _speak(self, text: AsyncIterator[str], voice: Voice) -> None:
        """One stretch of sound, which begins while the text may still be coming."""
        begun = False
        async with self._appliance.speech_service.synthesize_stream(text, voice) as spoken:
            async for audio in spoken:
                form = {"rate": audio.rate, "width": 2, "channels": 1}
                if not begun:
                    await self._client.send(WyomingEvent("audio-start", form))
                    begun = True
                for events in _chunks(audio):
                    await self._client.send(*events)
        await self._client.send(WyomingEvent("audio-stop"))


def _chunks(audio: Audio) -> list[list[WyomingEvent]]:
    """The sound in events, those together that are written at once."""
    form, data, size = {"rate": audio.rate, "width": 2, "channels": 1}, audio.pcm16(), 2 * CHUNK
    events = [WyomingEvent("audio-chunk", form, data[first : first + size]) for first in range(0, len(data), size)]
    return [events[first : first + TOGETHER] for first in range(0, len(events), TOGETHER)]


async def _samples(sound: AsyncIterator[tuple[Samples, int | float | None]]) -> AsyncIterator[Samples]:
    async for samples, _ in sound:
        yield samples


async def _one(text: str) -> AsyncIterator[str]:
    yield text
