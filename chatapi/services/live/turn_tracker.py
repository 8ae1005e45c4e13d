"""Runs the engines that turn detection needs, and tells the session what its detector decides."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
import numpy as np
from anyio.abc import TaskGroup

from chatapi.audio import Samples
from chatapi.engines import EndOfTurnDetector
from chatapi.engines.call import EngineCall
from chatapi.errors import ChatapiError
from chatapi.runtime.admission import Priority
from chatapi.runtime.detector_thread import DetectorStream
from chatapi.runtime.workers import Engines
from chatapi.services.live.turn_detector import (
    AnswerState,
    Continued,
    Decision,
    Decode,
    Hypothesis,
    Onset,
    TurnDetector,
    TurnOver,
)
from chatapi.services.live.turn_listener import TurnListener
from chatapi.services.live.utterance import Utterance
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import Settings


@dataclass(frozen=True, eq=False)
class _RunningDecode:
    decode: Decode
    scope: anyio.CancelScope


class TurnTracker:
    """Feeds one audio stream to a TurnDetector: VAD of every frame, decodes, end-of-turn scores."""

    def __init__(
        self,
        engines: Engines,
        transcription: FileTranscriber,
        settings: Settings,
        group: TaskGroup,
        listener: TurnListener,
        priority: Priority = Priority.LIVE,
    ) -> None:
        self.detector = TurnDetector(settings.live, settings.vad.threshold)
        self.last_speech_at = time.monotonic()
        """When the last voiced frame arrived, on the monotonic clock."""
        self._engines, self._transcription, self._group = engines, transcription, group
        self._listener, self._priority = listener, priority
        self._vad = DetectorStream(engines.vad.engine.stream())
        self._judging = anyio.Lock(fast_acquire=True)
        """Held while the VAD judges received samples."""
        self._remainder: Samples = np.zeros(0, np.float32)
        self._running: _RunningDecode | None = None

    async def feed(self, samples: Samples) -> None:
        """Processes the next samples, 16 kHz mono, of any number. Callers wait for one block before the next."""
        buffered: Samples = np.concatenate([self._remainder, samples])
        whole = len(buffered) // FRAME * FRAME
        self._remainder = buffered[whole:]
        frames = [buffered[start : start + FRAME] for start in range(0, whole, FRAME)]
        async with self._judging:
            probabilities = await self._vad.probabilities(frames)
        for frame, probability in zip(frames, probabilities, strict=True):
            decisions = self.detector.feed(frame, probability, self._answer_state())
            if self.detector.voiced:
                self.last_speech_at = time.monotonic()
            await self._carry_out(*decisions)

    async def commit(self) -> bool:
        """Ends the turn now, with all samples received. Returns False when there is no utterance."""
        async with self._judging:
            # Samples that are still judged belong to the turn.
            utterance = self.detector.utterance
        if utterance is None:
            return False
        self._discard_hypothesis()
        text = await self._transcribe(utterance)
        if utterance is self.detector.utterance:
            await self._carry_out(self.detector.end_turn(utterance, text))
        return True

    @property
    def decoding(self) -> bool:
        """Whether a part of the stream is being transcribed."""
        return self._running is not None

    def clear(self) -> None:
        """Discards the audio received since the last turn."""
        self._discard_hypothesis()
        self.detector.clear()

    def _discard_hypothesis(self) -> None:
        self.detector.discard_hypothesis()
        self._follow_decode()
        self._listener.cancel_preemptive_answer()

    def _answer_state(self) -> AnswerState:
        listener = self._listener
        return AnswerState(listener.playing, listener.answer_unplayed, listener.during_answer)

    async def _carry_out(self, *decisions: Decision) -> None:
        self._follow_decode()
        for decision in decisions:
            if isinstance(decision, Onset):
                await self._listener.on_speech_started(decision.at, decision.resumed)
            elif isinstance(decision, Continued):
                self._listener.cancel_preemptive_answer()
            else:
                await self._end_turn(decision)

    async def _end_turn(self, over: TurnOver) -> None:
        answered = await self._listener.on_end_of_turn(over.utterance, over.text)
        self.detector.answered(over.utterance, answered)

    def _follow_decode(self) -> None:
        """Runs the decode that the detector wants, and no other."""
        wanted, running = self.detector.decode, self._running
        if running is not None and running.decode is not wanted:
            running.scope.cancel()
            self._running = None
        if wanted is not None and self._running is None:
            self._running = _RunningDecode(wanted, anyio.CancelScope())
            self._group.start_soon(self._run_decode, self._running)

    async def _run_decode(self, running: _RunningDecode) -> None:
        utterance = running.decode.utterance
        with running.scope:
            text = await self._transcribe(utterance)
        if running.scope.cancel_called:
            return
        self._running = None
        hypothesis = self.detector.decoded(running.decode, text)
        if hypothesis is None:
            return
        if self.detector.in_final_pause(hypothesis):
            await self._judge(hypothesis)
            return
        await self._listener.on_partial_transcript(utterance, text)
        if self.detector.options.semantic and text:
            # The model processes the beginning of the prompt now instead of in the pause.
            await self._listener.completeness(text)

    async def _judge(self, hypothesis: Hypothesis) -> None:
        """Judges whether the turn is over; a preemptive answer starts meanwhile."""
        semantic = self.detector.options.semantic and hypothesis.text
        if semantic:
            hypothesis.completeness = await self._listener.completeness(hypothesis.text)
        if self.detector.is_current(hypothesis):
            await self._listener.on_preemptive_turn(hypothesis.utterance, hypothesis.text)
        if semantic:
            # Not during the prefill, which uses every core; a longer pause is also judged better.
            await self._listener.wait_for_prefill()
            await self._judge_audio(hypothesis)
            hypothesis.judged = True
        if self.detector.is_current(hypothesis) and (over := self.detector.turn_over(self._answer_state())):
            await self._carry_out(over)

    async def _judge_audio(self, hypothesis: Hypothesis) -> None:
        """Runs the audio's turn detection model."""
        if not self.detector.is_current(hypothesis):
            return
        samples = hypothesis.utterance.samples()
        try:
            async with self._engines.turn_detection.stream(
                EngineCall.of(EndOfTurnDetector.end_of_turn_probability, samples), self._priority
            ) as probabilities:
                async for probability in probabilities:
                    hypothesis.audio_probability = probability
        except ChatapiError as error:
            await self._listener.on_error(error)

    async def _transcribe(self, utterance: Utterance) -> str:
        """Returns the transcript so far; after an error, only the final part, and sets `utterance.error`."""
        part = self.detector.undecided(utterance)
        if part is None:
            return utterance.full_text("")
        try:
            options = self.detector.options
            result = await self._transcription.transcribe_samples(
                part.samples, options.language, self._priority, options.transcription
            )
        except ChatapiError as error:
            return self.detector.transcription_failed(part, error)
        return self.detector.transcribed(part, result)
