"""Transcription of recordings and audio streams, with admission, a deadline and a turn record for each request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import anyio.to_thread

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import Source, duration
from chatapi.engines import DEFAULT_OPTIONS, TranscriptionOptions
from chatapi.errors import ChatapiError, TooLarge
from chatapi.events import Transcript
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.transcription.decoded_file import too_long
from chatapi.services.transcription.speaker_turns import SpeakerLabels
from chatapi.services.transcription.speakers import Report, SpeakerLabeller, SpeakerOptions
from chatapi.services.transcription.streaming import StreamingTranscriber
from chatapi.services.transcription.transcriber import TranscribedChunk, TranscriptionRequest
from chatapi.services.turns.run import Emit, TurnLimits, TurnRun, check_admission
from chatapi.settings import Settings

log = logging.getLogger(__name__)

WAIT_SECONDS = 600
"""Longest wait of a long recording in its queue, in seconds: as long as OpenAI's clients wait for a response."""
SMALL_FILE_BYTES = 256 << 10
"""Size up to which a file counts as short without a look at its duration: 64 s at 32 kbit/s."""


class TranscriptionService:
    """Transcribes a recording or an audio stream."""

    def __init__(
        self,
        streaming: StreamingTranscriber,
        speakers: SpeakerLabeller,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.streaming = streaming
        self.speakers = speakers
        self.transcriber = streaming.transcriber
        self.admission = admission
        self.limits = settings.limits
        self.metrics = metrics
        # Passed before the admission of all turns: long recordings must not hold all of its slots for minutes.
        self.long_recordings = Admission(
            "queue of long recordings", max(1, self.limits.concurrent // 4), self.limits.queue
        )

    def check_admission(self) -> None:
        """Raises Busy where a new request would be rejected."""
        check_admission(self.admission, self.metrics)

    @asynccontextmanager
    async def transcribe_file(
        self,
        source: Source,
        request: TranscriptionRequest,
        traceparent: str = "",
        speakers: SpeakerOptions | None = None,
    ) -> AsyncIterator[AsyncIterator[TranscribedChunk]]:
        """The chunks of a recording, each as soon as it is transcribed. Leaving the block cancels the work.

        Where `speakers` are asked for, a last chunk without segments has their labels, or why there are none.

        Entering raises the errors of the request and of the start of the file; the chunks raise all others. The
        deadline is that of a turn plus the length of the audio that is processed.
        """
        max_seconds = self.limits.file_seconds if request.max_seconds is None else request.max_seconds
        request = replace(request, max_seconds=max_seconds)
        if speakers is not None:
            # Words tell where the speaker changes.
            request = replace(request, timed=True, options=replace(request.options, words=True))
        self.transcriber.check(request)
        stated = await anyio.to_thread.run_sync(_stated_seconds, source)
        if stated is not None and stated > max_seconds:
            raise too_long(max_seconds)
        is_long = stated is None or stated > self.limits.audio_seconds
        priority = Priority.BULK if is_long else Priority.REQUEST
        run = self._run(traceparent, self.long_recordings if is_long else None)

        async def work(emit: Emit[TranscribedChunk]) -> None:
            await self._transcribe(source, request, speakers, priority, (run, emit))

        async with run.stream(work, priority) as chunks:
            yield chunks

    async def _transcribe(
        self,
        source: Source,
        request: TranscriptionRequest,
        speakers: SpeakerOptions | None,
        priority: Priority,
        to: tuple[TurnRun, Emit[TranscribedChunk]],
    ) -> None:
        """Emit the chunks of a recording, and its speaker labels where they are asked for, within a run."""
        run, emit = to

        async def count_and_emit(chunk: TranscribedChunk) -> None:
            run.extend_deadline(chunk.processed)
            run.timings = replace(run.timings, audio=chunk.processed)
            await emit(chunk)

        await self.transcriber.transcribe_file(source, request, count_and_emit, priority)
        run.mark("transcript")
        if speakers is not None:
            seconds = run.timings.audio or 0.0
            labels = await self._labels(source, speakers, priority, lambda done: run.extend_deadline(seconds + done))
            await emit(TranscribedChunk((), seconds, 0.0, seconds, labels))
        run.mark("end")

    async def _labels(
        self, source: Source, options: SpeakerOptions, priority: Priority, report: Report
    ) -> SpeakerLabels:
        """Speaker labels; an error is no reason to lose the transcript."""
        try:
            return await self.speakers.labels(source, options, priority, report)
        except ChatapiError as error:
            log.warning("no speaker labels: %s", error.message)
            return SpeakerLabels(fault=error)

    @asynccontextmanager
    async def transcribe_stream(
        self,
        blocks: AsyncIterator[Samples],
        language: str | None = None,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> AsyncIterator[AsyncIterator[Transcript]]:
        """A transcript for each speech region of a stream, as soon as the region ends. Leaving the block cancels.

        `blocks` are 16 kHz mono; their source bounds the time between two of them. The request holds a slot while
        they arrive. Its deadline is that of a turn plus the length of the audio, which is limited as in a turn. The
        transcripts raise Busy, DeadlineExceeded, TooLarge (audio_too_long), Unprocessable (unknown_language), and the
        errors of `blocks`.
        """
        run = self._run()

        async def work(emit: Emit[Transcript]) -> None:
            counted = self._counted(blocks, run)
            found = self.streaming.transcribe(counted, language, Priority.REQUEST, options)
            async with aclosing(found) as transcripts:
                async for transcript in transcripts:
                    run.timings = replace(run.timings, speech_end=transcript.end)
                    await emit(transcript)
            run.mark("transcript")
            run.mark("end")

        async with run.stream(work, Priority.REQUEST) as transcripts:
            yield transcripts

    async def _counted(self, blocks: AsyncIterator[Samples], run: TurnRun) -> AsyncIterator[Samples]:
        max_seconds, received = self.limits.audio_seconds, 0
        async for samples in blocks:
            received += len(samples)
            if received > max_seconds * RATE:
                raise TooLarge(f"the audio is longer than {max_seconds:g} seconds", code="audio_too_long")
            run.extend_deadline(received / RATE)
            run.timings = replace(run.timings, audio=received / RATE)
            yield samples

    def _run(self, traceparent: str = "", first_admission: Admission | None = None) -> TurnRun:
        limits = TurnLimits(
            self.limits.turn_seconds,
            voice_input=True,
            voice_reply=False,
            traceparent=traceparent,
            kind="file",
            first_admission=first_admission,
            wait_seconds=WAIT_SECONDS,
        )
        return TurnRun(self.admission, self.metrics, limits)


def _stated_seconds(source: Source) -> float | None:
    """The duration that a file states, in seconds; None: none, 0: the file is small. Raises BadInput (bad_audio)."""
    if isinstance(source, bytes) and len(source) <= SMALL_FILE_BYTES:
        return 0.0
    return duration(source) or None
