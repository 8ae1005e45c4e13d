"""Speech synthesis of texts and text streams, with admission, a deadline and a turn record for each request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from chatapi.audio import Audio
from chatapi.engines import Voice
from chatapi.errors import TooLarge
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.speech.synthesis import SpeechSynthesis, empty_text
from chatapi.services.turns.run import Emit, TurnLimits, TurnRun, check_admission
from chatapi.settings import Settings


class SpeechService:
    """Synthesizes a text or a stream of text deltas."""

    def __init__(self, synthesis: SpeechSynthesis, admission: Admission, settings: Settings, metrics: Metrics) -> None:
        self.synthesis = synthesis
        self.admission = admission
        self.limits = settings.limits
        self.metrics = metrics

    def check_admission(self) -> None:
        """Raises Busy where a new request would be rejected."""
        check_admission(self.admission, self.metrics)

    @asynccontextmanager
    async def synthesize(
        self, text: str, voice: str | None = None, speed: float = 1.0, traceparent: str = ""
    ) -> AsyncIterator[AsyncIterator[Audio]]:
        """The audio of a text, each chunk as soon as it is synthesized. Leaving the block cancels the work.

        A text without words has a short silence. Entering raises TooLarge (prompt_too_long) and Unprocessable
        (unknown_voice); the chunks raise all other errors, Unprocessable (empty_text) where the voice has no sound.
        """
        if len(text) > (limit := self.limits.prompt_chars):
            raise TooLarge(
                f"the text has {len(text)} characters; the limit is {limit} (limits.prompt_chars)",
                code="prompt_too_long",
                details={"limit_chars": limit, "param": "input"},
            )
        self.synthesis.voice(voice)
        async with self._stream(lambda: self.synthesis.synthesize_text(text, voice, speed), traceparent) as chunks:
            yield chunks

    @asynccontextmanager
    async def synthesize_stream(self, deltas: AsyncIterator[str], voice: Voice) -> AsyncIterator[AsyncIterator[Audio]]:
        """The audio of a text that still arrives, each sentence as soon as it is complete. Leaving the block cancels.

        The request holds a slot while the text arrives; the source of `deltas` bounds the time between two of them.
        A text without words has a short silence. The chunks raise Busy, DeadlineExceeded, Unprocessable (empty_text),
        and the errors of `deltas`.
        """
        async with self._stream(lambda: self.synthesis.synthesize_deltas(deltas, voice)) as chunks:
            yield chunks

    @asynccontextmanager
    async def _stream(
        self, synthesize: Callable[[], AsyncGenerator[Audio, None]], traceparent: str = ""
    ) -> AsyncIterator[AsyncIterator[Audio]]:
        limits = TurnLimits(
            self.limits.turn_seconds, voice_input=False, voice_reply=True, traceparent=traceparent, kind="file"
        )
        run = TurnRun(self.admission, self.metrics, limits)

        async def work(emit: Emit[Audio]) -> None:
            seconds = 0.0
            async with aclosing(synthesize()) as chunks:
                async for audio in chunks:
                    run.mark("first_audio")
                    seconds += audio.seconds
                    run.extend_deadline(seconds)
                    run.timings = replace(run.timings, spoken=seconds)
                    await emit(audio)
            if not seconds:
                raise empty_text()
            run.mark("end")

        async with run.stream(work, Priority.REQUEST) as chunks:
            yield chunks
