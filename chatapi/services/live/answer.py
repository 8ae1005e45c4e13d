"""One answer of a live session: generated, held until the turn is over, played, or cancelled by barge-in."""

from __future__ import annotations

import logging
import secrets
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
    TextWithdrawn,
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
from chatapi.services.turns.run import limit_duration

log = logging.getLogger(__name__)

Send = Callable[[LiveEvent], Awaitable[None]]
PREFILL_SECONDS = 0.15
"""Longest wait for the model to process a prompt, in seconds."""
DELAY_PHRASE_SECONDS = 4.0
"""Time without audio after which the delay phrase is spoken, in seconds."""


class Answer:
    """Generates text and speech in `run`; holds its events until `release`."""

    number: int | None = None
    """Number of its exchange in the history; None: not stored yet."""
    withdrawn = False
    """Whether it was removed from the history, because its turn continues or nothing of it was played."""
    preemptive = False
    """Whether it was started before the end of the turn was certain."""
    error_code = ""
    """Code of the error that it ended with."""

    def __init__(
        self,
        generator: Generator,
        prompt: Question,
        asked: str,
        generation_options: GenerationOptions,
        since: float,
        error: ChatapiError | None = None,
    ) -> None:
        """`prompt` is the request with its context. With `error`, which was already sent, it is a failure phrase.

        `since` is the time from which its timings count, on the monotonic clock.
        """
        self.id = f"resp_{secrets.token_hex(10)}"
        self.asked = asked
        self.prompt = prompt
        self.calls: tuple[ToolCall, ...] = ()
        """Tool calls that were sent."""
        self.playback = PlaybackPosition()
        self.done = False
        """Whether no more events follow."""
        self.released = self.cancelled = False
        self.timings = TurnTimings()
        self._error = error
        self._cancel_reason = "interrupted"
        self._usage = TokenUsage()
        self._generator = generator
        self._go = anyio.Event()
        self._generation_options = replace(generation_options, confirmed=self._go)
        self._since = since
        self._held: list[Event] = []
        self._send: Send | None = None
        self._clock: Callable[[], float] = lambda: 0.0
        self._scope, self._delay_scope = anyio.CancelScope(), anyio.CancelScope()
        self._audio_sent, self._prefilled = anyio.Event(), anyio.Event()

    async def run(
        self, on_finished: Callable[[Answer, Generation[Question]], Awaitable[None]], max_seconds: float
    ) -> None:
        """Generates the answer; a failure is sent and spoken. Awaits `on_finished` before it sends TurnEnded.

        `max_seconds`: longest time from here to the end of the generation, in seconds.
        """
        with self._scope:
            if self._error is not None:
                await self._speak_failure(self._error)
                return
            try:
                with limit_duration(max_seconds):
                    generation = await self._generator.generate(
                        self.prompt, self._generation_options, self._hold_or_send, self.mark
                    )
            except Exception as error:
                await self._fail(error)
                return
            await self._go.wait()
            self.timings = replace(self.timings, spoken=generation.speech_seconds)
            self.mark("end")
            await on_finished(self, generation)
            self.done = True
            self._usage = usage = generation.last.usage or TokenUsage()
            tokens = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            reason = generation.last.finish_reason or "stop"
            conversation = self.prompt.conversation_state.id
            await self._send_event(TurnEnded(conversation, reason, *tokens, timings=self.timings))

    async def release(self, send: Send, clock: Callable[[], float]) -> None:
        """Sends the events held so far, and all later ones at once: the turn is over."""
        self._send, self._clock, self.released = send, clock, True
        await send(ResponseStarted(self.asked, self.id))
        while self._held:
            await self._send_event(self._held.pop(0))
        self._go.set()

    @property
    def text_only(self) -> bool:
        """Whether it is complete and has no audio."""
        return self.done and not self.playback.seconds

    async def wait_for_prefill(self) -> None:
        """Waits for the first token, for PREFILL_SECONDS at most."""
        with anyio.move_on_after(PREFILL_SECONDS):
            await self._prefilled.wait()

    async def announce_delay(self) -> None:
        """Speaks the delay phrase if there is no audio within DELAY_PHRASE_SECONDS."""
        with self._delay_scope:
            with anyio.move_on_after(DELAY_PHRASE_SECONDS):
                await self._audio_sent.wait()
                return
            if not self.done and self._generation_options.voice is not None:
                await self._speak(fallback_phrases.delay_phrase)

    def cancel(self, reason: str = "interrupted") -> None:
        """Stops the generation. `reason` becomes the result of the turn's record."""
        self._scope.cancel()
        self._delay_scope.cancel()
        self._cancel_reason = reason
        self.cancelled = self.cancelled or not self.done
        self.done = True

    def record(self) -> TurnRecord:
        """Returns the record of the turn, for metrics and tracing."""
        result = self.error_code or ("ok" if self.done else "disconnected")
        return TurnRecord(
            kind="live",
            input="voice",
            reply="text" if self._generation_options.voice is None else "voice",
            result=self._cancel_reason if self.cancelled else result,
            since=self._since,
            timings=self.timings,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            cached_tokens=self._usage.cached_tokens,
        )

    def mark(self, stage: str) -> None:
        """Stores the time of a stage when it is reached first."""
        if stage == "first_token":
            self._prefilled.set()
        if getattr(self.timings, stage) is None:
            self.timings = replace(self.timings, **{stage: time.monotonic() - self._since})

    async def _hold_or_send(self, event: Event) -> None:
        if self._send is None or self._held:
            self._held.append(event)
        else:
            await self._send_event(event)

    async def _send_event(self, event: Event) -> None:
        assert self._send is not None  # noqa: S101 - released
        if isinstance(event, Speech):
            self.playback.add(event, self._clock())
            self._audio_sent.set()
        elif isinstance(event, TextWithdrawn):
            self.playback.withdraw()
        elif isinstance(event, ToolCalls):
            self.calls += event.calls
        if isinstance(event, (TextDelta, TextWithdrawn, Speech, ToolCalls, TurnEnded)):
            event = replace(event, response=self.id)
        await self._send(event)

    async def _fail(self, raised: Exception) -> None:
        error = collapse_exception_group(raised)
        if isinstance(error, ChatapiError):
            known = error
        else:
            log.error("the answer failed", exc_info=error)
            known = EngineFailed("the answer failed; the log says why")
        await self._go.wait()
        assert self._send is not None  # noqa: S101 - released
        await self._send(Failed(known))
        await self._speak_failure(known)

    async def _speak_failure(self, error: ChatapiError) -> None:
        """Speaks the failure phrase and ends the turn."""
        self.error_code = error.code
        await self._go.wait()
        if self._generation_options.voice is not None:
            await self._speak(fallback_phrases.failure_phrase)
        self.done = True
        await self._send_event(TurnEnded(self.prompt.conversation_state.id, "failed", timings=self.timings))

    async def _speak(self, phrase: Callable[[str], str]) -> None:
        """Speaks a phrase without the model."""
        voice, options, synthesis = self._generation_options.voice, self._generation_options, self._generator.synthesis
        assert voice is not None  # noqa: S101 - checked by the callers
        sentence = phrase(voice.language)

        async def pieces() -> AsyncIterator[str]:
            yield sentence

        await self._send_event(TextDelta(f"{sentence} "))
        try:
            async with aclosing(
                synthesis.synthesize_sentences(pieces(), voice, options.priority, options.speed)
            ) as speech:
                async for part in speech:
                    await self._send_event(part)
        except ChatapiError as error:
            log.warning("fallback phrase not spoken: %s", error.message)
