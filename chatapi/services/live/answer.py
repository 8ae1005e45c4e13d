"""One answer of a live conversation: begun on a guess, held back until the turn is over, given up when interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

import anyio

from chatapi.engines import TokenUsage
from chatapi.errors import ChatapiError, EngineFailed, collapse_exception_group
from chatapi.events import (
    Event,
    Failed,
    LiveEvent,
    ResponseStarted,
    Speech,
    TextDelta,
    ToolCall,
    ToolCalls,
    TurnEnded,
    TurnRecord,
    TurnTimings,
)
from chatapi.services.live import fallback_phrases
from chatapi.services.live.playback import PlaybackPosition
from chatapi.services.turns.generation import Generation, GenerationOptions, Generator
from chatapi.services.turns.prompts import Question

log = logging.getLogger(__name__)

Send = Callable[[LiveEvent], Awaitable[None]]
READING = 0.15
"""Seconds a model is given to read a prompt before it is no longer waited for."""
PATIENCE = 4.0
"""Seconds without a sound after which it says that it takes longer."""


class Answer:
    """Thinks and speaks in `run`; what it says goes out once `release` was called."""

    def __init__(
        self,
        generator: Generator,
        prompt: Question,
        asked: str,
        generation_options: GenerationOptions,
        since: float,
        fault: ChatapiError | None = None,
    ) -> None:
        """`prompt` is the question as the model gets it. With `fault`, an error already sent, it is an apology."""
        self.asked = asked
        self.prompt = prompt
        self.calls: tuple[ToolCall, ...] = ()
        """Functions it wants called, as far as it went out."""
        self.playback = PlaybackPosition()
        self.number: int | None = None
        """Of its exchange in the history, once it is there."""
        self.over = False
        """Nothing more of it comes."""
        self.released = self.dropped = False
        self.failure = ""
        """Code of the error it ended in."""
        self.guessed = False
        """Whether it was begun before the turn was known to be over."""
        self.timings = TurnTimings()
        self._fault = fault
        self._given_up = "interrupted"
        self._usage = TokenUsage()
        self._answering = generator
        self._going = anyio.Event()
        self._manner = replace(generation_options, confirmed=self._going)
        self._since = since
        self._held: list[Event] = []
        self._send: Send | None = None
        self._clock: Callable[[], float] = lambda: 0.0
        self._scope = anyio.CancelScope()
        self._watching = anyio.CancelScope()
        self._sounding = anyio.Event()
        self._read = anyio.Event()

    async def run(self, ended: Callable[[Answer, Generation[Question]], Awaitable[None]]) -> None:
        """Until it is answered or dropped; what fails is told in words. `ended` is awaited before its TurnEnded."""
        with self._scope:
            if self._fault is not None:
                await self._excused(self._fault)
                return
            try:
                answered = await self._answering.generate(self.prompt, self._manner, self._take, self.mark)
            except Exception as raised:
                await self._failed(raised)
                return
            await self._going.wait()
            self.timings = replace(self.timings, spoken=answered.speech_seconds)
            self.mark("end")
            await ended(self, answered)
            self.over = True
            self._usage = usage = answered.last.usage or TokenUsage()
            counted = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            reason = answered.last.finish_reason or "stop"
            await self._out(TurnEnded(self.prompt.conversation_state.id, reason, *counted, timings=self.timings))

    async def release(self, send: Send, clock: Callable[[], float]) -> None:
        """The turn is over: what there is goes out, and all that follows as it comes."""
        self._send, self._clock, self.released = send, clock, True
        await send(ResponseStarted(self.asked))
        while self._held:
            await self._out(self._held.pop(0))
        self._going.set()

    @property
    def written(self) -> bool:
        """Whether it is whole, and only to be read."""
        return self.over and not self.playback.seconds

    async def reading(self) -> None:
        """Until the model writes, or could have."""
        with anyio.move_on_after(READING):
            await self._read.wait()

    async def watch(self) -> None:
        """Say so when it takes long."""
        with self._watching:
            with anyio.move_on_after(PATIENCE):
                await self._sounding.wait()
                return
            if not self.over and self._manner.voice is not None:
                await self._say(fallback_phrases.slow)

    def drop(self, why: str = "interrupted") -> None:
        """Nobody wants it any more: it was interrupted, or retracted."""
        self._scope.cancel()
        self._watching.cancel()
        self._given_up = why
        self.dropped = self.dropped or not self.over
        self.over = True

    def counted(self) -> TurnRecord:
        """What became of it, once nothing more does."""
        ended = self.failure or ("ok" if self.over else "disconnected")
        return TurnRecord(
            kind="live",
            input="voice",
            reply="text" if self._manner.voice is None else "voice",
            result=self._given_up if self.dropped else ended,
            since=self._since,
            timings=self.timings,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            cached_tokens=self._usage.cached_tokens,
        )

    def mark(self, stage: str) -> None:
        """Note when a stage was first reached."""
        if stage == "first_token":
            self._read.set()
        if getattr(self.timings, stage) is None:
            self.timings = replace(self.timings, **{stage: time.monotonic() - self._since})

    async def _take(self, event: Event) -> None:
        if self._send is None or self._held:
            self._held.append(event)
        else:
            await self._out(event)

    async def _out(self, event: Event) -> None:
        assert self._send is not None  # noqa: S101 - released
        if isinstance(event, Speech):
            self.playback.sent(event, self._clock())
            self._sounding.set()
        elif isinstance(event, ToolCalls):
            self.calls += event.calls
        await self._send(event)

    async def _failed(self, raised: Exception) -> None:
        error = collapse_exception_group(raised)
        if isinstance(error, ChatapiError):
            known = error
        else:
            log.error("the answer failed", exc_info=error)
            known = EngineFailed("the answer failed; the log says why")
        await self._going.wait()
        assert self._send is not None  # noqa: S101 - released
        await self._send(Failed(known))
        await self._excused(known)

    async def _excused(self, error: ChatapiError) -> None:
        """Say that something went wrong."""
        self.failure = error.code
        await self._going.wait()
        if self._manner.voice is not None:
            await self._say(fallback_phrases.sorry)
        self.over = True
        await self._out(TurnEnded(self.prompt.conversation_state.id, "failed", timings=self.timings))

    async def _say(self, phrase: Callable[[str], str]) -> None:
        """A sentence that no model has to think of."""
        voice, generation_options, synthesis = self._manner.voice, self._manner, self._answering.synthesis
        assert voice is not None  # noqa: S101 - asked for by who calls
        sentence = phrase(voice.language)

        async def one() -> AsyncIterator[str]:
            yield sentence

        await self._out(TextDelta(f"{sentence} "))
        try:
            async with aclosing(
                synthesis.synthesize_sentences(one(), voice, generation_options.priority, generation_options.speed)
            ) as speech:
                async for part in speech:
                    await self._out(part)
        except ChatapiError as error:
            log.warning("not even an excuse can be spoken: %s", error.message)
