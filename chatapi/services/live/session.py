"""One live conversation: sound comes in, events go out; turns are answered, answers interrupted and resumed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Samples
from chatapi.engines import PromptMessage, TokenUsage
from chatapi.errors import ChatapiError
from chatapi.events import (
    Failed,
    Interrupted,
    LiveEvent,
    Resumed,
    SpeechStarted,
    SpeechStopped,
    ToolCalls,
)
from chatapi.runtime.admission import Priority
from chatapi.services.live import prompt_annotations
from chatapi.services.live.answer import Answer, Send
from chatapi.services.live.backchannel import LIKENESS, stops
from chatapi.services.live.barge_in import BargeIn, Dismissal, hears_itself, nearly_over
from chatapi.services.live.context import ConversationContext
from chatapi.services.live.idle_timeout import IdleTimeout
from chatapi.services.live.options import SessionOptions, SessionOrigin
from chatapi.services.live.tool_calls import SessionTools
from chatapi.services.live.turn_detector import TurnDetector
from chatapi.services.live.utterance import Utterance
from chatapi.services.turns.generation import Generation, GenerationOptions
from chatapi.services.turns.prompts import Question
from chatapi.storage.history import ConversationState

if TYPE_CHECKING:
    from chatapi.services.live import LiveConversations

UNHEARD = 0.1
"""Seconds of an answer that nobody notices."""


class LiveSession:
    """Made by `LiveConversations.session`. All methods belong to its event loop."""

    def __init__(
        self,
        live: LiveConversations,
        group: TaskGroup,
        memory: ConversationContext,
        options: SessionOptions,
        send: Send,
        origin: SessionOrigin,
    ) -> None:
        self._origin = origin
        self.memory = memory
        self.answer: Answer | None = None
        self.against = False
        self.pending: list[str] = []
        """What was said and not answered yet."""
        self._taken: list[str] = []
        """What was pending when the last turn ended, in case it goes on."""
        self._idleness = IdleTimeout()
        self.functions = SessionTools(live.generator, live.settings)
        self._live = live
        self._group = group
        self._send = send
        self._owed = False
        """Whether what is pending was asked aloud, and its answer given up before anything of it was heard."""
        self._reading = anyio.CancelScope()
        """While the model reads ahead; what it has read by then it keeps."""
        self._writing = anyio.Lock()
        """Held while what an answer said is put into the memory, so that it is put there once."""
        self.options = SessionOptions()
        self._ear = TurnDetector(live.engines, live.transcription, live.settings, group, self)
        self._barge_in = BargeIn(self._ear)
        self.change(options)

    def change(self, options: SessionOptions) -> None:
        """From now on. Raises Unprocessable with the `param`."""
        self.functions.check(options.sampling)
        before, self.options = self.options, options
        if (options.system, options.sampling) != (before.system, before.sampling):
            # Read at once, so that the next turn need not wait for it.
            self._group.start_soon(
                self._live.generator.end_of_turn_probability, self._prompt("Hello"), options.sampling
            )
        if self.against and not options.detect:
            # What is said is ended by hand from now on, and perhaps never: the answer does not wait for that.
            self.against = False
            self._group.start_soon(self._resume, self.answer)
        self._ear.follow(options)

    @property
    def conversation_state(self) -> ConversationState:
        """What is remembered."""
        return self.memory.conversation_state

    def told(self) -> list[PromptMessage]:
        """What the model would be told if it were to answer now; the system's message first."""
        return self._prompt(" ".join(self.pending)).messages()

    @property
    def seconds(self) -> float:
        """Of sound received."""
        return self._ear.clock / RATE

    @property
    def busy(self) -> bool:
        """Whether somebody is speaking, or being answered; an answer's sound may outlast it."""
        return self._ear.utterance is not None or (self.answer is not None and not self.answer.over)

    async def hear(self, samples: Samples) -> None:
        """The next samples, 16 kHz mono, of any number."""
        await self._ear.hear(samples)
        busy = not self.options.answer or self.answer is None or self.busy or self.playing
        if (idle := self._idleness.over(self.seconds, busy, self.options.idle_seconds)) is not None:
            await self._send(idle)
            await self.respond(" ".join(self.pending) or prompt_annotations.SILENT)

    def played(self, seconds: float) -> None:
        """How much of the answer has been heard; who never says so is taken to hear it at once and in real time."""
        if self.answer is not None:
            self.answer.playback.report(seconds, self.seconds)

    async def commit(self) -> bool:
        """The turn is over now. False when nothing was said."""
        return await self._ear.commit()

    def clear(self) -> None:
        """Forget what was said since the last turn."""
        self._ear.clear()
        if self.against and self.answer is not None:
            self.answer.playback.resume(self.seconds)
        self.against = False

    async def respond(self, asked: str | None = None, options: SessionOptions | None = None) -> None:
        """Answer what is pending, or this; `options` are those of this answer alone. Raises as `change` does."""
        usual = self.options
        if options is not None:
            self.functions.check(options.sampling)
            self.options = options
        try:
            text = asked if asked is not None else " ".join(self.pending)
            self.pending, self._owed = [], False
            await self._begin(text, time.monotonic())
            self.functions.take()
            await self._release()
        finally:
            self.options = usual

    async def cancel(self, only: Answer | None = None, kind: str = "cancelled") -> bool:
        """Give up the answer, or `only` this one if it is still the current one. False when there is none."""
        answer = self.answer
        if answer is None or only not in (None, answer):
            return False
        if answer.over and not answer.playback.audible(self.seconds):
            return False
        await self._interrupt(answer, kind)
        return True

    async def broke_off(self, answer: Answer, words: str) -> None:
        """Only these words of it were heard."""
        await self._said(answer, f"{words} {prompt_annotations.BROKEN_OFF}".lstrip())

    # What the ear tells

    @property
    def playing(self) -> bool:
        answer = self.answer
        return answer is not None and answer.released and answer.playback.audible(self.seconds)

    @property
    def unheard(self) -> bool:
        answer = self.answer
        if answer is None or not answer.released or answer.calls or answer.prompt.results or answer.written:
            # Who was asked to call a function heard of the answer without a sound, and who reads has it.
            return False
        return answer.playback.heard(self.seconds) < UNHEARD

    async def begun(self, at: float, again: bool) -> None:
        answer = self.answer
        self.against = False
        self._reading.cancel()
        if answer is not None and again:
            await self._retract(answer)
        elif answer is not None and answer.released and self.options.interrupt:
            # Also while it is thought of: a cough or an "mhm" does not lose it.
            self.against = self.playing or not answer.over
        pauses = self.against and self.playing and not self._barge_in.broken
        if answer is not None and pauses:
            answer.playback.pause(self.seconds)
        self._live.preload()
        await self._send(SpeechStarted(at, pauses))

    def gone_on(self) -> None:
        if self.answer is not None and not self.answer.released:
            self.answer.drop()
            self.answer = None

    async def partly(self, utterance: Utterance, text: str) -> None:
        answer = self.answer
        if self.against and answer is not None and self._barge_in.interrupts(answer, utterance, text):
            await self._interrupt(answer)
        if text and not self.against and self.options.partials:
            await self._send(utterance.transcript(text, self._ear.spoken, final=False))

    async def whole(self, text: str) -> float | None:
        if self.against or not self.options.answer:
            return None
        prompt = self._prompt(" ".join([*self.pending, text]))
        return await self._live.generator.end_of_turn_probability(prompt, self.options.sampling)

    async def guessed(self, utterance: Utterance, text: str) -> None:
        answer = self.answer
        if self.against and answer is not None:
            if not self._barge_in.interrupts(answer, utterance, text, ended=True):
                return
            await self._interrupt(answer)
            if utterance is not self._ear.utterance:
                # It was ended meanwhile, and is being answered.
                return
        if not text or not self.options.answer or stops(text) or self._barge_in.likeness(utterance, text) >= LIKENESS:
            return
        await self._begin(" ".join([*self.pending, text]), self._ear.voiced_at, guess=True)

    async def thinking(self) -> None:
        if self.answer is not None:
            await self.answer.reading()

    async def over(self, utterance: Utterance, text: str) -> bool:
        answer = self.answer
        against, self.against = self.against and answer is not None, False
        if answer is not None and against and self._barge_in.interrupts(answer, utterance, text, ended=True):
            against = False
            await self._interrupt(answer)
        if utterance.fault is not None:
            await self._send(Failed(utterance.fault, during_transcription=True))
        why = self._barge_in.dismissal(answer if against else None, utterance, text)
        if why is Dismissal.HEARS_ITSELF:
            await self._send(Failed(hears_itself(), during_transcription=True))
        if why is not None:
            self._live.metrics.dismissed.labels(why.value).inc()
            self.gone_on()
            await self._send(SpeechStopped(utterance.end, answered=False))
            await self._go_on(answer if against else None, utterance.fault)
            return False
        await self._send(SpeechStopped(utterance.end))
        await self._send(utterance.transcript(text, self._ear.spoken))
        if stops(text):
            self.gone_on()
            return False
        if not self.options.answer:
            self.pending.append(text)
            return False
        await self._begin(" ".join([*self.pending, text]), self._ear.voiced_at)
        self._taken, self.pending, self._owed = self.pending, [], False
        self.functions.take()
        await self._release()
        return True

    async def _go_on(self, answer: Answer | None, fault: ChatapiError | None) -> None:
        """What was heard was nothing to answer: with the answer it was said against, with the one that is owed, or with
        an excuse where it was not understood because of a fault."""
        if answer is not None and (fault is None or not nearly_over(answer, self.seconds)):
            await self._resume(answer)
        elif self._owed and self.options.answer:
            await self.respond()
        elif fault is not None and self.options.answer:
            await self._begin("", time.monotonic(), fault=fault)
            await self._release()

    async def failed(self, error: ChatapiError) -> None:
        await self._send(Failed(error, during_transcription=True))

    async def _resume(self, answer: Answer | None) -> None:
        if answer is not None:
            answer.playback.resume(self.seconds)
            self._live.metrics.interruptions.labels("resumed").inc()
            await self._send(Resumed())

    # Answering

    async def _begin(self, asked: str, since: float, guess: bool = False, fault: ChatapiError | None = None) -> None:
        """Think of an answer, not yet to be heard, or with `fault` of an excuse."""
        # Interrupting takes time, in which another may have begun.
        while (current := self.answer) is not None and not (current.released and current.over):
            if not current.released:
                if (current.asked, current.prompt.results, fault) == (asked, self.functions.results, None):
                    return
                current.drop()
                break
            if guess:
                return
            await self._interrupt(current)
        options = self.options
        language, synthesis = options.language or self._ear.spoken, self._live.synthesis
        generation_options = GenerationOptions(
            synthesis.voice(options.voice, language) if options.speak else None, options.max_tokens,
            options.temperature, sampling=options.sampling, speed=options.speed, priority=Priority.LIVE,
        )  # fmt: skip
        self.answer = Answer(self._live.generator, self._prompt(asked), asked, generation_options, since, fault)
        self.answer.guessed = guess
        self.answer.mark("transcript")
        self._group.start_soon(self._run, self.answer)

    async def _run(self, answer: Answer) -> None:
        try:
            await answer.run(self._ended)
        finally:
            metrics = self._live.metrics
            if answer.guessed:
                metrics.guesses.labels("used" if answer.released else "dropped").inc()
            if answer.released:
                metrics.turn(replace(answer.counted(), traceparent=self._origin.traceparent))

    def _told(self) -> ConversationState:
        """What the model is given of what was before."""
        system = self.options.system if self.options.system is not None else self._live.settings.llm.system
        return replace(prompt_annotations.noted(self.conversation_state), system=system)

    def _prompt(self, asked: str) -> Question:
        """As the model is told of it."""
        put = prompt_annotations.put(asked, self.conversation_state)
        return self._live.generator.question(self._told(), put, self.functions.results)

    async def _release(self) -> None:
        answer = self.answer
        if answer is not None and not answer.released:
            answer.mark("endpoint")
            self._barge_in.during(answer.playback)
            self._group.start_soon(answer.watch)
            await answer.release(self._tell, lambda: self.seconds)

    async def _tell(self, event: LiveEvent) -> None:
        """What an answer says, to who follows the session."""
        if isinstance(event, ToolCalls):
            self.functions.want(event.calls)
        await self._send(event)

    async def _ended(self, answer: Answer, answered: Generation[Question]) -> None:
        """An answer is whole: it is remembered, as if all of it had been heard."""
        # Not half-way: whoever interrupts now waits, and then knows which exchange to correct.
        with anyio.CancelScope(shield=True):
            if answered.prompt is not answer.prompt:
                # It was too long. Otherwise what came into the memory meanwhile would be lost with an empty one.
                self.memory.begin_with(answered.prompt.conversation_state)
            await self._said(answer, answered.reply)
        if answered.last.usage is not None:
            self._group.start_soon(self._make_room, answered.last.usage)

    async def _make_room(self, usage: TokenUsage) -> None:
        """What would leave the model's memory with the next turn leaves now, and the rest is read while nobody waits:
        with another beginning all of a prompt is."""
        options, prompt = self.options, self._prompt("Hello")
        generation_options = GenerationOptions(max_tokens=options.max_tokens, sampling=options.sampling)
        roomy = self._live.generator.shortened_for_next(prompt, generation_options, usage)
        if roomy is not prompt:
            self.memory.begin_with(roomy.conversation_state)
            with anyio.CancelScope() as self._reading:
                await self._live.generator.end_of_turn_probability(
                    self._prompt("Hello"), options.sampling, Priority.BULK
                )

    async def _said(self, answer: Answer, text: str) -> None:
        """Remember what it said, or correct it."""
        async with self._writing:
            if answer.number is None:
                results = answer.prompt.results
                answer.number = await self.memory.add(self.options.system, answer.asked, text, results)
            else:
                await self.memory.amend(answer.number, text)

    async def _interrupt(self, answer: Answer, kind: str = "interrupted") -> None:
        """Silence; what was heard of the answer is what was said."""
        heard = answer.playback.heard(self.seconds)
        text = answer.playback.words(heard)
        owed = kind == "interrupted" and self.unheard and answer.asked not in ("", prompt_annotations.SILENT)
        answer.drop()
        answer.playback.give_up(self.seconds)
        self.against, self.answer = False, None
        if not answer.released:
            return
        self._live.metrics.interruptions.labels(kind).inc()
        if owed:
            self.pending, self._owed = [answer.asked, *self.pending], True
        # Who goes on speaking cancels what was begun in their pause, but not this.
        with anyio.CancelScope(shield=True):
            await self._send(Interrupted(heard, text))
            await (self._forget(answer) if owed else self.broke_off(answer, text))

    async def _retract(self, answer: Answer) -> None:
        """An answer nobody heard anything of, to a turn that was not over: it never was."""
        answer.drop("retracted")
        answer.playback.give_up(self.seconds)
        self._live.metrics.interruptions.labels("retracted").inc()
        self.answer = None
        self.pending, self._taken = self._taken, []
        await self._send(Interrupted(0.0, "", retracted=True))
        await self._forget(answer)

    async def _forget(self, answer: Answer) -> None:
        """It never was, as far as the memory goes."""
        async with self._writing:
            if answer.number is not None:
                await self.memory.forget(answer.number)
