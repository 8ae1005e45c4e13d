"""Voice conversion: adds voices, and says recordings in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import anyio.to_thread
import numpy as np

from chatapi.audio import RATE, Audio, Samples, provenance
from chatapi.audio.decode import Source, decode
from chatapi.engines import VoiceConverter
from chatapi.engines.call import EngineCall
from chatapi.jobs import new_id
from chatapi.observability.metrics.conversions import ConversionMetrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.workers import Engines
from chatapi.services.transcription.speakers import SpeakerLabeller
from chatapi.services.voice_conversion.cloned_voices import ClonedVoices, check_format
from chatapi.services.voice_conversion.quality import QualityReport
from chatapi.services.voice_conversion.references import ReferenceClip, ReferenceMaker
from chatapi.services.voice_conversion.store import StoredVoice, VoiceStore, checked_consent, checked_name
from chatapi.services.voice_conversion.stream_conversion import LIVE, RECORDED, StreamConversion, StreamTiming
from chatapi.settings import Settings

WARM_UP = (np.random.default_rng(1).standard_normal(RATE // 5) / 100).astype(np.float32)
"""A fifth of a second of noise."""
AT_ONCE = 1
"""Conversions and new voices that are computed at once; the engine has one thread."""
UNNAMED = "of the request's clips"
"""What the mark calls the voice of clips in the request."""


@dataclass(frozen=True, eq=False)
class TargetVoice:
    """The voice of a conversion."""

    name: str
    rows: Samples
    """Its reference, of shape (frames, width)."""


@dataclass(frozen=True)
class ConvertedSpeech:
    """A running conversion."""

    rate: int
    """Of the audio, in Hz."""
    chunks: AsyncIterator[Audio]


@dataclass(frozen=True)
class LiveConversion:
    """A running conversion of a microphone."""

    rate: int
    """Of the audio, in Hz."""
    stream: StreamConversion


def mark(target: TargetVoice | Sequence[ReferenceClip] | str) -> str:
    """The comment of recordings that are converted to a voice, or to the one of this name."""
    name = target if isinstance(target, str) else target.name if isinstance(target, TargetVoice) else UNNAMED
    return provenance.converted_comment(name)


class VoiceConversion:
    """Converts with the engine of the role `voice_converter`. `owner` of a method: whose voices it sees; None: all."""

    def __init__(
        self,
        engines: Engines,
        labeller: SpeakerLabeller,
        settings: Settings,
        require: Callable[[], None],
        metrics: ConversionMetrics,
    ) -> None:
        """`require` raises ModelError where the converter has no model."""
        self.require_model = require
        """Raises ModelError where the converter has no model; quick."""
        self._worker = engines.voice_converter
        self._references = ReferenceMaker(engines, labeller, settings)
        # Of its own: a conversion holds its slot for longer than a turn.
        self._admission = Admission("conversions", AT_ONCE, settings.voice_converter.queue)
        self._live = Admission("live conversions", settings.voice_converter.max_live, 0)
        self._most = settings.voice_converter.max_seconds
        self.store = VoiceStore(settings.data, settings.voice_converter.max_voices)
        self.cloned = ClonedVoices(self.store, self._worker, require, metrics)
        self._metrics = metrics
        metrics.active.set_function(lambda: self._admission.used + self._live.used)
        metrics.waiting.set_function(lambda: self._admission.waiting)
        metrics.voices.set_function(lambda: len(self.store.known()))

    def check_admission(self) -> None:
        """Raises Busy or ModelError where a new conversion would be rejected, before anything is received for it."""
        self.require_model()
        with self._metrics.refusals():
            self._admission.check()

    @asynccontextmanager
    async def _admitted(self, admission: Admission, priority: Priority) -> AsyncIterator[None]:
        """A place in a queue. Entering raises Busy where it is full."""
        async with AsyncExitStack() as stack:
            with self._metrics.refusals():
                await stack.enter_async_context(admission.admitted(priority))
            yield

    async def add(self, name: str, consent: str, clips: Sequence[ReferenceClip], owner: str = "") -> StoredVoice:
        """Adds a voice. Raises what `ReferenceMaker.make` raises, Unprocessable for its name or (consent_required),
        WrongMode (voice_exists, too_many_voices), Busy, StorageError."""
        name, consent = checked_name(name), checked_consent(consent)
        await anyio.to_thread.run_sync(self.store.check_room, name, owner)
        async with self._admitted(self._admission, Priority.REQUEST):
            made = await self._references.make(clips)

        def voice(identity: str, created: int) -> StoredVoice:
            return StoredVoice(identity, name, created, consent, owner, made.format, made.clips, made.quality)

        return await anyio.to_thread.run_sync(self.store.add, voice, made.rows)

    async def quality(self, clips: Sequence[ReferenceClip]) -> QualityReport:
        """What the clips of a voice are like. Raises Busy, and what `ReferenceMaker.make` raises."""
        async with self._admitted(self._admission, Priority.REQUEST):
            return (await self._references.make(clips)).quality

    async def voices(self, owner: str | None = None) -> list[StoredVoice]:
        """The voices, by name."""
        return await anyio.to_thread.run_sync(self.store.voices, owner)

    async def find(self, voice: str, owner: str | None = None) -> StoredVoice:
        """The voice with this id or name. Raises NotFound (unknown_voice), WrongMode (ambiguous_voice)."""
        return await anyio.to_thread.run_sync(self.store.find, voice, owner)

    async def remove(self, voice: str, owner: str | None = None) -> None:
        """Deletes a voice. Raises what `find` raises."""
        found = await self.find(voice, owner)
        await anyio.to_thread.run_sync(self.store.remove, found)

    async def exported(self, voice: str, owner: str | None = None) -> bytes:
        """A voice as a ZIP archive. Raises what `find` raises, StorageError."""
        found = await self.find(voice, owner)
        return await anyio.to_thread.run_sync(self.store.exported, found)

    async def target(self, voice: str, owner: str | None = None) -> TargetVoice:
        """A stored voice. Raises what `find` raises, Unprocessable (unknown_reference) for that of another engine."""
        found = await self.find(voice, owner)
        wanted = (await self._worker.open()).reference_format
        check_format(found, wanted)
        return TargetVoice(found.name, await anyio.to_thread.run_sync(self.store.reference, found))

    @asynccontextmanager
    async def convert(
        self, source: Source, target: TargetVoice | Sequence[ReferenceClip], speech_only: bool = True
    ) -> AsyncIterator[ConvertedSpeech]:
        """A recording in a voice, or in that of clips, part by part. Leaving the block cancels the work. `speech_only`:
        whether clips without speech are rejected.

        Entering raises what `decode` raises, TooLarge (audio_too_long), Busy, and what `ReferenceMaker.make` raises;
        the chunks raise the errors of the engine.
        """
        async with self._admitted(self._admission, Priority.REQUEST):
            audio = await anyio.to_thread.run_sync(decode, source, self._most)
            if not isinstance(target, TargetVoice):
                target = await self._target_of(target, speech_only)
            rate = (await self._worker.open()).rate
            conversion = self._conversion(target, RECORDED, Priority.REQUEST)
            speech = self._metrics.counted("request", _whole(conversion, audio.samples))
            async with aclosing(speech) as chunks:
                yield ConvertedSpeech(rate, chunks)

    async def target_of(self, clips: Sequence[ReferenceClip]) -> TargetVoice:
        """The voice of clips. Raises Busy, and what `ReferenceMaker.make` raises."""
        async with self._admitted(self._admission, Priority.REQUEST):
            return await self._target_of(clips, True)

    async def _target_of(self, clips: Sequence[ReferenceClip], speech_only: bool) -> TargetVoice:
        return TargetVoice(UNNAMED, (await self._references.make(clips, False, speech_only)).rows)

    @asynccontextmanager
    async def convert_part(self, samples: Samples, target: TargetVoice, source: str) -> AsyncIterator[ConvertedSpeech]:
        """A part of a recording of a job, 16 kHz mono. It takes no place in the queue, because more urgent work goes
        first. `source`: a name of the source's speaker. Raises the errors of the engine."""
        rate = (await self._worker.open()).rate
        conversion = StreamConversion(self._worker, target.rows, RECORDED, Priority.BULK, source)
        async with aclosing(self._metrics.counted("job", _whole(conversion, samples))) as chunks:
            yield ConvertedSpeech(rate, chunks)

    @asynccontextmanager
    async def live(self, target: TargetVoice, timing: StreamTiming = LIVE) -> AsyncIterator[LiveConversion]:
        """A running conversion of a microphone. Entering raises Busy where max_live of them run, and the errors of the
        engine."""
        async with self._admitted(self._live, Priority.LIVE):
            engine = await self._worker.open()
            # What the first run creates would delay the first sound.
            await self._worker.collect(EngineCall.of(VoiceConverter.convert, WARM_UP, target.rows), Priority.LIVE)
            conversion = self._conversion(target, timing, Priority.LIVE)
            conversion.on_chunk = self._metrics.live_chunk
            with self._metrics.ending("live"):
                yield LiveConversion(engine.rate, conversion)

    def _conversion(self, target: TargetVoice, timing: StreamTiming, priority: Priority) -> StreamConversion:
        return StreamConversion(self._worker, target.rows, timing, priority, source=f"stream {new_id()}")


async def _whole(conversion: StreamConversion, samples: Samples) -> AsyncGenerator[Audio, None]:
    """A recording, converted."""
    for parts in (conversion.feed(samples), conversion.finish()):
        async with aclosing(parts):
            async for part in parts:
                yield part
