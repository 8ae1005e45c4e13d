"""Turn detection of a live session: transcribes each utterance and decides when the turn is over."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

import anyio
import numpy as np
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.live.endpointing import (
    CONFIDENT,
    Endpointing,
    EndpointingRules,
    TurnBoundary,
    end_of_turn_probability,
    frames,
)
from chatapi.services.live.options import SessionOptions
from chatapi.services.live.turn_listener import TurnListener
from chatapi.services.live.utterance import Utterance
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import Settings

PREROLL_FRAMES = 10
"""Frames kept from before an onset, 320 ms: they contain the quiet start of the first word."""
PREROLL_SILENCE = 0.2
"""Part of the pre-roll that is hardly ever speech, in seconds."""
RESUME_WINDOW = 4 * RATE
"""Time after the end of a turn within which speech can continue it, in samples."""
DECODE_DELAY = 2
"""Silent frames before a pause is decoded, 64 ms: the VAD takes the last consonant for silence, and without it "France"
is transcribed as "friend"."""
DECODE_TOLERANCE = 1
"""Speech frames that a running decode may miss when a pause begins. Starting again costs more, because the encoder of
Whisper cannot be stopped half-way."""
WORD_END = 6
"""Silent frames, 192 ms, after which a word has ended."""
MANUAL_SHARE = 4
"""Where the client ends turns, an utterance is decoded again when this part (1/4) of its undecided length is new: the
share of the machine that this uses does not depend on the length of the turn."""
BARGE_IN_DECODE_MS = 320
"""Speech during an answer between two decodes, in milliseconds."""


@dataclass
class Hypothesis:
    """The transcript of an utterance up to a pause, and what it says about the end of the turn."""

    decoded: int
    """Samples of the utterance that are decoded."""
    text: str
    completeness: float | None = None
    """Probability that the text is complete; None: unknown."""
    audio_probability: float | None = None
    """Probability that the audio is the end of a turn; None: unknown."""
    judged: bool = False
    """Whether both probabilities are final."""


@dataclass
class PendingDecode:
    """A running decode."""

    given: int
    """Samples of the utterance that it decodes."""
    counted: int
    """Samples of the utterance that count as decoded when it is done."""
    scope: anyio.CancelScope


class TurnDetector:
    """Detects the turns of one audio stream; time is counted in samples received."""

    def __init__(
        self,
        engines: Engines,
        transcription: FileTranscriber,
        settings: Settings,
        group: TaskGroup,
        listener: TurnListener,
    ) -> None:
        self._options = SessionOptions()
        self.detected_language = ""
        """Language of the last transcript; empty: none yet."""
        self.avg_logprob = 0.0
        """Mean log-probability of the last transcript."""
        self.speech_seconds = 0.0
        """Length of the speech of the last transcript, with all speech before it in the turn, in seconds."""
        self.utterance: Utterance | None = None
        self.clock = 0
        """Samples received."""
        self.last_speech_at = time.monotonic()
        """When the last voiced frame arrived, on the monotonic clock."""
        self._engines, self._transcription, self._group = engines, transcription, group
        self._settings, self._threshold = settings.live, settings.vad.threshold
        self._listener = listener
        self._endpointing = Endpointing(EndpointingRules.of(settings.live, settings.vad.threshold))
        self._vad = engines.vad.engine.stream()
        self._remainder: Samples = np.zeros(0, np.float32)
        self._preroll: deque[Samples] = deque(maxlen=PREROLL_FRAMES)
        self._last: Utterance | None = None
        """The utterance that just ended; it still grows, because speech can continue it."""
        self._decode: PendingDecode | None = None
        self._requested = 0
        """Samples of the utterance that are decoded or being decoded."""
        self._silent_frames = 0
        """Consecutive frames without speech, where the client ends turns."""
        self._hypothesis: Hypothesis | None = None
        """The last hypothesis; it is valid until speech continues."""

    @property
    def detect(self) -> bool:
        """Whether turn detection ends turns; otherwise the client does."""
        return self._options.detect

    def configure(self, options: SessionOptions) -> None:
        """Applies these options from now on."""
        self._options = options
        threshold = self._threshold if options.threshold is None else options.threshold
        self._endpointing.rules = EndpointingRules.of(self._settings, threshold, options.delay_factor)

    async def feed(self, samples: Samples) -> None:
        """Processes the next samples, 16 kHz mono, of any number."""
        buffered: Samples = np.concatenate([self._remainder, samples])
        whole = len(buffered) // FRAME * FRAME
        self._remainder = buffered[whole:]
        for start in range(0, whole, FRAME):
            await self._process(buffered[start : start + FRAME])

    async def commit(self) -> bool:
        """Ends the turn now. Returns False when there is no utterance."""
        utterance = self.utterance
        if utterance is None:
            return False
        self._discard_hypothesis()
        text = await self._transcribe(utterance)
        if utterance is self.utterance:
            await self._end_turn(utterance, text)
        return True

    def clear(self) -> None:
        """Discards the audio received since the last turn."""
        self._discard_hypothesis()
        self.utterance = self._last = None
        self._endpointing.end()
        self._preroll.clear()

    def _discard_hypothesis(self) -> None:
        self._stop_decode()
        self._hypothesis = None
        self._listener.cancel_preemptive_answer()

    def _stop_decode(self) -> None:
        if self._decode is not None:
            self._decode.scope.cancel()
            self._decode = None

    async def _process(self, frame: Samples) -> None:
        self.clock += FRAME
        probability = self._vad.probability(frame)
        endpointing = self._endpointing
        if self.detect:
            boundary = endpointing.feed(probability, float(np.sqrt(np.mean(frame**2))), self._listener.playing)
        else:
            boundary = TurnBoundary.ONSET if self.utterance is None else None
            self._silent_frames = 0 if probability >= endpointing.rules.threshold else self._silent_frames + 1
        voiced = not self.detect or (endpointing.in_speech and endpointing.silent_frames == 0)
        if voiced:
            self.last_speech_at = time.monotonic()
        for utterance in (self.utterance, self._last):
            if utterance is not None:
                utterance.add(frame, voiced)
        if self._last is not None and self.clock - self._last.start - self._last.speech_end >= RESUME_WINDOW:
            self._last = None
        if boundary is TurnBoundary.ONSET:
            await self._start_utterance(frame)
        elif boundary is TurnBoundary.RESUMED:
            self._listener.cancel_preemptive_answer()
        if self.utterance is None:
            self._preroll.append(frame)
        else:
            await self._end_or_decode(self.utterance)

    async def _start_utterance(self, frame: Samples) -> None:
        last = self._last
        # A client that ends turns itself ends them for good, and may send more audio afterwards.
        resumed = (
            self.detect
            and last is not None
            and self._listener.answer_unplayed
            and last.length < self._settings.turn_seconds * RATE
        )
        if resumed:
            self.utterance = last
        else:
            self.utterance = Utterance([*self._preroll, frame], self.clock - (len(self._preroll) + 1) * FRAME)
        self._last = self._hypothesis = None
        self._preroll.clear()
        self._requested = self.utterance.length if self.utterance else 0
        if self.detect:
            start = (self.clock - self._endpointing.voiced_frames * FRAME) / RATE
            await self._listener.on_speech_started(start, resumed)

    async def _end_or_decode(self, utterance: Utterance) -> None:
        if self.detect and await self._end_if_over(utterance):
            return
        if self._decode_due(utterance):
            self._start_decode(utterance)

    def _start_decode(self, utterance: Utterance) -> None:
        """Starts a decode, unless a running one covers nearly all of the speech."""
        running, self._requested = self._decode, utterance.length
        if running is not None and utterance.speech_end - running.given <= DECODE_TOLERANCE * FRAME:
            running.counted = self._requested
            return
        self._stop_decode()
        self._decode = PendingDecode(self._requested, self._requested, anyio.CancelScope())
        self._group.start_soon(self._run_decode, utterance, self._decode)

    def _needed_samples(self, utterance: Utterance) -> int:
        """Samples to decode for the full transcript: one more than its speech, or the longest turn."""
        return min(utterance.speech_end + 1, int(self._settings.turn_seconds * RATE))

    def _decode_due(self, utterance: Utterance) -> bool:
        """Whether to decode now: at the beginning of a pause, and from time to time before it."""
        if not self.detect:
            return self._options.partials and self._decode is None and self._manual_decode_due(utterance)
        needed, silent = self._needed_samples(utterance), self._endpointing.silent_frames
        if silent or utterance.length > needed:
            return self._requested < needed and (silent >= DECODE_DELAY or utterance.length > needed + FRAME)
        during_answer = self._listener.during_answer
        interval = frames(BARGE_IN_DECODE_MS if during_answer else self._settings.partial_ms) * FRAME
        wanted = during_answer or self._options.partials
        return self._decode is None and wanted and utterance.length - self._requested >= interval

    def _manual_speech_end(self, utterance: Utterance) -> int:
        """End of the speech in samples, where the client ends turns and every frame counts as voiced."""
        return utterance.length - self._silent_frames * FRAME

    def _manual_decode_due(self, utterance: Utterance) -> bool:
        """Whether to decode now: in a pause, which makes the transcript final, and from time to time."""
        speech_end = self._manual_speech_end(utterance)
        if utterance.can_finalize and self._silent_frames >= WORD_END:
            return self._requested < speech_end + WORD_END * FRAME
        undecided = utterance.length - utterance.final_samples
        interval = max(frames(self._settings.partial_ms) * FRAME, undecided // MANUAL_SHARE)
        return self._requested < speech_end and utterance.length - self._requested >= interval

    async def _end_if_over(self, utterance: Utterance) -> bool:
        hypothesis, needed_samples = self._hypothesis, self._needed_samples(utterance)
        if hypothesis is None or hypothesis.decoded < needed_samples:
            return False
        if self._endpointing.silent_frames < self._delay(hypothesis) and utterance.speech_end < needed_samples:
            return False
        await self._end_turn(utterance, hypothesis.text)
        return True

    def _delay(self, hypothesis: Hypothesis) -> int:
        """Returns the silence that ends the turn, in frames."""
        delay = frames(self._options.silence_ms)
        if self._listener.during_answer and not hypothesis.text:
            # Noise: the answer resumes as soon as possible.
            delay = min(WORD_END, delay)
        if self._options.semantic and hypothesis.text:
            audio, completeness = hypothesis.audio_probability, hypothesis.completeness
            probability = end_of_turn_probability(audio, completeness, hypothesis.text)
            # Unless the text alone is conclusive, the audio is awaited.
            conclusive = hypothesis.judged or probability >= CONFIDENT
            delay = self._endpointing.rules.endpointing_delay(probability if conclusive else 0.0)
        return delay

    async def _end_turn(self, utterance: Utterance, text: str) -> None:
        self._endpointing.end()
        # A running decode does not belong to the next utterance.
        self._stop_decode()
        self.utterance, self._last, self._hypothesis = None, utterance, None
        if not await self._listener.on_end_of_turn(utterance, text) and self._last is utterance:
            # Speech after a noise does not continue it: that would cancel the answer that plays or is generated.
            self._last = None

    async def _run_decode(self, utterance: Utterance, decode: PendingDecode) -> None:
        with decode.scope:
            text = await self._transcribe(utterance)
        if self._decode is decode:
            self._decode = None
        if decode.scope.cancel_called or utterance is not self.utterance:
            return
        self._hypothesis = hypothesis = Hypothesis(decode.counted, text)
        if hypothesis.decoded < self._needed_samples(utterance) or not self.detect:
            await self._listener.on_partial_transcript(utterance, text)
            if self._options.semantic and text:
                # The model processes the beginning of the prompt now instead of in the pause.
                await self._listener.completeness(text)
            return
        # No speech followed: the turn may be over.
        if self._options.semantic and text:
            hypothesis.completeness = await self._listener.completeness(text)
        if self._is_current(utterance, hypothesis):
            await self._listener.on_preemptive_turn(utterance, text)
        if self._options.semantic and text:
            # Not during the prefill, which uses every core; a longer pause is also judged better.
            await self._listener.wait_for_prefill()
            await self._judge_audio(utterance, hypothesis)
            hypothesis.judged = True
        if self._is_current(utterance, hypothesis):
            await self._end_if_over(utterance)

    def _is_current(self, utterance: Utterance, hypothesis: Hypothesis) -> bool:
        """Whether no speech has followed."""
        if utterance is not self.utterance or hypothesis is not self._hypothesis:
            return False
        return hypothesis.decoded >= self._needed_samples(utterance)

    async def _transcribe(self, utterance: Utterance) -> str:
        """Returns the transcript so far; after an error, only the final part, and sets `utterance.error`."""
        end, pause = utterance.length, not self.detect and self._silent_frames >= WORD_END
        if not self.detect and 0 < utterance.final_samples >= self._manual_speech_end(utterance):
            # ASR may produce words from silence alone.
            return utterance.full_text("")
        speech_seconds = utterance.speech_end / RATE - PREROLL_SILENCE if self.detect else math.inf
        try:
            result = await self._transcription.transcribe_samples(
                utterance.undecided_samples(), self._options.language, Priority.LIVE
            )
        except ChatapiError as error:
            utterance.error = error
            return utterance.full_text("")
        utterance.error = None
        text, self.detected_language = result.text, result.language or self.detected_language
        self.avg_logprob, self.speech_seconds = result.logprob, speech_seconds
        pause = pause or (utterance.speech_end < end and self._endpointing.silent_frames >= WORD_END)
        if utterance.can_finalize and pause:
            utterance.finalize(text, end)
            return utterance.full_text("")
        return utterance.full_text(text)

    async def _judge_audio(self, utterance: Utterance, hypothesis: Hypothesis) -> None:
        """Runs the audio's turn detection model."""
        if not self._is_current(utterance, hypothesis):
            return
        samples = utterance.samples()
        try:
            async with self._engines.turn_detection.stream(
                lambda engine, stop: engine.end_of_turn_probability(samples, stop), Priority.LIVE
            ) as probabilities:
                async for probability in probabilities:
                    hypothesis.audio_probability = probability
        except ChatapiError as error:
            await self._listener.on_error(error)
