"""The ear of a live conversation: frames in, and told to its listener what they mean for the turn."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import anyio
import numpy as np
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.live.endpointing import SURE, Endpointing, EndpointingRules, TurnBoundary, frames, over
from chatapi.services.live.options import SessionOptions
from chatapi.services.live.utterance import Utterance
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import Settings

BEFORE = 10
"""Frames kept from before an onset: a third of a second, with the soft start of the first word."""
SOFT = 0.2
"""Seconds of these that are hardly ever speech."""
REOPEN = 4 * RATE
"""Samples after a turn's end within which its speaker may go on as if it had not ended."""
AFTER = 2
"""Silent frames, 64 ms, that are waited for before the words of a pause are made out: the detector takes the last
consonant for silence, and without it "France" is heard as "friend"."""
TAIL = 1
"""Frames that may be missing at the end of what is being decoded when a pause begins. To begin again would cost more,
for Whisper's encoder cannot be stopped half-way."""
SETTLED = 6
"""Silent frames, 192 ms, after which a word has certainly ended."""
RARER = 4
"""Where the speaker ends turns, new sound that is waited for before it is made out, as one part in so many of what is
made out: that takes the same share of the machine however long they speak, and however little they pause."""
AGAINST = 320
"""Milliseconds of speech against an answer after which it is looked at what they say."""


class TurnListener(Protocol):
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

    async def whole(self, text: str) -> float | None:
        """How probable it is that nothing is missing from what is said."""

    async def guessed(self, utterance: Utterance, text: str) -> None:
        """The words, if the turn is over."""

    async def thinking(self) -> None:
        """Until what was guessed has been read, or long enough."""

    async def over(self, utterance: Utterance, text: str) -> bool:
        """The turn is over; with `fault` set, the end of it was not understood. Whether it is answered."""

    async def failed(self, error: ChatapiError) -> None:
        """Something could not be understood."""


@dataclass
class Hypothesis:
    """What was made of an utterance."""

    upto: int
    """Samples of it that were decoded."""
    text: str
    whole: float | None = None
    """Probability that it reads whole; None: not known."""
    finished: float | None = None
    """Probability that it sounds finished; None: not known."""
    judged: bool = False
    """Whether nothing more will be known of it."""


@dataclass
class PendingDecode:
    """Words that are being made out."""

    given: int
    """Samples of the utterance that are being decoded."""
    upto: int
    """Samples of it that count as decoded once it is done."""
    scope: anyio.CancelScope


class TurnDetector:
    """Follows one stream; time is counted in samples received."""

    def __init__(
        self,
        engines: Engines,
        transcription: FileTranscriber,
        settings: Settings,
        group: TaskGroup,
        listener: TurnListener,
    ) -> None:
        self.detect = self.semantic = True
        self.partials = True
        self.language: str | None = None
        self.spoken = ""
        """The language last heard; empty: none yet."""
        self.certainty = 0.0
        """Of what was understood last, as a mean log-probability."""
        self.lasted = 0.0
        """Seconds within which the last words, and all before them in their turn, were said."""
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
        self._threshold = settings.vad.threshold
        self._group = group
        self._hearer = listener
        self._endpointing = Endpointing(EndpointingRules.of(settings.live, settings.vad.threshold))
        self._listener = engines.vad.engine.stream()
        self._rest: Samples = np.zeros(0, np.float32)
        self._before: deque[Samples] = deque(maxlen=BEFORE)
        self._last: Utterance | None = None
        """The utterance that was just ended, still growing, in case it goes on."""
        self._decoding: PendingDecode | None = None
        self._seen = 0
        """Samples of the utterance that are decoded, or being decoded."""
        self._quiet = 0
        """Frames in a row without speech, where the speaker ends turns."""
        self._look: Hypothesis | None = None
        """The last one; it holds for as long as nothing is said after it."""

    def follow(self, options: SessionOptions) -> None:
        """From now on."""
        self.detect, self.semantic, self.partials = options.detect, options.semantic, options.partials
        self.language, self.silence_ms = options.language, options.silence_ms
        threshold = self._threshold if options.threshold is None else options.threshold
        self._endpointing.rules = EndpointingRules.of(self._settings, threshold, options.patience)

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
        text = await self._words(utterance)
        if utterance is self.utterance:
            await self._over(utterance, text)
        return True

    def clear(self) -> None:
        """Forget what was said since the last turn."""
        self._dismiss()
        self.utterance = self._last = None
        self._endpointing.end()
        self._before.clear()

    def _dismiss(self) -> None:
        """What was made of it does not count."""
        self._stop_decoding()
        self._look = None
        self._hearer.gone_on()

    def _stop_decoding(self) -> None:
        if self._decoding is not None:
            self._decoding.scope.cancel()
            self._decoding = None

    async def _frame(self, frame: Samples) -> None:
        self.clock += FRAME
        probability = self._listener.probability(frame)
        if self.detect:
            mark = self._endpointing.feed(probability, float(np.sqrt(np.mean(frame**2))), self._hearer.playing)
        else:
            mark = TurnBoundary.ONSET if self.utterance is None else None
            self._quiet = 0 if probability >= self._endpointing.rules.threshold else self._quiet + 1
        voiced = not self.detect or (self._endpointing.synthesis and self._endpointing.silence == 0)
        if voiced:
            self.voiced_at = time.monotonic()
        for utterance in (self.utterance, self._last):
            if utterance is not None:
                utterance.add(frame, voiced)
        if self._last is not None and self.clock - self._last.at - self._last.speech_end >= REOPEN:
            self._last = None
        if mark is TurnBoundary.ONSET:
            await self._onset(frame)
        elif mark is TurnBoundary.ON:
            self._hearer.gone_on()
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
            and last.length < self._settings.turn_seconds * RATE
        )
        if again:
            self.utterance = last
        else:
            self.utterance = Utterance([*self._before, frame], self.clock - (len(self._before) + 1) * FRAME)
        self._last = self._look = None
        self._before.clear()
        self._seen = self.utterance.length if self.utterance else 0
        if self.detect:
            await self._hearer.begun((self.clock - self._endpointing.voiced * FRAME) / RATE, again)

    async def _follow(self, utterance: Utterance) -> None:
        """What a frame of an utterance may lead to: its end, or that it is decoded."""
        if self.detect and await self._is_over(utterance):
            return
        if self._wanted(utterance):
            self._begin(utterance)

    def _begin(self, utterance: Utterance) -> None:
        """Have it decoded, if what is being decoded is not nearly all of it."""
        running, self._seen = self._decoding, utterance.length
        if running is not None and utterance.speech_end - running.given <= TAIL * FRAME:
            running.upto = self._seen
            return
        self._stop_decoding()
        self._decoding = PendingDecode(self._seen, self._seen, anyio.CancelScope())
        self._group.start_soon(self._decode, utterance, self._decoding)

    def _whole(self, utterance: Utterance) -> int:
        """Samples to be decoded until its words are known: a little more than was said, or all there may be."""
        return min(utterance.speech_end + 1, int(self._settings.turn_seconds * RATE))

    def _wanted(self, utterance: Utterance) -> bool:
        """Whether it is to be decoded now: when a pause has begun, and now and then before it."""
        if not self.detect:
            return self.partials and self._decoding is None and self._wanted_by_hand(utterance)
        whole = self._whole(utterance)
        if self._endpointing.silence or utterance.length > whole:
            return self._seen < whole and (self._endpointing.silence >= AFTER or utterance.length > whole + FRAME)
        against = self._hearer.against
        every = frames(AGAINST if against else self._settings.partial_ms) * FRAME
        return self._decoding is None and (against or self.partials) and utterance.length - self._seen >= every

    def _said_by_hand(self, utterance: Utterance) -> int:
        """Samples up to the end of what was said, where the speaker ends turns and the silence after it is theirs."""
        return utterance.length - self._quiet * FRAME

    def _wanted_by_hand(self, utterance: Utterance) -> bool:
        """Now and then, and in a pause, so that what was said before it is settled: no pause ends the turn."""
        said = self._said_by_hand(utterance)
        if utterance.ripe and self._quiet >= SETTLED:
            return self._seen < said + SETTLED * FRAME
        every = max(frames(self._settings.partial_ms) * FRAME, (utterance.length - utterance.settled) // RARER)
        return self._seen < said and utterance.length - self._seen >= every

    async def _is_over(self, utterance: Utterance) -> bool:
        look, whole = self._look, self._whole(utterance)
        if look is None or look.upto < whole:
            return False
        # What goes on if there was nothing has paused long enough once that is known.
        needed = frames(self.silence_ms)
        if self._hearer.against and not look.text:
            needed = min(SETTLED, needed)
        if self.semantic and look.text:
            likely = over(look.finished, look.whole, look.text)
            # What the words alone do not make sure waits for the sound's opinion.
            needed = self._endpointing.rules.silence(likely if look.judged or likely >= SURE else 0.0)
        if self._endpointing.silence < needed and utterance.speech_end < whole:
            return False
        await self._over(utterance, look.text)
        return True

    async def _over(self, utterance: Utterance, text: str) -> None:
        self._endpointing.end()
        # What is still being made out is nothing of the next utterance.
        self._stop_decoding()
        self.utterance, self._last, self._look = None, utterance, None
        if not await self._hearer.over(utterance, text) and self._last is utterance:
            # Speech after a noise does not continue it: the answer that plays or is being generated would be lost.
            self._last = None

    async def _decode(self, utterance: Utterance, decoding: PendingDecode) -> None:
        with decoding.scope:
            text = await self._words(utterance)
        if self._decoding is decoding:
            self._decoding = None
        if decoding.scope.cancel_called or utterance is not self.utterance:
            return
        self._look = look = Hypothesis(decoding.upto, text)
        if look.upto < self._whole(utterance) or not self.detect:
            await self._hearer.partly(utterance, text)
            if self.semantic and text:
                # What the model has read of it by now it need not read in the pause.
                await self._hearer.whole(text)
            return
        # Nothing has been said since: they may have finished.
        if self.semantic and text:
            look.whole = await self._hearer.whole(text)
        if self._holds(utterance, look):
            await self._hearer.guessed(utterance, text)
        if self.semantic and text:
            # Not while the model reads the prompt, for which it wants every core; the longer the pause, the better it
            # is judged.
            await self._hearer.thinking()
            await self._judge(utterance, look)
            look.judged = True
        if self._holds(utterance, look):
            await self._is_over(utterance)

    def _holds(self, utterance: Utterance, look: Hypothesis) -> bool:
        """Whether nothing has been said since."""
        return utterance is self.utterance and look is self._look and look.upto >= self._whole(utterance)

    async def _words(self, utterance: Utterance) -> str:
        """What has been said so far; where its end cannot be understood, what went before, and the `fault` is set."""
        to, ended = utterance.length, not self.detect and self._quiet >= SETTLED
        if not self.detect and 0 < utterance.settled >= self._said_by_hand(utterance):
            # Of mere silence a recogniser may make words.
            return utterance.text("")
        lasted = utterance.speech_end / RATE - SOFT if self.detect else math.inf
        try:
            words = await self._transcription.transcribe_samples(utterance.open(), self.language, Priority.LIVE)
        except ChatapiError as error:
            utterance.fault = error
            return utterance.text("")
        utterance.fault = None
        text, self.spoken = words.text, words.language or self.spoken
        self.certainty, self.lasted = words.logprob, lasted
        ended = ended or (utterance.speech_end < to and self._endpointing.silence >= SETTLED)
        if utterance.ripe and ended:
            utterance.settle(text, to)
            return utterance.text("")
        return utterance.text(text)

    async def _judge(self, utterance: Utterance, look: Hypothesis) -> None:
        """Whether it sounds finished."""
        if not self._holds(utterance, look):
            return
        sound = utterance.samples()
        try:
            async with self._engines.turn_detection.stream(
                lambda engine, stop: engine.end_of_turn_probability(sound, stop), Priority.LIVE
            ) as found:
                async for probability in found:
                    look.finished = probability
        except ChatapiError as error:
            await self._hearer.failed(error)
