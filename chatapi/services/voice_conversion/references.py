"""References of voices: what a voice converter keeps of clips, once they are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread
import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Audio, Samples, is_silent, wav
from chatapi.audio.decode import Source, decode
from chatapi.audio.loudness import loudness_normalized
from chatapi.engines import VoiceActivityDetector, VoiceConverter
from chatapi.engines.call import EngineCall
from chatapi.errors import ModelError, TooLarge, Unprocessable
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.transcription import segmenter
from chatapi.services.transcription.speakers import SpeakerLabeller
from chatapi.services.voice_conversion import quality
from chatapi.services.voice_conversion.quality import QualityReport
from chatapi.services.voice_conversion.store import StoredClip
from chatapi.settings import Settings

LEAST_SPEECH, MOST_SPEECH = 3.0, 600.0
"""Speech of all clips of a voice, in seconds."""
AUDIBLE = 0.01
"""RMS of a frame of levelled sound, relative to full scale, from which it is audible: -40 dBFS."""
MOST_SECONDS = 1200.0
"""Length of all clips with their pauses, in seconds: 77 MB."""
MOST_CLIPS = 100
"""Largest number of clips of a voice."""


@dataclass(frozen=True)
class ReferenceClip:
    """A recording of a voice."""

    name: str
    source: Source


@dataclass(frozen=True, eq=False)
class Reference:
    """What is kept of a voice."""

    rows: Samples
    """Of shape (frames, width)."""
    format: str
    """The engine's `reference_format`."""
    clips: tuple[StoredClip, ...]
    quality: QualityReport


@dataclass(frozen=True, eq=False)
class _Speech:
    """A decoded clip and its speech."""

    clip: StoredClip
    samples: Samples
    speech: Samples
    spoken: npt.NDArray[np.bool_]
    """Which frames (`quality.FRAME`) are speech."""


class ReferenceMaker:
    """Makes references of clips."""

    def __init__(self, engines: Engines, labeller: SpeakerLabeller, settings: Settings) -> None:
        self._engines, self._labeller = engines, labeller
        self._rules = segmenter.SegmentationRules.of(settings.vad)

    async def make(self, clips: Sequence[ReferenceClip], assessed: bool = True, speech_only: bool = True) -> Reference:
        """The reference of clips of one speaker. `assessed`: whether the number of speakers is found out, too;
        `speech_only`: whether a clip without speech, such as music or noise, is rejected instead of used as it is.

        Raises what `decode` raises; Unprocessable: missing_clips, silent_clip, no_speech, voice_too_short; TooLarge:
        too_many_clips, voice_too_long; ModelError where the model is not installed.
        """
        if not clips:
            raise Unprocessable("the voice has no clips; send at least one", code="missing_clips")
        if len(clips) > MOST_CLIPS:
            raise TooLarge(f"there are {len(clips)} clips; at most {MOST_CLIPS} are allowed", code="too_many_clips")
        engine = await self._engines.voice_converter.open()
        spoken, left = list[_Speech](), MOST_SECONDS
        for clip in clips:
            spoken.append(await self._speech(clip, left, speech_only))
            left -= spoken[-1].clip.seconds
        seconds = sum(len(each.speech) for each in spoken) / RATE
        _check_length(seconds)
        rows = [row for each in spoken for row in await self._rows(each.speech)]
        speakers = await self._speakers([each.samples for each in spoken]) if assessed else None
        report = await anyio.to_thread.run_sync(
            quality.assess, [each.samples for each in spoken], [each.spoken for each in spoken], seconds, speakers
        )
        joined = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
        return Reference(joined, engine.reference_format, tuple(each.clip for each in spoken), report)

    async def _speech(self, clip: ReferenceClip, left: float, speech_only: bool) -> _Speech:
        audio = await anyio.to_thread.run_sync(decode, clip.source, max(1.0, left))
        if is_silent(audio):
            raise Unprocessable(f"the clip {clip.name!r} is silent", code="silent_clip", details={"clip": clip.name})
        # Of quiet speech the detector misses parts.
        levelled = await anyio.to_thread.run_sync(loudness_normalized, audio.samples)
        call = EngineCall.of(VoiceActivityDetector.probabilities, levelled)
        probabilities = await self._engines.vad.collect(call, Priority.REQUEST)
        regions = list(segmenter.regions(probabilities, self._rules))
        if not regions and not speech_only:
            return _sound(clip, audio.samples, levelled)
        if not regions:
            raise Unprocessable(f"the clip {clip.name!r} has no speech", code="no_speech", details={"clip": clip.name})
        spoken = np.zeros(len(levelled) // quality.FRAME, np.bool_)
        for each in regions:
            spoken[each.start // quality.FRAME : -(-each.end // quality.FRAME)] = True
        speech = np.concatenate([levelled[each.start : each.end] for each in regions])
        return _Speech(StoredClip(clip.name, round(audio.seconds, 2)), audio.samples, speech, spoken)

    async def _rows(self, speech: Samples) -> list[Samples]:
        call = EngineCall.of(VoiceConverter.reference, speech)
        async with self._engines.voice_converter.stream(call, Priority.REQUEST) as rows:
            return [each async for each in rows]

    async def _speakers(self, clips: Sequence[Samples]) -> int | None:
        joined = Audio(np.concatenate(clips), RATE)
        try:
            content = await anyio.to_thread.run_sync(wav, joined)
            labels = await self._labeller.labels(content, priority=Priority.REQUEST)
        except ModelError:
            return None
        return max(1, len(labels.names))


def _sound(clip: ReferenceClip, samples: Samples, levelled: Samples) -> _Speech:
    """What is audible of a clip without speech."""
    frames = levelled[: len(levelled) // quality.FRAME * quality.FRAME].reshape(-1, quality.FRAME)
    audible: npt.NDArray[np.bool_] = np.sqrt(np.mean(np.square(frames), axis=1)) >= AUDIBLE
    return _Speech(StoredClip(clip.name, round(len(samples) / RATE, 2)), samples, frames[audible].ravel(), audible)


def _check_length(seconds: float) -> None:
    if seconds < LEAST_SPEECH:
        message = f"the clips have {seconds:.1f} s of speech; at least {LEAST_SPEECH:g} s are needed"
        raise Unprocessable(message, code="voice_too_short", details={"speech_seconds": round(seconds, 2)})
    if seconds > MOST_SPEECH:
        message = f"the clips have {seconds:.0f} s of speech; at most {MOST_SPEECH:g} s are allowed"
        raise TooLarge(message, code="voice_too_long", details={"limit_seconds": MOST_SPEECH})
