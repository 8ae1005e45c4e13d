"""The ear of a live conversation: frames in, and told to its listener what they mean for the turn."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import anyio
import numpy as np
from anyio.abc import TaskGroup

from chatapi.abilities.live.endpointing import PROBE, Endpointing, Mark, Rules, frames
from chatapi.abilities.live.utterance import Utterance
from chatapi.abilities.transcription import Transcription
from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.gate import Priority
from chatapi.segmenter import FRAME
from chatapi.settings import Settings
from chatapi.workers import Engines

BEFORE = 10
"""Frames kept from before an onset: a third of a second, with the soft start of the first word."""
REOPEN = 4 * RATE
"""Samples after a turn's end within which its speaker may go on as if it had not ended."""
READING = 0.06
"""Seconds the language model is given to read what was said before the sound of the pause is judged."""
AGAINST = 320
"""Milliseconds of speech against an answer after which it is looked at what they say."""


class Hearer(Protocol):
    """Who is told what the ear makes of the frames."""

    @property
    def playing(self) -> bool:
        """Whether something of ours is to be heard now."""

    @property
    def unheard(self) -> bool:
        """Whether the last turn's answer is not over and nothing of it has been heard."""

    @property
    def against(self) -> bool:
        """Whether what is said now is said against an answer."""

    async def begun(self, at: float, again: bool) -> None:
        """Somebody speaks since `at` seconds; `again`: they go on with the last turn."""

    def gone_on(self) -> None:
        """The pause was none: what was thought of it does not count."""

    async def partly(self, utterance: Utterance, text: str) -> None:
        """The words so far."""

    async def guessed(self, text: str) -> None:
        """The words, if the turn is over."""

    async def over(self, utterance: Utterance, text: str) -> None:
        """The turn is over."""

    async def failed(self, error: ChatapiError) -> None:
        """Something could not be understood."""


class Ear:
    """Follows one stream; time is counted in samples received."""

    def __init__(
        self, engines: Engines, transcription: Transcription, settings: Settings, group: TaskGroup, hearer: Hearer
    ) -> None:
        self.detect = self.semantic = True
        self.partials = True
        self.language: str | None = None
        self.silence_ms = 500
        """Silence that ends a turn where only its length counts."""
        self.utterance: Utterance | None = None
        self.clock = 0
        """Samples received."""
        self.voiced_at = time.monotonic()
        """When the last sound of speech came in."""
        self._engines = engines
        self._transcription = transcription
        self._settings = settings.live
        self._group = group
        self._hearer = hearer
        self._endpointing = Endpointing(Rules.of(settings.live, settings.vad.threshold))
        self._listener = engines.vad.engine.listener()
        self._rest: Samples = np.zeros(0, np.float32)
        self._before: deque[Samples] = deque(maxlen=BEFORE)
        self._last: Utterance | None = None
        """The utterance that was just ended, still growing, in case it goes on."""
        self._looking: anyio.CancelScope | None = None
        self._decoding: anyio.CancelScope | None = None
        self._decoded = 0
        self._text: str | None = None
        """Of the utterance as far as it has been looked at; None: not yet."""
        self._finished: float | None = None

    def follow_rules(self, rules: Rules) -> None:
        """From now on."""
        self._endpointing.rules = rules

    async def hear(self, samples: Samples) -> None:
        """The next samples, of any number."""
        sound: Samples = np.concatenate([self._rest, samples])
        whole = len(sound) // FRAME * FRAME
        self._rest = sound[whole:]
        for start in range(0, whole, FRAME):
            await self._frame(sound[start : start + FRAME])

    async def commit(self) -> bool:
        """The turn is over now. False when nothing was said."""
        utterance = self.utterance
        if utterance is None:
            return False
        self._dismiss()
        await self._look(utterance, judge=False)
        if utterance is self.utterance:
            await self._over(utterance)
        return True

    def clear(self) -> None:
        """Forget what was said since the last turn."""
        self._dismiss()
        self.utterance = self._last = None
        self._endpointing.end()
        self._before.clear()

    async def _frame(self, frame: Samples) -> None:
        self.clock += FRAME
        probability = self._listener.probability(frame)
        if self.detect:
            mark = self._endpointing.feed(probability, self._hearer.playing)
        else:
            mark = Mark.ONSET if self.utterance is None else None
        voiced = not self.detect or (self._endpointing.speaking and self._endpointing.silence == 0)
        if voiced:
            self.voiced_at = time.monotonic()
        for utterance in (self.utterance, self._last):
            if utterance is not None:
                utterance.add(frame, voiced)
        if mark is Mark.ONSET:
            await self._onset(frame)
        elif mark is Mark.PROBE and self.utterance is not None:
            self._probe(self.utterance)
        elif mark is Mark.ON:
            self._dismiss()
        if self.utterance is None:
            self._before.append(frame)
        else:
            await self._follow(self.utterance)

    async def _onset(self, frame: Samples) -> None:
        last = self._last
        # Who ends turns by hand ends them for good, and may go on sending sound meanwhile.
        again = (
            self.detect
            and last is not None
            and self._hearer.unheard
            and self.clock - last.at - last.speech_end < REOPEN
        )
        if again:
            self.utterance = last
        else:
            self.utterance = Utterance([*self._before, frame], self.clock - (len(self._before) + 1) * FRAME)
        self._last = None
        self._before.clear()
        self._text = self._finished = None
        self._decoded = self.utterance.length if self.utterance else 0
        if self.detect:
            await self._hearer.begun((self.clock - self._endpointing.voiced * FRAME) / RATE, again)

    async def _follow(self, utterance: Utterance) -> None:
        """What a frame of an utterance may lead to: its end, or a partial transcript."""
        limit = self._settings.turn_seconds * RATE
        if self.detect and await self._is_over(utterance, utterance.length >= limit):
            return
        against = self._hearer.against
        every = frames(AGAINST if against else self._settings.partial_ms) * FRAME
        busy = self._looking is not None or self._decoding is not None
        # In a pause there is nothing new to understand.
        if not busy and self._endpointing.silence == 0 and utterance.length - self._decoded >= every:
            self._decoded = utterance.length
            if against or self.partials:
                self._group.start_soon(self._partial, utterance)

    async def _is_over(self, utterance: Utterance, too_long: bool = False) -> bool:
        if too_long and self._text is None and self._looking is None:
            self._probe(utterance)
        if self._text is None:
            return False
        rules = self._endpointing.rules
        needed = rules.silence(self._finished, self._text) if self.semantic and self._text else frames(self.silence_ms)
        if self._endpointing.silence < needed and not too_long:
            return False
        await self._over(utterance)
        return True

    async def _over(self, utterance: Utterance) -> None:
        text, self._text = self._text or "", None
        self._endpointing.end()
        self.utterance, self._last = None, utterance
        await self._hearer.over(utterance, text)

    def _probe(self, utterance: Utterance) -> None:
        if self._looking is None:
            if self._decoding is not None:
                self._decoding.cancel()
            self._group.start_soon(self._look, utterance)

    def _dismiss(self) -> None:
        """They go on."""
        if self._looking is not None:
            self._looking.cancel()
        self._text = self._finished = None
        self._hearer.gone_on()

    async def _look(self, utterance: Utterance, judge: bool = True) -> None:
        """What was said, and whether it sounds finished; then thinking begins, on the chance that it is."""
        with anyio.CancelScope() as scope:
            self._looking = scope
            try:
                text = await self._understood(utterance)
                if utterance is self.utterance:
                    await self._hearer.guessed(text)
                    if judge and self.semantic and text:
                        # Not while the model reads the prompt, for which it wants every core; the longer the pause,
                        # the better it is judged.
                        await anyio.sleep(READING)
                        await self._sounds_finished(utterance)
            except ChatapiError as error:
                text = ""
                await self._hearer.failed(error)
            finally:
                if self._looking is scope:
                    self._looking = None
        # What follows from it is not to be cancelled half-way by who goes on now.
        if not scope.cancel_called and utterance is self.utterance:
            self._text = text
            if judge:
                await self._is_over(utterance)

    async def _sounds_finished(self, utterance: Utterance) -> None:
        sound = utterance.samples()
        async with self._engines.turn.stream(lambda engine, stop: engine.finished(sound, stop), Priority.LIVE) as found:
            async for probability in found:
                if utterance is self.utterance:
                    self._finished = probability

    async def _understood(self, utterance: Utterance) -> str:
        to, settles = utterance.length, utterance.ripe and self._endpointing.silence >= PROBE
        text = await self._transcription.words(utterance.open(), self.language, Priority.LIVE)
        if settles:
            utterance.settle(text, to)
            return utterance.text("")
        return utterance.text(text)

    async def _partial(self, utterance: Utterance) -> None:
        with anyio.CancelScope() as scope:
            self._decoding = scope
            try:
                text = await self._understood(utterance)
            except ChatapiError as error:
                text = ""
                await self._hearer.failed(error)
            finally:
                self._decoding = None
        if not scope.cancel_called and utterance is self.utterance and self._looking is None:
            await self._hearer.partly(utterance, text)
