"""The answers of a live session: generates, releases, interrupts, retracts and stores them."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from chatapi.audio import RATE
from chatapi.engines import TokenUsage
from chatapi.errors import ChatapiError
from chatapi.events import Interrupted, LiveEvent, Resumed, ToolCalls
from chatapi.runtime.admission import Priority
from chatapi.services.live import prompt_annotations
from chatapi.services.live.answer import Answer, Send
from chatapi.services.live.barge_in import BargeIn
from chatapi.services.live.context import ConversationContext
from chatapi.services.live.items import ConversationItems
from chatapi.services.live.options import SessionOptions, SessionOrigin, check_system
from chatapi.services.live.tool_calls import SessionTools
from chatapi.services.live.turn_tracker import TurnTracker
from chatapi.services.turns.generation import Generation, GenerationOptions
from chatapi.services.turns.prompts import Question
from chatapi.storage.history import ToolResult

if TYPE_CHECKING:
    from chatapi.services.live import LiveConversations

UNPLAYED_SECONDS = 0.1
"""Playback that a user does not notice, in seconds."""
RECENT_ANSWERS = 16
"""Answers that can be found by their id: an interface may be some events behind."""


class Responder:
    """Holds the current answer of one session and the texts that wait for an answer."""

    def __init__(
        self,
        live: LiveConversations,
        group: TaskGroup,
        context: ConversationContext,
        items: ConversationItems,
        tracker: TurnTracker,
        barge_in: BargeIn,
        send: Send,
        origin: SessionOrigin,
    ) -> None:
        self.options = SessionOptions()
        self.context = context
        self.tools = SessionTools(live.generator, live.settings)
        self.answer: Answer | None = None
        """The last answer, unless it was interrupted."""
        self.during_answer = False
        """Whether the current utterance began during the answer."""
        self.pending: list[str] = []
        """User texts without an answer."""
        self._pending_before: list[str] = []
        """What was pending before the last turn, in case that turn continues."""
        self._answer_owed = False
        """Whether a pending text was spoken, and its answer interrupted before it was played."""
        self._recent: deque[Answer] = deque(maxlen=RECENT_ANSWERS)
        self._items = items
        self._live = live
        self._group = group
        self._tracker, self._detector = tracker, tracker.detector
        self._barge_in = barge_in
        self._send = send
        self._origin = origin
        self._prefill = anyio.CancelScope()
        """The scope of a prefill in the background; what it has processed stays in the model's cache."""
        self._storing = anyio.Lock()
        """Held while an answer is stored, so that it is stored once."""

    @property
    def seconds(self) -> float:
        """Audio received, in seconds."""
        return self._detector.clock / RATE

    @property
    def playing(self) -> bool:
        """Whether the answer is being played."""
        answer = self.answer
        return answer is not None and answer.released and answer.playback.audible(self.seconds)

    @property
    def answer_unplayed(self) -> bool:
        """Whether there is an answer of which nothing has been played."""
        answer = self.answer
        if answer is None or not answer.released or answer.calls or answer.prompt.results or answer.text_only:
            # A client that got a tool call or text has received the answer without audio.
            return False
        return answer.playback.played(self.seconds) < UNPLAYED_SECONDS

    @property
    def system(self) -> str | None:
        """The system prompt with the texts of the system items; None: that of the settings."""
        if not self._items.system:
            return self.options.system
        default = self._live.settings.llm.system_prompt
        return self.with_system_items(default if self.options.system is None else self.options.system)

    def with_system_items(self, system: str) -> str:
        """A system prompt followed by the texts of the system items."""
        return "\n\n".join([system, *self._items.system])

    def find_answer(self, answer_id: str) -> Answer | None:
        """One of the last RECENT_ANSWERS answers, also if it was interrupted."""
        return next((answer for answer in self._recent if answer.id == answer_id), None)

    def prompt(self, asked: str, results: tuple[ToolResult, ...] | None = None) -> Question:
        """Returns the prompt for this request, with the pending tool results unless others are given."""
        system = self.system if self.system is not None else self._live.settings.llm.system_prompt
        state = self.context.conversation_state
        conversation_state = replace(prompt_annotations.annotated(state), system=system)
        request = prompt_annotations.annotated_request(asked, state)
        return self._live.generator.question(
            conversation_state, request, self.tools.results if results is None else results
        )

    async def respond(self, asked: str | None, options: SessionOptions | None) -> None:
        """Answers this text, or the pending ones; `options` apply to this answer only."""
        session_options = self.options
        if options is not None:
            check_system(options, self._live.settings.limits)
            self.tools.check(options.sampling)
            self.options = options
        try:
            text = asked if asked is not None else " ".join(self.pending)
            self.pending, self._answer_owed = [], False
            await self._start(text, time.monotonic())
            self.tools.clear_results()
            await self._release()
        finally:
            self.options = session_options

    async def respond_to_turn(self, text: str) -> None:
        """Answers the pending texts and this one at the end of a turn."""
        await self._start(" ".join([*self.pending, text]), self._tracker.last_speech_at)
        self._pending_before, self.pending, self._answer_owed = self.pending, [], False
        self.tools.clear_results()
        await self._release()

    async def start_preemptive(self, text: str) -> None:
        """Starts the answer to a turn that may be over; it is held until the turn is over."""
        await self._start(" ".join([*self.pending, text]), self._tracker.last_speech_at, preemptive=True)

    def cancel_preemptive(self) -> None:
        """Cancels an answer that is not released."""
        if self.answer is not None and not self.answer.released:
            self.answer.cancel()
            self.answer = None

    async def continue_after_dismissal(self, answer: Answer | None, error: ChatapiError | None) -> None:
        """Resumes this answer, or gives the one that is owed; speaks the failure phrase after an `error`."""
        if answer is not None:
            await self.resume(answer)
        elif self._answer_owed and self.options.answer:
            await self.respond(None, None)
        elif error is not None and self.options.answer:
            await self._start("", time.monotonic(), error=error)
            await self._release()

    async def resume(self, answer: Answer | None) -> None:
        """Resumes an answer that was paused."""
        if answer is not None:
            answer.playback.resume(self.seconds)
            self._live.metrics.interruptions.labels("resumed").inc()
            await self._send(Resumed())

    async def cancel(self, only: Answer | None, kind: str) -> bool:
        """Cancels the answer, or `only` this one if it is still the current one. Returns False when there is none."""
        answer = self.answer
        if answer is None or only not in (None, answer):
            return False
        if answer.done and not answer.playback.audible(self.seconds):
            return False
        await self.interrupt(answer, kind)
        return True

    async def interrupt(self, answer: Answer, kind: str = "interrupted") -> None:
        """Stops an answer and stores the part that was played."""
        played = answer.playback.played(self.seconds)
        text = answer.playback.words_of_answer(played)
        is_request = answer.asked not in ("", prompt_annotations.SILENCE_NOTE)
        owed = kind == "interrupted" and self.answer_unplayed and is_request
        answer.cancel()
        answer.playback.stop(self.seconds)
        self.during_answer, self.answer = False, None
        if not answer.released:
            return
        self._live.metrics.interruptions.labels(kind).inc()
        if owed:
            self.pending, self._answer_owed = [answer.asked, *self.pending], True
        # Resumed speech cancels the decode that got here, but not this.
        with anyio.CancelScope(shield=True):
            await self._send(Interrupted(played, text, response=answer.id))
            await (self._remove(answer) if owed else self.truncate(answer, text))

    async def retract(self, answer: Answer) -> None:
        """Removes an answer of which nothing was played: its turn continues."""
        answer.cancel("retracted")
        answer.playback.stop(self.seconds)
        self._live.metrics.interruptions.labels("retracted").inc()
        self.answer = None
        self.pending, self._pending_before = self._pending_before, []
        await self._send(Interrupted(0.0, "", retracted=True, response=answer.id))
        await self._remove(answer)

    async def truncate(self, answer: Answer, text: str) -> None:
        """Stores that only this text of an answer was played."""
        await self._store(answer, f"{text} {prompt_annotations.INTERRUPTED_MARK}".lstrip())

    def cancel_prefill(self) -> None:
        """Cancels the prefill in the background."""
        self._prefill.cancel()

    async def _start(
        self, asked: str, since: float, preemptive: bool = False, error: ChatapiError | None = None
    ) -> None:
        """Starts an answer, which is held until release; with `error`, one that speaks the failure phrase."""
        # Another answer may start while one is interrupted.
        while (current := self.answer) is not None and not (current.released and current.done):
            if not current.released:
                if (current.asked, current.prompt.results, error) == (asked, self.tools.results, None):
                    return
                current.cancel()
                break
            if preemptive:
                return
            await self.interrupt(current)
        self.answer = Answer(
            self._live.generator, self.prompt(asked), asked, self._generation_options(asked), since, error
        )
        self.answer.preemptive = preemptive
        self._recent.append(self.answer)
        self.answer.mark("transcript")
        self._group.start_soon(self._run, self.answer)

    def _generation_options(self, asked: str) -> GenerationOptions:
        options = self.options
        language = options.language or self._detector.detected_language
        return GenerationOptions(
            self._live.synthesis.voice_now(options.voice, language) if options.speak else None, options.max_tokens,
            options.temperature, sampling=options.sampling, speed=options.speed, priority=Priority.LIVE,
            script=asked if options.reads_aloud else None,
        )  # fmt: skip

    async def _run(self, answer: Answer) -> None:
        live, metrics = self._live, self._live.metrics
        try:
            async with live.conversations.turn(self.context.conversation_state.id) as waited:
                if waited:
                    # The turn that held the conversation has added an exchange.
                    answer.prompt = self.prompt(answer.asked, answer.prompt.results)
                with live.admission.entered(), metrics.active.track_inprogress():
                    answer.mark("admitted")
                    await answer.run(self._on_finished, live.settings.limits.turn_seconds)
        finally:
            if answer.preemptive:
                metrics.guesses.labels("used" if answer.released else "dropped").inc()
            if answer.released:
                metrics.turn(replace(answer.record(), traceparent=self._origin.traceparent))

    async def _release(self) -> None:
        answer = self.answer
        if answer is not None and not answer.released:
            answer.mark("endpoint")
            self._barge_in.watch(answer.playback)
            self._group.start_soon(answer.announce_delay)
            await answer.release(self._send_event, lambda: self.seconds)

    async def _send_event(self, event: LiveEvent) -> None:
        if isinstance(event, ToolCalls):
            self.tools.add_calls(event.calls)
        await self._send(event)

    async def _on_finished(self, answer: Answer, generation: Generation[Question]) -> None:
        """Stores a complete answer, as if all of it had been played."""
        # Shielded: a barge-in waits until the exchange has a number, and then amends it.
        with anyio.CancelScope(shield=True):
            if generation.prompt is not answer.prompt:
                # The prompt was shortened. Otherwise exchanges that were added meanwhile would be lost.
                self.context.trim_to(generation.prompt.conversation_state)
            await self._store(answer, generation.reply)
        if generation.last.usage is not None:
            self._group.start_soon(self._make_room, generation.last.usage)

    async def _make_room(self, usage: TokenUsage) -> None:
        """Trims the context that the next turn would overflow, and processes the shorter prompt in the background: a
        model processes all of a prompt whose beginning changed."""
        options, prompt = self.options, self.prompt("Hello")
        generation_options = GenerationOptions(max_tokens=options.max_tokens, sampling=options.sampling)
        shortened = self._live.generator.shortened_for_next(prompt, generation_options, usage)
        if shortened is not prompt:
            self.context.trim_to(shortened.conversation_state)
            with anyio.CancelScope() as self._prefill:
                prompt = self.prompt("Hello")
                await self._live.generator.end_of_turn_probability(prompt, options.sampling, Priority.BULK)

    async def _store(self, answer: Answer, text: str) -> None:
        """Adds an answer to the history, or amends it."""
        async with self._storing:
            if answer.number is None:
                results = answer.prompt.results
                answer.number = await self.context.add(self.system, answer.asked, text, results)
            else:
                await self.context.amend(answer.number, text)

    async def _remove(self, answer: Answer) -> None:
        """Removes an answer from the history."""
        answer.withdrawn = True
        async with self._storing:
            if answer.number is not None:
                await self.context.remove(answer.number)
