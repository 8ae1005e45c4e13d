"""Segmentation of audio into speech regions, by the probabilities of a voice activity detector; time is in samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.audio.loudness import loudness
from chatapi.engines import VAD_FRAME, Stop, VoiceActivityDetector, never
from chatapi.settings import VadSettings

FRAME = VAD_FRAME
"""Samples for which the detector gives one probability."""
HYSTERESIS = 0.15
"""Once speech has begun, it continues until its probability is this far below the threshold."""
MERGE_MS = 400
"""Shorter pauses do not end a region, in milliseconds."""
MAX_SECONDS = 28.0
"""Longest region, in seconds: the window of Whisper with some margin."""
WARM_UP_FRAMES = 32
"""Frames processed again, about a second, where the detector restarts within one recording."""
BLOCK_FRAMES = 30 * RATE // FRAME
"""Frames given to the detector at a time."""
FIRST_SECONDS = 8.0
"""Length of the first part of a recording, in seconds: short, so that its transcript comes soon."""
QUIETEST_DB = -10.0
"""Loudness of the quietest region that is transcribed beside a louder one, in dB relative to it. See
docs/measurements/services.md."""
MOST_GAIN = 30.0
"""Largest factor by which a quiet region is amplified: about 30 dB."""


def _frames(milliseconds: int) -> int:
    """The number of frames that last at least this long."""
    return -(-milliseconds * RATE // (FRAME * 1000))


@dataclass(frozen=True)
class SegmentationRules:
    """What counts as speech."""

    threshold: float = 0.5
    """Speech probability from which a frame counts as speech, 0 to 1."""
    min_speech_ms: int = 96
    """Shorter sounds are not speech, in milliseconds."""
    pad_ms: int = 200
    """Padding kept before and after speech, in milliseconds."""
    merge_ms: int = MERGE_MS
    """Shorter pauses are part of the speech, in milliseconds; at least twice `pad_ms`, so regions never overlap."""
    max_seconds: float = MAX_SECONDS
    """Longest region, in seconds; longer speech is cut where it is least likely to be speech."""

    @classmethod
    def of(cls, vad: VadSettings) -> SegmentationRules:
        return cls(vad.threshold, vad.min_speech_ms, vad.pad_ms)

    @property
    def pad_frames(self) -> int:
        """Frames kept before and after speech."""
        return _frames(self.pad_ms)

    @property
    def min_speech_frames(self) -> int:
        """Frames of the shortest speech."""
        return max(1, _frames(self.min_speech_ms))

    @property
    def min_pause_frames(self) -> int:
        """Frames of the shortest pause that ends a region."""
        return max(1, _frames(self.merge_ms), 2 * self.pad_frames)

    @property
    def max_speech_frames(self) -> int:
        """Frames of speech that fit into a region with its padding."""
        return max(8, int(self.max_seconds * RATE) // FRAME - 2 * self.pad_frames)


DEFAULT = SegmentationRules()


@dataclass(frozen=True)
class SpeechRegion:
    """A region that contains speech, padding included, in samples."""

    start: int
    end: int
    speech_end: int
    """End of the speech itself, in samples; where longer speech was cut, the cut."""
    probability: float
    """Mean speech probability of its frames without the padding, 0 to 1."""
    speech_start: int
    """Start of the speech itself, in samples; where longer speech was cut, the cut."""

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / RATE


@dataclass(frozen=True, eq=False)
class TrimmedAudio:
    """The speech of a recording without the long pauses."""

    samples: Samples
    """Empty where there is no speech."""
    regions: tuple[SpeechRegion, ...]
    """The regions of the recording that were joined."""

    @property
    def speech_end(self) -> float:
        """Seconds from the start of the recording to the end of the last speech; 0 where there is none."""
        return self.regions[-1].speech_end / RATE if self.regions else 0.0

    def original(self, seconds: float, ends: bool = False) -> float:
        """The time in the recording, in seconds, of a time in `samples`.

        At the joint of two regions a start maps to the later region, and with `ends` an end to the earlier one.
        """
        left = round(seconds * RATE)
        for region in self.regions:
            length = region.end - region.start
            if left < length or (ends and left == length):
                return (region.start + left) / RATE
            left -= length
        return self.regions[-1].end / RATE if self.regions else seconds


def regions(probabilities: Iterable[float], rules: SegmentationRules = DEFAULT) -> Iterator[SpeechRegion]:
    """The speech regions in order, each as soon as it ends.

    The last region may end up to a frame after the recording, because the last frame of a recording is padded.
    """
    finder = SpeechRegionFinder(rules)
    for probability in probabilities:
        yield from finder.feed(probability)
    yield from finder.finish()


class SpeechRegionFinder:
    """Finds speech regions in a stream; keeps no more probabilities than the longest region has."""

    def __init__(self, rules: SegmentationRules = DEFAULT) -> None:
        self._rules = rules
        self._frames = 0
        """Frames received so far."""
        self._is_speech = False
        self._speech_run = 0
        """Consecutive speech frames up to now."""
        self._first, self._last = -1, 0
        """Start of the open region, -1 where there is none, and the end of its speech, in frames."""
        self._floor = 0
        """End of the previous region, in frames."""
        self._recent: list[float] = []
        """Probabilities of the open region."""
        self._rising: list[float] = []
        """Probabilities of a run of speech that is still too short for a region."""

    @property
    def needed(self) -> int:
        """The first sample that may belong to a region that has not ended."""
        start = self._first if self._first >= 0 else self._frames - self._speech_run
        return max(start - self._rules.pad_frames, self._floor) * FRAME

    def feed(self, probability: float) -> Iterator[SpeechRegion]:
        """The regions, rarely more than one, that end with the next frame."""
        rules = self._rules
        self._frames += 1
        self._is_speech = probability >= rules.threshold - (HYSTERESIS if self._is_speech else 0)
        self._speech_run = self._speech_run + 1 if self._is_speech else 0
        if self._first >= 0:
            self._recent.append(probability)
        else:
            self._rising = [*self._rising, probability] if self._is_speech else []
        if self._speech_run >= rules.min_speech_frames:
            self._last = self._frames
            if self._first < 0:
                # After a cut in longer speech, the run may have begun before the cut.
                self._recent = [1.0] * (self._speech_run - len(self._rising)) + self._rising
                self._first, self._rising = self._last - self._speech_run, []
        elif self._first >= 0 and self._frames - self._speech_run - self._last >= rules.min_pause_frames:
            yield self._region(self._last + rules.pad_frames)
            self._first, self._floor = -1, self._last + rules.pad_frames
        if self._first >= 0 and len(self._recent) >= rules.max_speech_frames:
            cut = self._first + _least_likely(self._recent)
            yield self._region(cut)
            self._recent, self._floor = self._recent[cut - self._first :], cut
            self._first = cut if self._last > cut else -1

    def finish(self) -> Iterator[SpeechRegion]:
        """The region that ends with the recording, if one is open."""
        if self._first >= 0:
            yield self._region(min(self._last + self._rules.pad_frames, self._frames))
            self._first = -1

    def _region(self, end: int) -> SpeechRegion:
        speech_end = min(self._last, end)
        start = max(self._first - self._rules.pad_frames, self._floor)
        return _to_samples(start, end, self._first, speech_end, self._recent[: speech_end - self._first])


def trim(samples: Samples, probabilities: Iterable[float], rules: SegmentationRules = DEFAULT) -> TrimmedAudio:
    """The speech regions of a recording, joined; see `_join`."""
    found = tuple(_clip(region, len(samples)) for region in regions(probabilities, rules))
    return _join([(region, samples[region.start : region.end]) for region in found])


def stream_regions(
    blocks: Iterable[Samples], detector: VoiceActivityDetector, rules: SegmentationRules = DEFAULT, stop: Stop = never
) -> Generator[tuple[SpeechRegion, Samples], None, None]:
    """The speech regions of a recording of any length as it arrives, each with its audio.

    Holds about a minute of audio, however long the recording is.
    """
    recording = _RecordingBuffer(blocks, detector, rules, stop)
    for region in regions(recording.probabilities(), rules):
        if stop():
            return
        clipped = _clip(region, recording.end)
        yield clipped, recording.between(clipped.start, clipped.end)


class _RecordingBuffer:
    """The last minute of a recording."""

    def __init__(
        self, blocks: Iterable[Samples], detector: VoiceActivityDetector, rules: SegmentationRules, stop: Stop
    ) -> None:
        self._parts = _parts(blocks, int(FIRST_SECONDS * RATE) // FRAME * FRAME, BLOCK_FRAMES * FRAME)
        self._detector = detector
        self._stop = stop
        margin = rules.min_pause_frames + rules.pad_frames + rules.min_speech_frames + WARM_UP_FRAMES
        self._capacity = int(rules.max_seconds * RATE) + margin * FRAME
        self._samples: Samples = np.zeros(0, np.float32)
        self.end = 0
        """Samples received so far."""

    def probabilities(self) -> Iterator[float]:
        for part in self._parts:
            kept = self._samples[-self._capacity :]
            warm_up = min(WARM_UP_FRAMES, len(kept) // FRAME)
            self._samples = np.concatenate([kept, part])
            self.end += len(part)
            found = self._detector.probabilities(self._samples[len(kept) - warm_up * FRAME :], self._stop)
            yield from itertools.islice(found, warm_up, None)
            if self._stop():
                return

    def between(self, start: int, end: int) -> Samples:
        offset = self.end - len(self._samples)
        return self._samples[start - offset : end - offset].copy()


def _parts(blocks: Iterable[Samples], first: int, size: int) -> Iterator[Samples]:
    """The same audio in parts of `size` samples; the first parts and the last one are shorter."""
    waiting: list[Samples] = []
    count, wanted = 0, first
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= wanted:
            joined = np.concatenate(waiting)
            start = 0
            while len(joined) - start >= wanted:
                yield joined[start : start + wanted]
                start, wanted = start + wanted, min(size, 2 * wanted)
            waiting, count = [joined[start:]], len(joined) - start
    if count:
        yield np.concatenate(waiting)


def pack(
    found: Iterable[tuple[SpeechRegion, Samples]], max_seconds: float = MAX_SECONDS
) -> Generator[TrimmedAudio, None, None]:
    """Regions joined to parts of up to `max_seconds`: a recognizer takes as long for a short part as for a full one.

    The first part is shorter, so that its transcript comes soon.
    """
    waiting: list[tuple[SpeechRegion, Samples]] = []
    limit = min(FIRST_SECONDS, max_seconds)
    for region, samples in found:
        if waiting and sum(each.seconds for each, _ in waiting) + region.seconds > limit:
            yield _join(waiting)
            waiting, limit = [], max_seconds
        waiting.append((region, samples))
    if waiting:
        yield _join(waiting)


def _join(parts: Sequence[tuple[SpeechRegion, Samples]]) -> TrimmedAudio:
    """Regions of one recording as one audio, the quiet ones amplified to `QUIETEST_DB` below the loudest: beside loud
    speech, Whisper omits quiet speech, such as that of somebody far from the microphone."""
    if not parts:
        return TrimmedAudio(np.zeros(0, np.float32), ())
    powers = [loudness(samples) for _, samples in parts]
    least = max(powers) * 10 ** (QUIETEST_DB / 10)
    levelled = [
        samples * np.float32(min(math.sqrt(least / power), MOST_GAIN)) if 0 < power < least else samples
        for (_, samples), power in zip(parts, powers, strict=True)
    ]
    return TrimmedAudio(np.concatenate(levelled), tuple(region for region, _ in parts))


def _to_samples(
    start: int, end: int, speech_start: int, speech_end: int, probabilities: Sequence[float]
) -> SpeechRegion:
    """A region given in frames, converted to samples."""
    mean = sum(probabilities) / max(1, len(probabilities))
    return SpeechRegion(start * FRAME, end * FRAME, speech_end * FRAME, mean, speech_start * FRAME)


def _clip(region: SpeechRegion, total: int) -> SpeechRegion:
    return replace(region, end=min(region.end, total), speech_end=min(region.speech_end, total))


def _least_likely(probabilities: list[float]) -> int:
    """Where to cut: the middle of the 5 frames in the second half with the least speech; of equals the latest."""
    half = len(probabilities) // 2
    smooth = np.convolve(probabilities, np.ones(5) / 5, mode="same")[half:-2]
    return half + len(smooth) - 1 - int(np.argmin(smooth[::-1]))
