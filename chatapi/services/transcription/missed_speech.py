"""Speech that a transcript leaves out: where several sentences are joined, Whisper now and then skips one of them.

The voice activity detector has found each of them, so that a region without a word can be transcribed by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from chatapi.audio import RATE
from chatapi.engines import Segment
from chatapi.services.transcription.segmenter import SpeechRegion, TrimmedAudio

LEAST_SECONDS = 0.5
"""Shortest voice, in seconds, that counts as missed: shorter ones are often breaths and clicks."""
LEAST_PROBABILITY = 0.75
"""Mean speech probability from which a region without words counts as missed speech."""
MOST = 4
"""Most passes over the missed speech of one part; where more regions are missed, several are transcribed together."""


def missed(segments: Sequence[Segment], part: TrimmedAudio) -> list[TrimmedAudio]:
    """The speech of a part in which no word is, each region by itself or, where there are many, a few together.

    `segments` have the times of the recording.
    """
    if len(part.regions) < 2:
        return []
    lengths = [region.end - region.start for region in part.regions]
    audio = dict(zip(part.regions, np.split(part.samples, np.cumsum(lengths)[:-1]), strict=True))
    found = without_words(segments, part)
    size = max(1, -(-len(found) // MOST))
    groups = [tuple(found[first : first + size]) for first in range(0, len(found), size)]
    return [TrimmedAudio(np.concatenate([audio[region] for region in each]), each) for each in groups]


def without_words(segments: Sequence[Segment], part: TrimmedAudio) -> list[SpeechRegion]:
    """The regions of a part that are speech and have no word. `segments` have the times of the recording."""
    spans = [(each.start, each.end) for segment in segments for each in (segment.words or (segment,))]
    return [region for region in part.regions if _is_speech(region) and not _has_words(region, spans)]


def merged(segments: Iterable[Segment], more: Iterable[Segment]) -> tuple[Segment, ...]:
    """All segments in the order of their times."""
    return tuple(sorted((*segments, *more), key=lambda each: each.start))


def _is_speech(region: SpeechRegion) -> bool:
    seconds = (region.speech_end - region.speech_start) / RATE
    return seconds >= LEAST_SECONDS and region.probability >= LEAST_PROBABILITY


def _has_words(region: SpeechRegion, spans: Iterable[tuple[float, float]]) -> bool:
    start, end = region.speech_start / RATE, region.speech_end / RATE
    return any(first < end and last > start for first, last in spans)
