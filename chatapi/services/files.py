"""Speech written down and texts read aloud, whole or while they come: let in by the gate and bounded in time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Literal

import anyio.to_thread

from chatapi.audio import RATE, Audio, Samples, Source, duration
from chatapi.engines import Voice
from chatapi.errors import Busy, TooLarge, Unprocessable
from chatapi.events import Transcript
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.streaming import StreamingTranscriber
from chatapi.services.transcription.transcriber import TranscribedPart, TranscriptionRequest, too_long
from chatapi.services.turns.run import Tell, TurnLimits, TurnRun
from chatapi.settings import Settings

By = Literal["text", "voice"]

WAIT_SECONDS = 600
"""How long a long recording may wait for others to be done: as long as OpenAI's clients wait for an answer."""
SMALL = 256 << 10
"""Bytes of a file that is taken to be short without looking: of 64 s at 32 kbit/s."""


class SpeechRequests:
    """The ability. `heard` and `dictated`, `read` and `followed` are its doors."""

    def __init__(
        self,
        dictation: StreamingTranscriber,
        synthesis: SpeechSynthesis,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.dictation = dictation
        self.transcription = dictation.transcription
        self.synthesis = synthesis
        self.admission = admission
        self.limits = settings.limits
        self.metrics = metrics
        # Taken before the turns' gate: long recordings shall not hold all of its slots for minutes.
        self.long = Admission("queue of long recordings", max(1, self.limits.concurrent // 2), self.limits.queue)

    def check_room(self) -> None:
        """Raises Busy where a request that came now would be refused: nobody needs to send a file for that."""
        try:
            self.admission.check()
        except Busy:
            self.metrics.refused.inc()
            raise

    @asynccontextmanager
    async def heard(
        self, source: Source, options: TranscriptionRequest, traceparent: str = ""
    ) -> AsyncIterator[AsyncIterator[TranscribedPart]]:
        """The passages of a recording as they are understood, the last one with all of it done; leaving stops it.

        Raises on entering what is wrong with the file from its start and with what is asked; the rest is raised by the
        passages. The work may take as long as a turn, and a second more for each second of sound that is done.
        """
        longest = self.limits.file_seconds if options.longest is None else options.longest
        options = replace(options, longest=longest)
        self.transcription.check(options)
        stated = await anyio.to_thread.run_sync(_stated, source)
        if stated is not None and stated > longest:
            raise too_long(longest)
        bulk = stated is None or stated > self.limits.audio_seconds
        priority = Priority.BULK if bulk else Priority.REQUEST
        run = self._course("voice", traceparent, self.long if bulk else None)

        async def work(tell: Tell[TranscribedPart]) -> None:
            async def told(transcribed_part: TranscribedPart) -> None:
                run.sounded(transcribed_part.done)
                run.timings = replace(run.timings, audio=transcribed_part.done)
                await tell(transcribed_part)

            await self.transcription.work_through(source, options, told, priority)
            run.mark("transcript")
            run.mark("end")

        async with run.taken(work, priority) as transcribed_parts:
            yield transcribed_parts

    @asynccontextmanager
    async def dictated(
        self, blocks: AsyncIterator[Samples], language: str | None = None
    ) -> AsyncIterator[AsyncIterator[Transcript]]:
        """What is still being said, a stretch at a time, each as soon as it is over; leaving stops it.

        `blocks`: 16 kHz mono, whose giver bounds how long it waits for them. It has a slot of the gate while they come,
        so it may last as long as a turn and a second more for each second of sound, of which there may be as much as in
        a turn. The transcripts raise Busy, Deadline, TooLarge (audio_too_long), Unprocessable (unknown_language), and
        what `blocks` raise.
        """
        run = self._course("voice")

        async def work(tell: Tell[Transcript]) -> None:
            sound = self._counted(blocks, run)
            async with aclosing(self.dictation.hear(sound, language, Priority.REQUEST)) as found:
                async for transcript in found:
                    run.timings = replace(run.timings, speech_end=transcript.end)
                    await tell(transcript)
            run.mark("transcript")
            run.mark("end")

        async with run.taken(work, Priority.REQUEST) as transcripts:
            yield transcripts

    async def _counted(self, blocks: AsyncIterator[Samples], run: TurnRun) -> AsyncIterator[Samples]:
        most, heard = self.limits.audio_seconds, 0
        async for samples in blocks:
            heard += len(samples)
            if heard > most * RATE:
                raise TooLarge(f"the audio is longer than {most:g} seconds", code="audio_too_long")
            run.sounded(heard / RATE)
            run.timings = replace(run.timings, audio=heard / RATE)
            yield samples

    @asynccontextmanager
    async def read(
        self, text: str, voice: str | None = None, speed: float = 1.0, traceparent: str = ""
    ) -> AsyncIterator[AsyncIterator[Audio]]:
        """A text spoken, a piece at a time, each as soon as it is; leaving stops it.

        Raises on entering TooLarge (prompt_too_long) and Unprocessable (empty_text, unknown_voice); what fails later
        is raised by the pieces.
        """
        if len(text) > (most := self.limits.prompt_chars):
            raise TooLarge(
                f"the text has {len(text)} characters; at most {most} are taken",
                code="prompt_too_long",
                details={"limit_chars": most, "param": "input"},
            )
        self.synthesis.cut(text, self.synthesis.voice(voice))
        async with self._spoken(lambda: self.synthesis.say(text, voice, speed), traceparent) as pieces:
            yield pieces

    @asynccontextmanager
    async def followed(self, deltas: AsyncIterator[str], voice: Voice) -> AsyncIterator[AsyncIterator[Audio]]:
        """A text spoken while it is still being written, each sentence as soon as it is whole; leaving stops it.

        It has a slot of the gate while the text comes, whose giver bounds how long it waits for it. The pieces raise
        Busy, Deadline, Unprocessable (empty_text), and what `deltas` raise.
        """
        async with self._spoken(lambda: self.synthesis.follow(deltas, voice)) as pieces:
            yield pieces

    @asynccontextmanager
    async def _spoken(
        self, speech: Callable[[], AsyncGenerator[Audio, None]], traceparent: str = ""
    ) -> AsyncIterator[AsyncIterator[Audio]]:
        run = self._course("text", traceparent)

        async def work(tell: Tell[Audio]) -> None:
            seconds = 0.0
            async with aclosing(speech()) as said:
                async for audio in said:
                    run.mark("first_audio")
                    seconds += audio.seconds
                    run.sounded(seconds)
                    run.timings = replace(run.timings, spoken=seconds)
                    await tell(audio)
            if not seconds:
                raise Unprocessable("there is nothing to say in the text", code="empty_text")
            run.mark("end")

        async with run.taken(work, Priority.REQUEST) as pieces:
            yield pieces

    def _course(self, heard: By, traceparent: str = "", before: Admission | None = None) -> TurnRun:
        voice = heard == "voice"
        turn_limits = TurnLimits(self.limits.turn_seconds, voice, not voice, traceparent, "file", before, WAIT_SECONDS)
        return TurnRun(self.admission, self.metrics, turn_limits)


def _stated(source: Source) -> float | None:
    """Seconds that a file states; None: it states none, 0: it is small. Raises BadInput (bad_audio)."""
    if isinstance(source, bytes) and len(source) <= SMALL:
        return 0.0
    return duration(source) or None
