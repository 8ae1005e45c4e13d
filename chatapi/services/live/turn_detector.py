"""Turn detection of one audio stream: frames, transcripts and scores in, decisions out.

Nothing waits here and no engine is called: `turn_tracker` runs the engines and carries out the decisions. Time is
counted in samples received.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.services.live.endpointing import (
    CONFIDENT,
    Endpointing,
    EndpointingRules,
    TurnBoundary,
    end_of_turn_probability,
    frames,
)
from chatapi.services.live.options import SessionOptions
from chatapi.services.live.utterance import Utterance
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.transcriber import TranscriptText
from chatapi.settings import LiveSettings

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


@dataclass(frozen=True)
class AnswerState:
    """What turn detection needs to know of the answer."""

    playing: bool = False
    """Whether an answer is being played."""
    unplayed: bool = False
    """Whether nothing of the last turn's answer has been played and the turn may therefore continue."""
    during_answer: bool = False
    """Whether the current utterance began during an answer."""


@dataclass(frozen=True)
class Onset:
    """Decision: speech started."""

    at: float
    """Position in the stream, in seconds."""
    resumed: bool
    """Whether it continues the last turn."""


@dataclass(frozen=True)
class Continued:
    """Decision: speech continues after a pause; the turn is not over."""


@dataclass(frozen=True)
class TurnOver:
    """Decision: the turn is over; `TurnDetector.answered` reports whether it is answered."""

    utterance: Utterance
    text: str


Decision = Onset | Continued | TurnOver


@dataclass(eq=False)
class Decode:
    """A transcription of an utterance that is to run."""

    utterance: Utterance
    given: int
    """Samples of the utterance that it decodes."""
    counted: int
    """Samples of the utterance that count as decoded when it is done."""


@dataclass(eq=False)
class Hypothesis:
    """The transcript of an utterance up to a pause, and what it says about the end of the turn."""

    utterance: Utterance
    decoded: int
    """Samples of the utterance that are decoded."""
    text: str
    completeness: float | None = None
    """Probability that the text is complete; None: unknown."""
    audio_probability: float | None = None
    """Probability that the audio is the end of a turn; None: unknown."""
    judged: bool = False
    """Whether both probabilities are final."""


@dataclass(frozen=True, eq=False)
class Undecided:
    """The part of an utterance that is to be transcribed, and the state of the stream at that moment."""

    utterance: Utterance
    samples: Samples
    """16 kHz mono."""
    end: int
    """Length of the utterance, in samples."""
    in_pause: bool
    """Whether a word has ended, so that the transcript can become final."""
    speech_seconds: float
    """Length of the utterance's speech, in seconds."""


class TurnDetector:
    """Detects the turns of one audio stream."""

    def __init__(self, settings: LiveSettings, threshold: float) -> None:
        """`threshold`: probability from which a frame is speech, unless the session's options set another."""
        self.options = SessionOptions()
        self.utterance: Utterance | None = None
        """The current utterance; None: no speech."""
        self.decode: Decode | None = None
        """The decode that is to run now."""
        self.clock = 0
        """Samples received."""
        self.voiced = False
        """Whether the last frame was speech."""
        self.detected_language = ""
        """Language of the last transcript; empty: none yet."""
        self.avg_logprob = 0.0
        """Mean log-probability of the last transcript."""
        self.speech_seconds = 0.0
        """Length of the speech of the last transcript, with all speech before it in the turn, in seconds."""
        self._settings, self._threshold = settings, threshold
        self._endpointing = Endpointing(EndpointingRules.of(settings, threshold))
        self._preroll: deque[Samples] = deque(maxlen=PREROLL_FRAMES)
        self._last: Utterance | None = None
        """The utterance that just ended; it still grows, because speech can continue it."""
        self._requested = 0
        """Samples of the utterance that are decoded or being decoded."""
        self._silent_frames = 0
        """Consecutive frames without speech, where the client ends turns."""
        self._hypothesis: Hypothesis | None = None
        """The last hypothesis; it is valid until speech continues."""

    @property
    def detect(self) -> bool:
        """Whether turn detection ends turns; otherwise the client does."""
        return self.options.detect

    def configure(self, options: SessionOptions) -> None:
        """Applies these options from now on."""
        self.options = options
        threshold = self._threshold if options.threshold is None else options.threshold
        self._endpointing.rules = EndpointingRules.of(self._settings, threshold, options.delay_factor)

    def feed(self, frame: Samples, probability: float, answer: AnswerState) -> list[Decision]:
        """Processes the next 512 samples of 16 kHz mono and the VAD's speech probability."""
        self.clock += FRAME
        boundary = self._boundary(frame, probability, answer)
        self.voiced = not self.detect or (self._endpointing.in_speech and self._endpointing.silent_frames == 0)
        for utterance in (self.utterance, self._last):
            if utterance is not None:
                utterance.add(frame, self.voiced)
        if self._last is not None and self.clock - self._last.start - self._last.speech_end >= RESUME_WINDOW:
            self._last = None
        decisions: list[Decision] = []
        if boundary is TurnBoundary.ONSET:
            decisions += self._start_utterance(frame, answer)
        elif boundary is TurnBoundary.RESUMED:
            decisions.append(Continued())
        if self.utterance is None:
            self._preroll.append(frame)
            return decisions
        if over := self.turn_over(answer):
            return [*decisions, over]
        if self._decode_due(self.utterance, answer):
            self._request_decode(self.utterance)
        return decisions

    def end_turn(self, utterance: Utterance, text: str) -> TurnOver:
        """Ends the turn now."""
        self._endpointing.end()
        # A running decode does not belong to the next utterance.
        self.decode = self.utterance = self._hypothesis = None
        self._last = utterance
        return TurnOver(utterance, text)

    def answered(self, utterance: Utterance, answered: bool) -> None:
        """Takes note of whether a turn that is over is answered."""
        if not answered and self._last is utterance:
            # Speech after a noise does not continue it: that would cancel the answer that plays or is generated.
            self._last = None

    def discard_hypothesis(self) -> None:
        """Forgets what was transcribed since the last onset, and stops a running decode."""
        self.decode = self._hypothesis = None

    def clear(self) -> None:
        """Discards the audio received since the last turn."""
        self.discard_hypothesis()
        self.utterance = self._last = None
        self._endpointing.end()
        self._preroll.clear()

    def undecided(self, utterance: Utterance) -> Undecided | None:
        """Returns what is to be transcribed now; None: ASR may produce words from the rest, which is silence."""
        manual, words_over = not self.detect, self._silent_frames >= WORD_END
        if manual and 0 < utterance.final_samples >= self._manual_speech_end(utterance):
            return None
        seconds = math.inf if manual else utterance.speech_end / RATE - PREROLL_SILENCE
        samples = utterance.undecided_samples()
        return Undecided(utterance, samples, utterance.length, manual and words_over, seconds)

    def transcribed(self, part: Undecided, found: TranscriptText) -> str:
        """Takes the transcript of `part`, and returns that of the whole utterance."""
        utterance = part.utterance
        utterance.error = None
        self.detected_language = found.language or self.detected_language
        self.avg_logprob, self.speech_seconds = found.logprob, part.speech_seconds
        silent = utterance.speech_end < part.end and self._endpointing.silent_frames >= WORD_END
        if utterance.can_finalize and (part.in_pause or silent):
            utterance.finalize(found.text, part.end, found.tokens)
            return utterance.full_text("")
        return utterance.full_text(found.text, found.tokens)

    @staticmethod
    def transcription_failed(part: Undecided, error: ChatapiError) -> str:
        """Takes note of an error, and returns the transcript without `part`."""
        part.utterance.error = error
        return part.utterance.full_text("")

    def decoded(self, decode: Decode, text: str) -> Hypothesis | None:
        """Takes the transcript of a decode; None: it is obsolete."""
        if decode is not self.decode:
            return None
        self.decode = None
        if decode.utterance is not self.utterance:
            return None
        self._hypothesis = Hypothesis(decode.utterance, decode.counted, text)
        return self._hypothesis

    def in_final_pause(self, hypothesis: Hypothesis) -> bool:
        """Whether the turn may be over: no speech has followed the hypothesis."""
        return self.detect and hypothesis.decoded >= self._needed_samples(hypothesis.utterance)

    def is_current(self, hypothesis: Hypothesis) -> bool:
        """Whether the hypothesis is the last one, and no speech has followed it."""
        if hypothesis.utterance is not self.utterance or hypothesis is not self._hypothesis:
            return False
        return hypothesis.decoded >= self._needed_samples(hypothesis.utterance)

    def turn_over(self, answer: AnswerState) -> TurnOver | None:
        """Ends the turn if its last hypothesis and the silence after it say so."""
        utterance, hypothesis = self.utterance, self._hypothesis
        if utterance is None or hypothesis is None or not self.detect:
            return None
        needed = self._needed_samples(utterance)
        if hypothesis.decoded < needed:
            return None
        if self._endpointing.silent_frames < self._delay(hypothesis, answer) and utterance.speech_end < needed:
            return None
        return self.end_turn(utterance, hypothesis.text)

    def _boundary(self, frame: Samples, probability: float, answer: AnswerState) -> TurnBoundary | None:
        endpointing = self._endpointing
        if self.detect:
            return endpointing.feed(probability, float(np.sqrt(np.mean(frame**2))), answer.playing)
        self._silent_frames = 0 if probability >= endpointing.rules.threshold else self._silent_frames + 1
        return TurnBoundary.ONSET if self.utterance is None else None

    def _start_utterance(self, frame: Samples, answer: AnswerState) -> list[Decision]:
        last = self._last
        # A client that ends turns itself ends them for good, and may send more audio afterwards.
        continues = self.detect and answer.unplayed
        resumed = continues and last is not None and last.length < self._settings.turn_seconds * RATE
        if resumed:
            self.utterance = last
        else:
            self.utterance = Utterance([*self._preroll, frame], self.clock - (len(self._preroll) + 1) * FRAME)
        self._last = self._hypothesis = None
        self._preroll.clear()
        self._requested = self.utterance.length if self.utterance else 0
        start = (self.clock - self._endpointing.voiced_frames * FRAME) / RATE
        return [Onset(start, resumed)] if self.detect else []

    def _request_decode(self, utterance: Utterance) -> None:
        """Requests a decode, unless a running one covers nearly all of the speech."""
        running, self._requested = self.decode, utterance.length
        if running is not None and utterance.speech_end - running.given <= DECODE_TOLERANCE * FRAME:
            running.counted = self._requested
        else:
            self.decode = Decode(utterance, self._requested, self._requested)

    def _needed_samples(self, utterance: Utterance) -> int:
        """Samples to decode for the full transcript: one more than its speech, or the longest turn."""
        return min(utterance.speech_end + 1, int(self._settings.turn_seconds * RATE))

    def _decode_due(self, utterance: Utterance, answer: AnswerState) -> bool:
        """Whether to decode now: at the beginning of a pause, and from time to time before it."""
        if not self.detect:
            return self.options.partials and self.decode is None and self._manual_decode_due(utterance)
        needed, silent = self._needed_samples(utterance), self._endpointing.silent_frames
        if silent or utterance.length > needed:
            return self._requested < needed and (silent >= DECODE_DELAY or utterance.length > needed + FRAME)
        interval = frames(BARGE_IN_DECODE_MS if answer.during_answer else self._settings.partial_ms) * FRAME
        wanted = answer.during_answer or self.options.partials
        return self.decode is None and wanted and utterance.length - self._requested >= interval

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

    def _delay(self, hypothesis: Hypothesis, answer: AnswerState) -> int:
        """Returns the silence that ends the turn, in frames."""
        delay = frames(self.options.silence_ms)
        if answer.during_answer and not hypothesis.text:
            # Noise: the answer resumes as soon as possible.
            delay = min(WORD_END, delay)
        if self.options.semantic and hypothesis.text:
            audio, completeness = hypothesis.audio_probability, hypothesis.completeness
            probability = end_of_turn_probability(audio, completeness, hypothesis.text)
            # Unless the text alone is conclusive, the audio is awaited.
            conclusive = hypothesis.judged or probability >= CONFIDENT
            delay = self._endpointing.rules.endpointing_delay(probability if conclusive else 0.0)
        return delay
