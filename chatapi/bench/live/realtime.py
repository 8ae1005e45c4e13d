"""Realtime transport: a server in a process of its own, used over its WebSocket as other programs do."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import numpy as np

from chatapi.audio import RATE, Audio, Resampled, Samples
from chatapi.bench import Row
from chatapi.bench.live.acoustics import microphone
from chatapi.bench.live.harness import (
    BLOCK,
    HISS,
    MAX_TOKENS,
    BlockClock,
    ContinuousHarness,
    Harness,
    Microphone,
    blocks_of,
)
from chatapi.errors import InternalError, collapse_exception_group
from chatapi.events import (
    Failed,
    Interrupted,
    LiveEvent,
    ResponseStarted,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Transcript,
    TurnEnded,
    TurnTimings,
)
from chatapi.interfaces.audio_device.realtime_link import Event, RealtimeAddress, RealtimeLink, open_link

WIRE = 24_000
"""Sample rate on the wire, in Hz, 16 bits each."""
REPORT = 0.05
"""Played audio between two reports of the playback position, in seconds."""


class Wire:
    """Translates the server's Realtime events to live events. `now` is the time of the event, in seconds."""

    def __init__(self) -> None:
        self.response = ""
        """Id of the response that may be played; empty when it has ended or was interrupted."""
        self._item = ""
        """Id of the item of the newest answer; when it is deleted, the answer is retracted."""
        self._transcript = ""
        self._stopped = 0.0
        self._ended: TurnEnded | None = None
        """The end of a turn whose timings are still to come."""

    def take(self, event: Event, now: float) -> Iterator[LiveEvent]:
        kind = event["type"]
        if kind.startswith("response."):
            yield from self._answer(kind.removeprefix("response."), event)
        elif kind.startswith("chatapi."):
            yield from self._extension(kind.removeprefix("chatapi."), event, now)
        elif kind == "conversation.item.deleted" and event["item_id"] == self._item:
            self.response = self._item = ""
            yield Interrupted(0.0, "", retracted=True)
        elif kind == "conversation.item.input_audio_transcription.completed":
            self._transcript = event["transcript"]
            yield Transcript(self._transcript)
        elif kind == "error":
            yield Failed(InternalError(event["error"]["message"]))
        else:
            yield from self._hearing(kind.removeprefix("input_audio_buffer."), event)

    def _hearing(self, kind: str, event: Event) -> Iterator[LiveEvent]:
        if kind == "speech_started":
            yield SpeechStarted(event["audio_start_ms"] / 1000)
        elif kind == "speech_stopped":
            # The next event tells whether it was speech.
            self._stopped = event["audio_end_ms"] / 1000
        elif kind in ("committed", "cleared"):
            yield SpeechStopped(self._stopped, answered=kind == "committed")

    def _extension(self, kind: str, event: Event, now: float) -> Iterator[LiveEvent]:
        if kind == "output_audio.paused":
            yield SpeechStarted(now, during_answer=True)
        elif kind == "output_audio.resumed":
            yield Resumed()
        elif kind == "transcript.partial":
            yield Transcript(event["text"], final=False)
        elif kind == "timings" and self._ended is not None:
            ended, self._ended = replace(self._ended, timings=TurnTimings(**event["timings"])), None
            yield ended
        elif kind == "interrupted":
            self.response = ""
            yield Interrupted(0.0, event["text"])

    def _answer(self, kind: str, event: Event) -> Iterator[LiveEvent]:
        if kind == "created":
            self.response, transcript, self._transcript = event["response"]["id"], self._transcript, ""
            yield ResponseStarted(transcript)
        elif kind == "output_item.added":
            self._item = event["item"]["id"]
        elif kind == "output_audio_transcript.delta":
            yield TextDelta(event["delta"])
        elif kind == "output_audio.delta" and event["response_id"] == self.response:
            ints = np.frombuffer(base64.b64decode(event["delta"]), "<i2")
            yield Speech(Audio(ints.astype(np.float32) / np.float32(32768), WIRE), "")
        elif kind == "done":
            response = event["response"]
            # A cancelled response is reported as interrupted or retracted.
            if response["status"] != "cancelled":
                self._ended = TurnEnded(response["conversation_id"], response["status"])


class RealtimeHarness(BlockClock, ContinuousHarness):
    """A client with a microphone that is always on; the clock counts the samples sent."""

    def __init__(self, link: RealtimeLink, microphone: Microphone, random: np.random.Generator) -> None:
        BlockClock.__init__(self)
        ContinuousHarness.__init__(self)
        self._link = link
        self._microphone = microphone
        self._random = random
        self._wire = Wire()
        self._outgoing = Resampled(RATE, WIRE)
        self._incoming = Resampled(WIRE, RATE)
        self._pending: list[Samples] = []
        self._reported: tuple[str, int] = ("", 0)

    async def _speak(self, sound: Samples) -> float:
        start = self.now
        self._pending += blocks_of(sound)
        while self._pending:
            await self._next()
        return start

    async def send(self) -> None:
        """Send the microphone's audio, a block every 20 ms, forever."""
        begun = time.perf_counter()
        while True:
            speech = self._pending.pop(0) if self._pending else np.zeros(BLOCK, np.float32)
            hiss = self._random.normal(0, HISS, BLOCK).astype(np.float32)
            signal = self._microphone(np.clip(speech + hiss, -1, 1), self._speaker.block())
            self._blocks += 1
            ready = self._outgoing.feed(signal)
            if len(ready):
                sound = base64.b64encode(Audio(ready, WIRE).pcm16()).decode()
                await self._link.send("input_audio_buffer.append", audio=sound)
            await self._report()
            await anyio.sleep(max(0.0, begun + self.now - time.perf_counter()))
            self.tick()

    async def receive(self) -> None:
        """Receive the server's events. Raises WaitAndRetry (gone) when the connection is lost."""
        async for received in self._link.events():
            for event in self._wire.take(received, self.now):
                self._happened(event)
            if received["type"] == "response.output_audio.done" and received["response_id"] == self._wire.response:
                self._speaker.play(self._incoming.finish())

    def _happened(self, event: LiveEvent) -> None:
        self.events.append((self.now, event))
        self._speaker.apply(event)
        if isinstance(event, ResponseStarted):
            self._speaker.clear()
            self._incoming = Resampled(WIRE, RATE)
        elif isinstance(event, Speech):
            self._speaker.play(self._incoming.feed(event.audio.samples))

    async def _report(self) -> None:
        """Report the playback position when it has changed enough, and at the end."""
        response, played = self._wire.response, round(self._speaker.played / RATE * 1000)
        far = self._reported[0] != response or abs(played - self._reported[1]) >= REPORT * 1000
        if response and (far or (played != self._reported[1] and not self._speaker.busy)):
            self._reported = (response, played)
            await self._link.send("chatapi.played", audio_end_ms=played, response_id=response)


class RealtimeTransport:
    """WebSocket connections to a server."""

    def __init__(self, at: RealtimeAddress) -> None:
        self._place = at

    @asynccontextmanager
    async def open_harness(
        self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS
    ) -> AsyncIterator[Harness]:
        """A harness with a connection of its own. Raises the errors of `open_link`."""
        try:
            async with open_link(self._place, None) as link, anyio.create_task_group() as group:
                session: dict[str, Any] = {
                    "type": "realtime", "chatapi": {"pausing": True}, "max_output_tokens": most
                }  # fmt: skip
                await link.send("session.update", session=session)
                made = RealtimeHarness(link, microphone(echo, seed), np.random.default_rng(seed))
                group.start_soon(made.receive)
                group.start_soon(made.send)
                yield made
                group.cancel_scope.cancel()
        except Exception as error:
            # Errors of a scenario must not be wrapped by the task group.
            raise collapse_exception_group(error) from None

    async def rows(self) -> list[Row]:
        """No rows: this transport adds nothing."""
        return []
