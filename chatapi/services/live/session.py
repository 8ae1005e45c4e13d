"""A live session: audio in, events out; answers turns, and interrupts and resumes answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Samples
from chatapi.engines import PromptMessage
from chatapi.errors import ChatapiError
from chatapi.events import Failed, FellAsleep, SpeechStarted, SpeechStopped, WaitingForSpeech, WokenUp
from chatapi.runtime.admission import Priority
from chatapi.services.live import prompt_annotations
from chatapi.services.live.answer import Answer, Send
from chatapi.services.live.backchannel import ECHO_LIKENESS, is_stop_request
from chatapi.services.live.barge_in import BargeIn, DismissalReason, echo_loop_error, nearly_finished
from chatapi.services.live.command_listener import CommandListener
from chatapi.services.live.context import ConversationContext
from chatapi.services.live.idle_timeout import IdleTimeout
from chatapi.services.live.items import ConversationItems
from chatapi.services.live.options import SessionOptions, SessionOrigin, check_system
from chatapi.services.live.responder import Responder
from chatapi.services.live.turn_tracker import TurnTracker
from chatapi.services.live.utterance import Utterance
from chatapi.services.transcription.online_speakers import LONGEST_SPEECH, OnlineSpeakers
from chatapi.services.wake_word import WakeWordGate
from chatapi.storage.history import ConversationState

if TYPE_CHECKING:
    from chatapi.services.live import LiveConversations


COMMAND_REST = RATE * 6 // 10
"""Samples after the detection of a command that may still be the command: 0.6 s."""


class LiveSession:
    """One live session, created by `LiveConversations.session`. Call its methods on its event loop only."""

    def __init__(
        self,
        live: LiveConversations,
        group: TaskGroup,
        context: ConversationContext,
        options: SessionOptions,
        send: Send,
        origin: SessionOrigin,
        gate: WakeWordGate | None = None,
    ) -> None:
        """`gate` passes audio on while the session is awake; None: always."""
        self._live = live
        self._group = group
        self._send = send
        self._idle_timeout = IdleTimeout()
        self._gate = gate
        self._tracker = TurnTracker(live.engines, live.transcription, live.settings, group, self)
        self._detector = self._tracker.detector
        self._barge_in = BargeIn(self._detector)
        self._speakers: OnlineSpeakers | None = None
        self.items = ConversationItems(self)
        self._responder = Responder(live, group, context, self.items, self._tracker, self._barge_in, send, origin)
        self.context = context
        self.tools = self._responder.tools
        self._commands: CommandListener | None = None
        self._command_rest = 0
        """Samples that still belong to a command."""
        self.change(options)

    def change(self, options: SessionOptions) -> None:
        """Applies these options from now on. Raises Unprocessable with the `param`."""
        responder = self._responder
        check_system(options, self._live.settings.limits)
        self.tools.check(options.sampling)
        before, responder.options = responder.options, options
        if options.converse and (options.system, options.sampling) != (before.system, before.sampling):
            self.prefill()
        if responder.during_answer and not options.detect:
            # The client ends the utterance from now on, and perhaps never: the answer does not wait for that.
            responder.during_answer = False
            self._group.start_soon(responder.resume, responder.answer)
        self._detector.configure(options)
        if options.commands and self._commands is None and (commands := self._live.commands) is not None:
            self._commands = CommandListener(self, self._group, commands, self._send)
            self._group.start_soon(self._commands.run)

    def prefill(self) -> None:
        """The model processes a changed prompt now, so that the next turn need not wait for it."""
        prompt = self._responder.prompt("Hello")
        self._group.start_soon(self._live.generator.end_of_turn_probability, prompt, self.options.sampling)

    @property
    def system(self) -> str | None:
        """The system prompt with the texts of the system items; None: that of the settings."""
        return self._responder.system

    def with_system_items(self, system: str) -> str:
        """A system prompt followed by the texts of the system items."""
        return self._responder.with_system_items(system)

    def find_answer(self, answer_id: str) -> Answer | None:
        """One of the last answers, also if it was interrupted."""
        return self._responder.find_answer(answer_id)

    @property
    def options(self) -> SessionOptions:
        """The options of the session, or those of the answer that is being created."""
        return self._responder.options

    @property
    def conversation_state(self) -> ConversationState:
        """The conversation's exchanges that fit the model."""
        return self.context.conversation_state

    @property
    def answer(self) -> Answer | None:
        """The last answer, unless it was interrupted."""
        return self._responder.answer

    @property
    def pending(self) -> list[str]:
        """User texts without an answer; the list can be changed."""
        return self._responder.pending

    def prompt_messages(self) -> list[PromptMessage]:
        """Returns the prompt for the pending texts, the system message first."""
        return self._responder.prompt(" ".join(self.pending)).messages()

    @property
    def seconds(self) -> float:
        """Audio received, in seconds."""
        return self._responder.seconds

    @property
    def busy(self) -> bool:
        """Whether the user speaks or an answer is generated; its playback may last longer."""
        return self._detector.utterance is not None or (self.answer is not None and not self.answer.done)

    @property
    def wake_words(self) -> str | None:
        """The wake word as text; None: none is needed."""
        return self._gate.words if self._gate is not None else None

    @property
    def asleep(self) -> bool:
        """Whether audio is ignored until the wake word."""
        return self._gate is not None and self._gate.asleep

    async def wake(self) -> None:
        """Wakes the session as the wake word does; does nothing where it needs none."""
        if self._gate is not None:
            self._gate.wake()
            await self._woken_up("button")

    async def _woken_up(self, by: Literal["word", "button"]) -> None:
        """Cancels the current utterance and answer, because a new utterance starts."""
        self._live.metrics.wakes.labels(by).inc()
        await self.cancel()
        self.clear()
        await self._send(WokenUp(by))

    async def _addressed(self, gate: WakeWordGate, samples: Samples, audible: bool) -> Samples:
        """The part of the samples that the wake word gate passes on."""
        addressed, change = await gate.process(samples, self.busy or audible)
        if change == "detected":
            await self._woken_up("word")
        elif change == "waiting":
            await self._send(WaitingForSpeech())
        elif change == "asleep":
            await self._send(FellAsleep())
        return addressed

    async def feed(self, samples: Samples, audible: bool = False) -> None:
        """Processes the next samples, 16 kHz mono, of any number; `audible`: the box's speaker sounds meanwhile."""
        if self._commands is not None and self.options.commands:
            self._commands.feed(samples)
        if self._gate is not None:
            samples = await self._addressed(self._gate, samples, audible)
            if not len(samples):
                return
        if self._command_rest:
            samples = np.where(np.arange(len(samples)) < self._command_rest, np.float32(0), samples)
            self._command_rest = max(0, self._command_rest - len(samples))
        await self._tracker.feed(samples)
        busy = not self.options.answer or self.answer is None or self.busy or self.playing
        if (idle := self._idle_timeout.check(self.seconds, busy, self.options.idle_seconds)) is not None:
            await self._send(idle)
            await self.respond(" ".join(self.pending) or prompt_annotations.SILENCE_NOTE)

    def report_playback(self, seconds: float) -> None:
        """Sets how much of the answer was played. Without reports, it is assumed to play at once and in real time."""
        if self.answer is not None:
            self.answer.playback.report(seconds, self.seconds)

    async def commit(self) -> bool:
        """Ends the turn now. Returns False when there is no utterance."""
        return await self._tracker.commit()

    def clear(self) -> None:
        """Discards the audio received since the last turn."""
        self._tracker.clear()
        if self.during_answer and self.answer is not None:
            self.answer.playback.resume(self.seconds)
        self._responder.during_answer = False

    async def respond(self, asked: str | None = None, options: SessionOptions | None = None) -> None:
        """Answers this text, or the pending ones; `options` apply to this answer only. Raises as `change` does."""
        await self._responder.respond(asked, options)

    def drop_command(self) -> None:
        """Discards a command that was detected, and the rest of it that is still to come, so that it is no turn."""
        self.clear()
        self._command_rest = COMMAND_REST

    async def say(self, text: str) -> None:
        """Speaks a phrase as it is, in place of an answer."""
        await self.respond(text, replace(self.options, reads_aloud=True))

    async def repeat(self) -> None:
        """Speaks the last answer again; does nothing where there is none."""
        answered = [each.answered for each in self.context.conversation_state.exchanges if each.answered]
        if answered:
            await self.say(prompt_annotations.without_marks(answered[-1]))

    async def cancel(self, only: Answer | None = None, kind: str = "cancelled") -> bool:
        """Cancels the answer, or `only` this one if it is still the current one. Returns False when there is none."""
        return await self._responder.cancel(only, kind)

    async def truncate(self, answer: Answer, text: str) -> None:
        """Stores that only this text of an answer was played."""
        await self._responder.truncate(answer, text)

    # Turn detection calls these; see TurnListener.

    @property
    def playing(self) -> bool:
        return self._responder.playing

    @property
    def answer_unplayed(self) -> bool:
        return self._responder.answer_unplayed

    @property
    def during_answer(self) -> bool:
        return self._responder.during_answer

    async def on_speech_started(self, at: float, resumed: bool) -> None:
        responder, answer = self._responder, self.answer
        responder.during_answer = False
        responder.cancel_prefill()
        if answer is not None and resumed:
            await responder.retract(answer)
        elif answer is not None and answer.released and self.options.interrupt:
            # Also while it is generated: a cough or a backchannel does not cancel it.
            responder.during_answer = self.playing or not answer.done
        pauses = self.during_answer and self.playing and not self._barge_in.in_echo_loop
        if answer is not None and pauses:
            answer.playback.pause(self.seconds)
        self._live.preload(self.options.converse)
        await self._send(SpeechStarted(at, pauses))

    def cancel_preemptive_answer(self) -> None:
        self._responder.cancel_preemptive()

    async def on_partial_transcript(self, utterance: Utterance, text: str) -> None:
        answer = self.answer
        if self.during_answer and answer is not None and self._barge_in.interrupts(answer, utterance, text):
            await self._responder.interrupt(answer)
        if text and not self.during_answer and self.options.partials:
            await self._send(utterance.transcript(text, self._detector.detected_language, final=False))

    async def completeness(self, text: str) -> float | None:
        if self.during_answer or not self.options.answer:
            return None
        prompt = self._responder.prompt(" ".join([*self.pending, text]))
        return await self._live.generator.end_of_turn_probability(prompt, self.options.sampling)

    async def on_preemptive_turn(self, utterance: Utterance, text: str) -> None:
        answer = self.answer
        if self.during_answer and answer is not None:
            if not self._barge_in.interrupts(answer, utterance, text, end_of_turn=True):
                return
            await self._responder.interrupt(answer)
            if utterance is not self._detector.utterance:
                # The turn ended meanwhile and is being answered.
                return
        if not text or not self.options.answer or is_stop_request(text):
            return
        if self._barge_in.echo_likeness(utterance, text) >= ECHO_LIKENESS:
            return
        await self._responder.start_preemptive(text)

    async def wait_for_prefill(self) -> None:
        if self.answer is not None:
            await self.answer.wait_for_prefill()

    async def on_end_of_turn(self, utterance: Utterance, text: str) -> bool:
        responder, answer = self._responder, self.answer
        during_answer, responder.during_answer = self.during_answer and answer is not None, False
        if (
            answer is not None
            and during_answer
            and self._barge_in.interrupts(answer, utterance, text, end_of_turn=True)
        ):
            during_answer = False
            await responder.interrupt(answer)
        if utterance.error is not None:
            await self._send(Failed(utterance.error, during_transcription=True))
        if await self._dismiss(answer if during_answer else None, utterance, text):
            return False
        await self._send(SpeechStopped(utterance.end_seconds))
        transcript = utterance.transcript(text, self._detector.detected_language)
        await self._send(replace(transcript, speaker=await self._speaker(utterance)))
        if is_stop_request(text):
            self.cancel_preemptive_answer()
            return False
        if not self.options.answer:
            if self.options.converse:
                self.pending.append(text)
            return False
        await responder.respond_to_turn(text)
        return True

    async def _speaker(self, utterance: Utterance) -> str:
        """The speaker of an utterance; empty: none is wanted, or an error, which is no reason to lose the turn."""
        if not self.options.speakers:
            return ""
        if self._speakers is None:
            live, known = self._live, self.options.known_speakers
            self._speakers = OnlineSpeakers(live.engines, live.settings.speaker, known)
        return await self._speakers.label_if_possible(utterance.last_speech(LONGEST_SPEECH), Priority.LIVE)

    async def _dismiss(self, answer: Answer | None, utterance: Utterance, text: str) -> bool:
        """Whether the utterance is not answered; then resumes the answer during which it began."""
        reason = self._barge_in.dismissal_reason(answer, utterance, text)
        if reason is None:
            return False
        if reason is DismissalReason.ECHO_LOOP:
            await self._send(Failed(echo_loop_error(), during_transcription=True))
        self._live.metrics.dismissed.labels(reason.value).inc()
        self.cancel_preemptive_answer()
        await self._send(SpeechStopped(utterance.end_seconds, answered=False))
        error = utterance.error
        if answer is not None and error is not None and nearly_finished(answer, self.seconds):
            answer = None
        await self._responder.continue_after_dismissal(answer, error)
        return True

    async def on_error(self, error: ChatapiError) -> None:
        await self._send(Failed(error, during_transcription=True))
