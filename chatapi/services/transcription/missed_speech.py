"""Speech that a transcript leaves out: where several sentences are joined, Whisper now and then skips one of them.

The voice activity detector has found each of them, so that a region without a word can be transcribed by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chatapi.audio import RATE
from chatapi.engines import Segment
from chatapi.services.transcription.segmenter import SpeechRegion, TrimmedAudio

LEAST_SECONDS = 0.5
"""Shortest voice, in seconds, that counts as missed: shorter ones are often breaths and clicks."""
LEAST_PROBABILITY = 0.75
"""Mean speech probability from which a region without words counts as missed speech."""
MOST = 4
"""Most regions of one part that are transcribed again: beyond them, the part is no speech that is understood."""


def missed(segments: Sequence[Segment], part: TrimmedAudio) -> Iterator[TrimmedAudio]:
    """The regions of a part in which no word is, each by itself. `segments` have the times of the recording."""
    if len(part.regions) < 2:
        return
    spans = [(each.start, each.end) for segment in segments for each in (segment.words or (segment,))]
    count, before = 0, 0
    for region in part.regions:
        length = region.end - region.start
        if count < MOST and _is_speech(region) and not _has_words(region, spans):
            count += 1
            yield TrimmedAudio(part.samples[before : before + length], (region,))
        before += length


def merged(segments: Iterable[Segment], more: Iterable[Segment]) -> tuple[Segment, ...]:
    """All segments in the order of their times."""
    return tuple(sorted((*segments, *more), key=lambda each: each.start))


def _is_speech(region: SpeechRegion) -> bool:
    seconds = (region.speech_end - region.speech_start) / RATE
    return seconds >= LEAST_SECONDS and region.probability >= LEAST_PROBABILITY


def _has_words(region: SpeechRegion, spans: Iterable[tuple[float, float]]) -> bool:
    start, end = region.speech_start / RATE, region.speech_end / RATE
    return any(first < end and last > start for first, last in spans)
