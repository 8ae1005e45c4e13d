"""Captions of one audio stream: partial text while somebody speaks, and a line when the utterance ends."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Samples
from chatapi.engines import DEFAULT_OPTIONS, TranscriptionOptions
from chatapi.errors import ChatapiError, collapse_exception_group
from chatapi.events import Transcript
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.live.options import SessionOptions
from chatapi.services.live.turn_tracker import TurnTracker
from chatapi.services.live.utterance import Utterance
from chatapi.services.transcription.online_speakers import LONGEST_SPEECH, LabelledStretch, OnlineSpeakers
from chatapi.services.transcription.speakers import KnownSpeaker
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import Settings

log = logging.getLogger(__name__)

LINE_SECONDS = 12.0
"""Longest speech without a pause, in seconds, after which a line ends."""
SILENCE_MS, SPEAKER_SILENCE_MS = 500, 256
"""Silence that ends a line, in milliseconds; with speaker labels shorter, because a line has one speaker."""
STEP = RATE // 10
"""Samples fed at a time, so that a large block delays nothing else."""
AHEAD_SECONDS = 1.0
"""How much faster than in real time audio may come, in seconds."""
POLL_SECONDS = 0.01
"""Interval between two looks whether a decode has ended, in seconds."""

Send = Callable[[Transcript], Awaitable[None]]
"""Receives partial and final transcripts, in order."""


@dataclass(frozen=True)
class CaptionOptions:
    """How a stream is transcribed."""

    language: str | None = None
    """ISO 639-1 code; None: that of the settings, or detected."""
    transcription: TranscriptionOptions = DEFAULT_OPTIONS
    partials: bool = True
    """Whether the text of an utterance that goes on is sent too."""
    speakers: bool = False
    """Whether lines have speaker labels."""
    known: tuple[KnownSpeaker, ...] = ()


DEFAULT_CAPTION_OPTIONS = CaptionOptions()


class Captioner:
    """The captions of one stream, opened by `captioning`. It listens to the turn detection of live conversation, with
    pauses of a fixed length instead of an end-of-turn model, and answers nothing."""

    playing = answer_unplayed = during_answer = False

    def __init__(
        self,
        engines: Engines,
        transcriber: FileTranscriber,
        settings: Settings,
        group: TaskGroup,
        options: CaptionOptions,
        send: Send,
        priority: Priority,
    ) -> None:
        self.seconds = 0.0
        """Audio received, in seconds."""
        self._begun = time.monotonic()
        self._send, self._priority = send, priority
        self._transcriber, self._options = transcriber, options.transcription
        self._speakers = OnlineSpeakers(engines, settings.speaker, options.known) if options.speakers else None
        longest = min(LINE_SECONDS, settings.live.turn_seconds)
        live = settings.live.model_copy(update={"turn_seconds": longest})
        self._tracker = TurnTracker(
            engines, transcriber, settings.model_copy(update={"live": live}), group, self, priority
        )
        self._tracker.detector.configure(
            SessionOptions(
                semantic=False,
                silence_ms=SPEAKER_SILENCE_MS if options.speakers else SILENCE_MS,
                converse=False,
                answer=False,
                partials=options.partials,
                language=options.language,
                transcription=options.transcription,
            )
        )
        self._asr = engines.asr

    async def feed(self, samples: Samples, settled: bool = False) -> None:
        """Processes the next samples, 16 kHz mono, of any number. `settled`: waits for the transcript of what was
        received so far; for a source that can wait, such as a file. Audio that comes faster than in real time waits
        too, so that where lines end does not depend on the speed of the machine."""
        for start in range(0, len(samples), STEP):
            block = samples[start : start + STEP]
            self.seconds += len(block) / RATE
            await self._tracker.feed(block)
            while (settled or self._ahead) and self._tracker.decoding:  # noqa: ASYNC110 - the decode is a task of the tracker's
                await anyio.sleep(POLL_SECONDS)

    @property
    def _ahead(self) -> bool:
        return self.seconds > time.monotonic() - self._begun + AHEAD_SECONDS

    async def finish(self) -> None:
        """Ends the line of the last words; nothing can be fed afterwards."""
        await self._tracker.commit()

    # Turn detection calls these; see TurnListener.

    async def on_speech_started(self, at: float, resumed: bool) -> None:
        self._asr.preload()

    def cancel_preemptive_answer(self) -> None:
        """There are no answers."""

    async def on_partial_transcript(self, utterance: Utterance, text: str) -> None:
        if text:
            await self._send(utterance.transcript(text, self._tracker.detector.detected_language, final=False))

    async def completeness(self, text: str) -> float | None:
        return None

    async def on_preemptive_turn(self, utterance: Utterance, text: str) -> None:
        await self.on_partial_transcript(utterance, text)

    async def wait_for_prefill(self) -> None:
        """There are no answers."""

    async def on_end_of_turn(self, utterance: Utterance, text: str) -> bool:
        if utterance.error is not None:
            await self.on_error(utterance.error)
        if text:
            line = utterance.transcript(text, self._tracker.detector.detected_language)
            for each in await self._lines(line, utterance.last_speech(LONGEST_SPEECH)):
                await self._send(each)
        return False

    async def on_error(self, error: ChatapiError) -> None:
        log.warning("a part of the captions is missing: %s", error.message)

    async def _lines(self, line: Transcript, speech: Samples) -> list[Transcript]:
        """The line with its speaker; where several people speak in it, a line of each. An error is no reason to lose
        the line. `speech`: the audio up to its end."""
        if self._speakers is None:
            return [line]
        try:
            found = await self._speakers.stretches(speech, self._priority)
        except ChatapiError as error:
            log.warning("the speaker is not distinguished: %s", error.message)
            return [line]
        begin = line.end - len(speech) / RATE
        if len(found) > 1 and begin <= line.start + STEP / RATE and (parts := await self._parts(line, speech, found)):
            return parts
        # Speakers that cannot be separated count as the one with the most speech.
        longest = max(found, key=lambda each: each.end - each.start, default=None)
        return [replace(line, speaker=longest.label if longest is not None else "")]

    async def _parts(self, line: Transcript, speech: Samples, found: Sequence[LabelledStretch]) -> list[Transcript]:
        """A line of each stretch, transcribed by itself; none where one of them has no words."""
        begin, parts = line.end - len(speech) / RATE, list[Transcript]()
        for each in found:
            samples = speech[each.start : each.end]
            text = await self._transcriber.transcribe_samples(samples, line.language, self._priority, self._options)
            if not text.text:
                return []
            start, end = begin + each.start / RATE, begin + each.end / RATE
            parts.append(replace(line, text=text.text, start=start, end=end, tokens=(), speaker=each.label))
        return parts


@asynccontextmanager
async def captioning(
    services: tuple[Engines, FileTranscriber, Settings],
    options: CaptionOptions,
    send: Send,
    priority: Priority = Priority.REQUEST,
) -> AsyncIterator[Captioner]:
    """The captions of one stream; leaving the block ends them. Raises Unprocessable (unknown_language), NotReady."""
    engines, transcriber, settings = services
    transcriber.language(options.language)
    await engines.asr.open()
    await engines.vad.open()
    if options.speakers:
        await engines.speaker.open()
    try:
        async with anyio.create_task_group() as group:
            yield Captioner(engines, transcriber, settings, group, options, send, priority)
            group.cancel_scope.cancel()
    except Exception as error:
        if (single := collapse_exception_group(error)) is not error:
            raise single from None
        raise
