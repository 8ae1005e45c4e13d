"""Division of an utterance at its pauses into parts that are transcribed at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from chatapi.audio import Samples
from chatapi.services.transcription.segmenter import (
    FRAME,
    HYSTERESIS,
    SegmentationRules,
    SpeechRegion,
    TrimmedAudio,
)

SHORTEST_SECONDS = 5.0
"""Shortest mean length of a part, in seconds. See docs/measurements/services.md."""
PAUSE_FRAMES = 5
"""Shortest pause in which an utterance is divided, 160 ms: within a word, a voice is silent for less."""
LONG_PAUSE_FRAMES = 15
"""Pauses from this length on, 480 ms, are equally good: of these, the one that makes the parts most equal is taken."""
REACH = 0.4
"""How far from its equal share a part may end, relative to the share."""


def divide(
    audio: TrimmedAudio, probabilities: Sequence[float], parts: int, rules: SegmentationRules
) -> list[TrimmedAudio]:
    """The audio in up to `parts` parts of similar length, each of which begins and ends in a pause.

    `probabilities` are those of the whole recording, one for each frame of 512 samples. Fewer parts where the audio is
    short, or where nobody pauses.
    """
    parts = min(parts, int(sum(region.seconds for region in audio.regions) / SHORTEST_SECONDS))
    rest = audio
    divided: list[TrimmedAudio] = []
    for left in range(parts, 1, -1):
        share = len(rest.samples) / left
        pause = _best_pause(rest, probabilities, rules.threshold - HYSTERESIS, share)
        if pause is not None:
            first, rest = _cut(rest, *pause)
            divided.append(first)
    return [*divided, rest]


def _best_pause(
    audio: TrimmedAudio, probabilities: Sequence[float], threshold: float, share: float
) -> tuple[int, int] | None:
    """Start and end, in samples of the recording, of the pause after which the first part ends."""
    best, found = (0, -math.inf), None
    for start, end in _pauses(audio.regions, probabilities, threshold):
        place = _joined_place(audio.regions, (start + end) // 2 * FRAME)
        distance = abs(place - share)
        quality = (min(end - start, LONG_PAUSE_FRAMES), -distance)
        if distance <= REACH * share and quality > best:
            best, found = quality, (start * FRAME, end * FRAME)
    return found


def _pauses(
    regions: Sequence[SpeechRegion], probabilities: Sequence[float], threshold: float
) -> Iterator[tuple[int, int]]:
    """Start and end of each pause between two voices, in frames of the recording."""
    start = None
    for frame in range(regions[0].speech_start // FRAME, -(-regions[-1].speech_end // FRAME)):
        silent = frame < len(probabilities) and probabilities[frame] < threshold
        if silent and start is None:
            start = frame
        elif not silent and start is not None:
            if frame - start >= PAUSE_FRAMES:
                yield start, frame
            start = None


def _joined_place(regions: Sequence[SpeechRegion], sample: int) -> int:
    """The place in the joined audio of a sample of the recording."""
    return sum(max(0, min(sample, region.end) - region.start) for region in regions)


def _cut(audio: TrimmedAudio, start: int, end: int) -> tuple[TrimmedAudio, TrimmedAudio]:
    """The audio before and after the middle of a pause, which is given in samples of the recording."""
    middle = (start + end) // 2 // FRAME * FRAME
    place = _joined_place(audio.regions, middle)
    before = [_before(each, start, middle) for each in audio.regions if each.speech_start < start]
    after = [_after(each, middle, end) for each in audio.regions if each.speech_end > end]
    first, second = audio.samples[:place], audio.samples[place:]
    return _fitted(first, before, from_end=False), _fitted(second, after, from_end=True)


def _before(region: SpeechRegion, start: int, middle: int) -> SpeechRegion:
    return replace(region, end=min(region.end, middle), speech_end=min(region.speech_end, start))


def _after(region: SpeechRegion, middle: int, end: int) -> SpeechRegion:
    return replace(region, start=max(region.start, middle), speech_start=max(region.speech_start, end))


def _fitted(samples: Samples, regions: Sequence[SpeechRegion], from_end: bool) -> TrimmedAudio:
    """The audio of these regions alone: a region without speech on this side of the cut is left out."""
    count = sum(region.end - region.start for region in regions)
    return TrimmedAudio(samples[len(samples) - count :] if from_end else samples[:count], tuple(regions))
