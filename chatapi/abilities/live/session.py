"""One live conversation: sound comes in, events go out; turns begin, end, are interrupted and go on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import numpy as np
from anyio.abc import TaskGroup

from chatapi.abilities.answering import Answered, Manner
from chatapi.abilities.live.answer import Answer
from chatapi.abilities.live.endpointing import PROBE, Endpointing, Mark, Rules, frames
from chatapi.abilities.live.interruption import Meaning, echoed, meaning, stops
from chatapi.abilities.live.utterance import Utterance
from chatapi.audio import RATE, Samples
from chatapi.engines import Voice
from chatapi.errors import ChatapiError
from chatapi.events import Failed, Interrupted, LiveEvent, Resumed, SpeechStarted, SpeechStopped, Transcript
from chatapi.gate import Priority
from chatapi.history import Exchange, Recalled
from chatapi.segmenter import FRAME

if TYPE_CHECKING:
    from chatapi.abilities.live import Live

Send = Callable[[LiveEvent], Awaitable[None]]
BEFORE = 10
"""Frames kept from before an onset: a third of a second, with the soft start of the first word."""
REOPEN = 4 * RATE
"""Samples after a turn's end within which its speaker may go on as if it had not ended."""
ECHO = 3 * RATE
"""Samples after an answer in which what is heard may be its echo."""
HINT = " An answer of yours that ends in a dash was interrupted there by the user."


@dataclass
class Options:
    """What may be changed while it goes on."""

    detect: bool = True
    """Whether turns are found; otherwise `commit` ends them."""
    semantic: bool = True
    """Whether the sound of a pause counts, or only its length."""
    silence_ms: int = 500
    """Silence that ends a turn where only its length counts."""
    patience: float = 1.0
    """How much longer than set to wait at a pause where its sound counts."""
    threshold: float | None = None
    """Probability from which a frame counts as speech; None: as set."""
    answer: bool = True
    """Whether a turn is answered by itself."""
    interrupt: bool = True
    """Whether speech stops an answer."""
    speak: bool = True
    partials: bool = True
    system: str | None = None
    voice: str | None = None
    language: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


class Session:
    """Made by `Live.session`. All methods belong to its event loop."""

    def __init__(self, live: Live, group: TaskGroup, recalled: Recalled, options: Options, send: Send) -> None:
        self.options = options
        self.recalled = recalled
        self.answer: Answer | None = None
        self.pending: list[str] = []
        """What was said and not answered yet."""
        self._live = live
        self._group = group
        self._send = send
        settings = live.settings
        self._endpointing = Endpointing(Rules.of(settings.live, settings.vad.threshold))
        self._listener = live.engines.vad.engine.listener()
        self._rest: Samples = np.zeros(0, np.float32)
        self._clock = 0
        self._before: deque[Samples] = deque(maxlen=BEFORE)
        self._utterance: Utterance | None = None
        self._last: Utterance | None = None
        """The utterance that was just ended, still growing, in case it goes on."""
        self._against = False
        self._looking: anyio.CancelScope | None = None
        self._text: str | None = None
        """Of the utterance as far as it has been looked at; None: not yet."""
        self._finished: float | None = None
        self._voiced_at = time.monotonic()
        self._decoded = 0
        self._decoding: anyio.CancelScope | None = None

    @property
    def seconds(self) -> float:
        """Of sound received."""
        return self._clock / RATE

    async def hear(self, samples: Samples) -> None:
        """The next samples, 16 kHz mono, of any number."""
        sound: Samples = np.concatenate([self._rest, samples])
        whole = len(sound) // FRAME * FRAME
        self._rest = sound[whole:]
        for start in range(0, whole, FRAME):
            await self._frame(sound[start : start + FRAME])

    def change(self, options: Options) -> None:
        """From now on."""
        self.options = options
        settings = self._live.settings
        threshold = settings.vad.threshold if options.threshold is None else options.threshold
        self._endpointing.rules = Rules.of(settings.live, threshold, options.patience)

    def played(self, seconds: float) -> None:
        """How much of the answer has been heard; who never says so is taken to hear it at once and in real time."""
        if self.answer is not None:
            self.answer.playback.report(seconds)

    async def commit(self) -> bool:
        """The turn is over now. False when nothing was said."""
        if self._utterance is None:
            return False
        self._dismiss()
        await self._look(self._utterance, judge=False)
        await self._committed()
        return True

    def clear(self) -> None:
        """Forget what was said since the last turn."""
        self._dismiss()
        if self._against and self.answer is not None:
            self.answer.playback.resume(self.seconds)
        self._utterance, self._against = None, False
        self._endpointing.end()
        self._before.clear()

    async def respond(self, asked: str | None = None) -> None:
        """Answer what is pending, or this."""
        text = asked if asked is not None else " ".join(self.pending)
        self.pending.clear()
        await self._begin(text, time.monotonic())
        await self._release()

    async def cancel(self) -> bool:
        """Give up the answer. False when there is none."""
        answer = self.answer
        if answer is None or (answer.over and not answer.playback.audible(self.seconds)):
            return False
        await self._interrupt(answer)
        return True

    # Listening

    async def _frame(self, frame: Samples) -> None:
        self._clock += FRAME
        probability = self._listener.probability(frame)
        playing = self.answer is not None and self.answer.released and self.answer.playback.audible(self.seconds)
        if self.options.detect:
            mark = self._endpointing.feed(probability, playing)
        else:
            mark = Mark.ONSET if self._utterance is None else None
        voiced = self._endpointing.speaking and self._endpointing.silence == 0
        if voiced:
            self._voiced_at = time.monotonic()
        for utterance in (self._utterance, self._last):
            if utterance is not None:
                utterance.add(frame, voiced)
        if mark is Mark.ONSET:
            await self._onset(frame)
        elif mark is Mark.PROBE and self._utterance is not None:
            self._probe(self._utterance)
        elif mark is Mark.ON:
            self._dismiss()
        if self._utterance is None:
            self._before.append(frame)
        else:
            await self._follow(self._utterance)

    async def _onset(self, frame: Samples) -> None:
        answer, at = self.answer, self.seconds - self._endpointing.voiced * FRAME / RATE
        heard = answer.playback.heard(self.seconds) if answer is not None else 0.0
        self._against = False
        if not self.options.detect:
            # Who ends turns by hand ends them for good, and may go on sending sound meanwhile.
            answer = None
        if answer is not None and not answer.over and heard < 0.1 and self._last is not None:
            # They were only pausing: as if the turn had never ended.
            if self._clock - self._last.at - self._last.speech_end < REOPEN:
                self._utterance = self._last
                await self._retract(answer)
        elif answer is not None and answer.playback.audible(self.seconds) and self.options.interrupt:
            self._against = True
            answer.playback.pause(self.seconds)
        if self._utterance is None:
            self._utterance = Utterance([*self._before, frame], self._clock - (len(self._before) + 1) * FRAME)
        self._before.clear()
        self._last = None
        self._text, self._finished, self._decoded = None, None, self._utterance.length
        if self.options.detect:
            await self._send(SpeechStarted(at, self._against))

    async def _follow(self, utterance: Utterance) -> None:
        """What a frame of an utterance may lead to: a partial transcript, an early interruption, its end."""
        limit = self._live.settings.live.turn_seconds * RATE
        if self.options.detect and await self._is_over(utterance, utterance.length >= limit):
            return
        every = frames(320 if self._against else self._live.settings.live.partial_ms) * FRAME
        if self._looking is None and self._decoding is None and utterance.length - self._decoded >= every:
            self._decoded = utterance.length
            if self._against or self.options.partials:
                self._group.start_soon(self._partial, utterance)

    async def _is_over(self, utterance: Utterance, too_long: bool = False) -> bool:
        if too_long and self._text is None and self._looking is None:
            self._probe(utterance)
        if self._text is None:
            return False
        silence = self._endpointing.silence
        needed = self._endpointing.rules.silence(self._finished if self.options.semantic else None)
        if not self.options.semantic:
            needed = frames(self.options.silence_ms)
        if silence < needed and not too_long:
            return False
        await self._committed()
        return True

    # Understanding

    def _probe(self, utterance: Utterance) -> None:
        if self._looking is None:
            if self._decoding is not None:
                self._decoding.cancel()
            self._group.start_soon(self._look, utterance)

    def _dismiss(self) -> None:
        """They go on: what was thought of the pause does not count."""
        if self._looking is not None:
            self._looking.cancel()
        self._text = self._finished = None
        if self.answer is not None and not self.answer.released:
            self.answer.drop()
            self.answer = None

    async def _look(self, utterance: Utterance, judge: bool = True) -> None:
        """What was said, and whether it sounds finished; then thinking begins, on the chance that it is."""
        with anyio.CancelScope() as scope:
            self._looking = scope
            try:
                async with anyio.create_task_group() as group:
                    if judge and self.options.semantic:
                        group.start_soon(self._sounds_finished, utterance)
                    text = self._text if self._text is not None else await self._understood(utterance)
                if utterance is self._utterance:
                    self._text = text
                    await self._guess(utterance, text, judge)
            except ChatapiError as error:
                self._text = ""
                await self._send(Failed(error))
            finally:
                if self._looking is scope:
                    self._looking = None

    async def _guess(self, utterance: Utterance, text: str, judge: bool) -> None:
        if self._against:
            await self._weigh(text)
        if text and self.options.answer and not self._against and not stops(text):
            await self._begin(" ".join([*self.pending, text]), self._voiced_at)
        if judge:
            await self._is_over(utterance)

    async def _sounds_finished(self, utterance: Utterance) -> None:
        sound = utterance.samples()
        async with self._live.engines.turn.stream(
            lambda engine, stop: engine.finished(sound, stop), Priority.LIVE
        ) as found:
            async for probability in found:
                if utterance is self._utterance:
                    self._finished = probability

    async def _understood(self, utterance: Utterance) -> str:
        to, settles = utterance.length, utterance.ripe and self._endpointing.silence >= PROBE
        text = await self._live.transcription.words(utterance.open(), self.options.language, Priority.LIVE)
        if settles:
            utterance.settle(text, to)
            return utterance.text("")
        return utterance.text(text)

    async def _partial(self, utterance: Utterance) -> None:
        with anyio.CancelScope() as scope:
            self._decoding = scope
            try:
                text = await self._understood(utterance)
                if utterance is self._utterance and self._looking is None:
                    if self._against:
                        await self._weigh(text)
                    if text and not self._against and self.options.partials:
                        await self._send(self._transcript(utterance, text, final=False))
            except ChatapiError as error:
                await self._send(Failed(error))
            finally:
                self._decoding = None

    async def _weigh(self, text: str) -> None:
        """What is said against an answer: more than a listener's noises ends it."""
        answer = self.answer
        if answer is None:
            self._against = False
        elif self._meaning(answer, text) in (Meaning.STOP, Meaning.INTERRUPTION):
            await self._interrupt(answer)

    def _meaning(self, answer: Answer, text: str) -> Meaning:
        return meaning(text, answer.playback.words(answer.playback.heard(self.seconds) + 0.5))

    # Turns

    async def _committed(self) -> None:
        """The turn is over: answer it, or go on where it disturbed."""
        utterance, text, against = self._utterance, self._text or "", self._against
        assert utterance is not None  # noqa: S101 - there is a turn
        answer = self.answer
        at = (utterance.at + utterance.speech_end) / RATE
        self._endpointing.end()
        self._utterance, self._against = None, False
        self._last = utterance
        if not text or against or self._is_echo(text):
            self._drop_guess()
            await self._send(SpeechStopped(at, heard=False))
            if against and answer is not None:
                answer.playback.resume(self.seconds)
                await self._send(Resumed())
            return
        await self._send(SpeechStopped(at))
        await self._send(self._transcript(utterance, text, final=True))
        if stops(text):
            self._drop_guess()
        elif self.options.answer:
            await self._begin(" ".join([*self.pending, text]), self._voiced_at)
            self.pending.clear()
            await self._release()
        else:
            self.pending.append(text)

    def _drop_guess(self) -> None:
        if self.answer is not None and not self.answer.released:
            self.answer.drop()
            self.answer = None

    def _is_echo(self, text: str) -> bool:
        """Whether it is the box's own last words, heard back."""
        answer = self.answer
        if answer is None or not answer.released or self._clock - answer.playback.ended * RATE > ECHO:
            return False
        return echoed(text, answer.playback.words(answer.playback.seconds))

    def _transcript(self, utterance: Utterance, text: str, final: bool) -> Transcript:
        start, end = utterance.at / RATE, (utterance.at + utterance.speech_end) / RATE
        return Transcript(text, final, start, end, self.options.language or "")

    # Answering

    async def _begin(self, asked: str, since: float) -> None:
        """Think of an answer, not yet to be heard."""
        current = self.answer
        if current is not None and not current.released:
            if current.asked == asked:
                return
            current.drop()
        elif current is not None and not current.over:
            await self._interrupt(current)
        voice: Voice | None = None
        if self.options.speak:
            voice = self._live.speaking.voice(self.options.voice, self.options.language or "")
        manner = Manner(voice, self.options.max_tokens, self.options.temperature, None, Priority.LIVE)
        system = self.options.system if self.options.system is not None else self._live.settings.llm.system
        recalled = replace(self.recalled, system=system + HINT)
        self.answer = Answer(self._live.answering, recalled, asked, manner, since)
        self.answer.mark("transcript")
        self._group.start_soon(self.answer.run, self._ended)

    async def _release(self) -> None:
        answer = self.answer
        if answer is not None and not answer.released:
            answer.mark("endpoint")
            self._group.start_soon(answer.watch)
            await answer.release(self._send, lambda: self.seconds)

    async def _ended(self, answer: Answer, answered: Answered) -> None:
        """An answer is whole: it is remembered, as if all of it had been heard."""
        self._live.metrics.turn(answer.ledger)
        await self._remember(answer, answered.reply)

    async def _remember(self, answer: Answer, reply: str) -> None:
        recalled = replace(self.recalled, system=self.options.system)
        number = await self._live.history.call(lambda history: history.add(recalled, answer.asked, reply))
        answer.number = number
        self.recalled = replace(self.recalled, exchanges=(*recalled.exchanges, Exchange(number, answer.asked, reply)))

    async def _interrupt(self, answer: Answer) -> None:
        """Silence; what was heard of the answer is what was said."""
        heard = answer.playback.heard(self.seconds)
        text = answer.playback.words(heard)
        answer.drop()
        self._against, self.answer = False, None
        if not answer.released:
            return
        await self._send(Interrupted(heard, text))
        await self.said(answer, f"{text} —" if text else "—")

    async def said(self, answer: Answer, text: str) -> None:
        """Correct what an answer said."""
        if answer.number is None:
            await self._remember(answer, text)
            return
        number = answer.number
        await self._live.history.call(lambda history: history.amend(number, text))
        exchanges = tuple(replace(e, answered=text) if e.number == number else e for e in self.recalled.exchanges)
        self.recalled = replace(self.recalled, exchanges=exchanges)

    async def _retract(self, answer: Answer) -> None:
        """An answer nobody heard anything of, to a turn that was not over: it never was."""
        answer.drop()
        self.answer = None
        await self._send(Interrupted(0.0, "", retracted=True))
        if (number := answer.number) is not None:
            await self._live.history.call(lambda history: history.amend(number, None))
            kept = tuple(exchange for exchange in self.recalled.exchanges if exchange.number != number)
            self.recalled = replace(self.recalled, exchanges=kept)
