"""Where somebody speaks: from probabilities of speech to stretches of sound, counted in samples and never in time."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import Stop, VoiceActivityDetector, never
from chatapi.settings import VadSettings

FRAME = 512
"""Samples a probability stands for."""
HYSTERESIS = 0.15
"""Speech that has begun goes on until the probability is this far below the threshold."""
MERGE_MS = 400
"""Pauses shorter than this do not end a stretch."""
LONGEST = 28.0
"""Seconds of the longest stretch: what Whisper hears at once, less a little."""
WARM_UP = 32
"""Frames heard again, about a second, where the detector starts afresh within one recording."""
READ = 30 * RATE // FRAME
"""Frames judged at a time."""
FIRST = 8.0
"""Seconds of the first part of a recording, which is told soon."""


def _frames(milliseconds: int) -> int:
    """Frames that last at least so long."""
    return -(-milliseconds * RATE // (FRAME * 1000))


@dataclass(frozen=True)
class SegmentationRules:
    """What counts as speech."""

    threshold: float = 0.5
    min_speech_ms: int = 96
    """Shorter sounds are not speech."""
    pad_ms: int = 200
    """Kept before and after speech."""
    merge_ms: int = MERGE_MS
    """Shorter pauses are part of the speech; at least twice `pad_ms`, so that stretches never overlap."""
    longest: float = LONGEST
    """Seconds; longer speech is cut where it is least likely to be speech."""

    @classmethod
    def of(cls, vad: VadSettings) -> SegmentationRules:
        return cls(vad.threshold, vad.min_speech_ms, vad.pad_ms)

    @property
    def pad(self) -> int:
        """Frames kept before and after speech."""
        return _frames(self.pad_ms)

    @property
    def shortest(self) -> int:
        """Frames of the shortest speech."""
        return max(1, _frames(self.min_speech_ms))

    @property
    def gap(self) -> int:
        """Frames of the shortest pause that separates."""
        return max(1, _frames(self.merge_ms), 2 * self.pad)

    @property
    def room(self) -> int:
        """Frames of speech that fit a stretch beside its padding."""
        return max(8, int(self.longest * RATE) // FRAME - 2 * self.pad)


DEFAULT = SegmentationRules()


@dataclass(frozen=True)
class SpeechRegion:
    """A stretch with speech in it, padding included, in samples."""

    start: int
    end: int
    speech_end: int
    """Where the speech itself ends; where longer speech was cut, the cut."""
    probability: float
    """Of speech, the mean of its frames without the padding."""

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / RATE


@dataclass(frozen=True, eq=False)
class Trimmed:
    """The speech of a recording without the long pauses."""

    samples: Samples
    """Empty where nobody speaks."""
    regions: tuple[SpeechRegion, ...]
    """Where its parts were."""

    @property
    def speech_end(self) -> float:
        """Seconds from the start of the recording to the end of the last word; 0 where nobody speaks."""
        return self.regions[-1].speech_end / RATE if self.regions else 0.0

    def original(self, seconds: float, ends: bool = False) -> float:
        """The time in the recording of a time in `samples`.

        What begins where two parts are joined begins with the later one; what `ends` there, with the one before.
        """
        left = round(seconds * RATE)
        for region in self.regions:
            length = region.end - region.start
            if left < length or (ends and left == length):
                return (region.start + left) / RATE
            left -= length
        return self.regions[-1].end / RATE if self.regions else seconds


def regions(probabilities: Iterable[float], rules: SegmentationRules = DEFAULT) -> Iterator[SpeechRegion]:
    """Stretches of speech in order, each as soon as it is over; remembers no more than the longest stretch.

    The last one may end up to a frame after the recording, because a recording's last frame is padded.
    """
    finder = SpeechRegionFinder(rules)
    for probability in probabilities:
        yield from finder.feed(probability)
    yield from finder.finish()


class SpeechRegionFinder:
    """Finds stretches of speech in a stream that is still coming; remembers no more than the longest stretch."""

    def __init__(self, rules: SegmentationRules = DEFAULT) -> None:
        self._rules = rules
        self._frames = 0
        """Heard so far."""
        self._on = False
        self._run = 0
        """Frames of speech up to now."""
        self._first, self._last = -1, 0
        """Where the stretch that is open begins, -1 where none is, and the end of its speech, in frames."""
        self._floor = 0
        """Where the one before ended."""
        self._recent: list[float] = []
        """Probabilities of the stretch that is open."""
        self._rising: list[float] = []
        """Those of what may become one."""

    @property
    def needed(self) -> int:
        """The first sample that may belong to a stretch which is not over."""
        begun = self._first if self._first >= 0 else self._frames - self._run
        return max(begun - self._rules.pad, self._floor) * FRAME

    def feed(self, probability: float) -> Iterator[SpeechRegion]:
        """The stretches, hardly ever more than one, that are over with the next frame."""
        rules = self._rules
        self._frames += 1
        self._on = probability >= rules.threshold - (HYSTERESIS if self._on else 0)
        self._run = self._run + 1 if self._on else 0
        if self._first >= 0:
            self._recent.append(probability)
        else:
            self._rising = [*self._rising, probability] if self._on else []
        if self._run >= rules.shortest:
            self._last = self._frames
            if self._first < 0:
                # Where longer speech was just cut, a rise may have begun before the cut.
                self._recent = [1.0] * (self._run - len(self._rising)) + self._rising
                self._first, self._rising = self._last - self._run, []
        elif self._first >= 0 and self._frames - self._run - self._last >= rules.gap:
            yield self._found(self._last + rules.pad)
            self._first, self._floor = -1, self._last + rules.pad
        if self._first >= 0 and len(self._recent) >= rules.room:
            cut = self._first + _least_likely(self._recent)
            yield self._found(cut)
            self._recent, self._floor = self._recent[cut - self._first :], cut
            self._first = cut if self._last > cut else -1

    def finish(self) -> Iterator[SpeechRegion]:
        """The stretch that the end of the recording ends, if there is one."""
        if self._first >= 0:
            yield self._found(min(self._last + self._rules.pad, self._frames))
            self._first = -1

    def _found(self, end: int) -> SpeechRegion:
        spoken = min(self._last, end)
        begun = max(self._first - self._rules.pad, self._floor)
        return _region(begun, end, spoken, self._recent[: spoken - self._first])


def trim(samples: Samples, probabilities: Iterable[float], rules: SegmentationRules = DEFAULT) -> Trimmed:
    """The stretches with speech, joined."""
    found = tuple(_within(region, len(samples)) for region in regions(probabilities, rules))
    parts = [samples[region.start : region.end] for region in found]
    return Trimmed(np.concatenate(parts) if parts else samples[:0], found)


def stretches(
    blocks: Iterable[Samples], detector: VoiceActivityDetector, rules: SegmentationRules = DEFAULT, stop: Stop = never
) -> Generator[tuple[SpeechRegion, Samples], None, None]:
    """The speech of a recording of any length as it arrives, each stretch with its sound.

    Holds about a minute of sound, however long the recording is.
    """
    recording = _Recording(blocks, detector, rules, stop)
    for region in regions(recording.probabilities(), rules):
        if stop():
            return
        whole = _within(region, recording.end)
        yield whole, recording.between(whole.start, whole.end)


class _Recording:
    """The last minute of a recording."""

    def __init__(
        self, blocks: Iterable[Samples], detector: VoiceActivityDetector, rules: SegmentationRules, stop: Stop
    ) -> None:
        self._parts = _parts(blocks, int(FIRST * RATE) // FRAME * FRAME, READ * FRAME)
        self._detector = detector
        self._stop = stop
        self._kept = int(rules.longest * RATE) + (rules.gap + rules.pad + rules.shortest + WARM_UP) * FRAME
        self._samples: Samples = np.zeros(0, np.float32)
        self.end = 0
        """Samples heard so far."""

    def probabilities(self) -> Iterator[float]:
        for part in self._parts:
            known = self._samples[-self._kept :]
            before = min(WARM_UP, len(known) // FRAME)
            self._samples = np.concatenate([known, part])
            self.end += len(part)
            heard = self._detector.probabilities(self._samples[len(known) - before * FRAME :], self._stop)
            yield from itertools.islice(heard, before, None)
            if self._stop():
                return

    def between(self, start: int, end: int) -> Samples:
        offset = self.end - len(self._samples)
        return self._samples[start - offset : end - offset].copy()


def _parts(blocks: Iterable[Samples], first: int, size: int) -> Iterator[Samples]:
    """The same sound in parts of `size` samples; the first ones are shorter, and the last one."""
    waiting: list[Samples] = []
    count, wanted = 0, first
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= wanted:
            whole = np.concatenate(waiting)
            start = 0
            while len(whole) - start >= wanted:
                yield whole[start : start + wanted]
                start, wanted = start + wanted, min(size, 2 * wanted)
            waiting, count = [whole[start:]], len(whole) - start
    if count:
        yield np.concatenate(waiting)


def packed(told: Iterable[tuple[SpeechRegion, Samples]], longest: float = LONGEST) -> Generator[Trimmed, None, None]:
    """Stretches joined to as much as a recogniser hears at once: it takes as long for a little of it.

    Of the first there is less, so that something is understood soon.
    """
    waiting: list[tuple[SpeechRegion, Samples]] = []
    most = min(FIRST, longest)
    for region, samples in told:
        if waiting and sum(each.seconds for each, _ in waiting) + region.seconds > most:
            yield _joined(waiting)
            waiting, most = [], longest
        waiting.append((region, samples))
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[tuple[SpeechRegion, Samples]]) -> Trimmed:
    return Trimmed(np.concatenate([samples for _, samples in parts]), tuple(region for region, _ in parts))


def _region(start: int, end: int, speech_end: int, probabilities: Sequence[float]) -> SpeechRegion:
    """From frames to samples."""
    return SpeechRegion(start * FRAME, end * FRAME, speech_end * FRAME, sum(probabilities) / max(1, len(probabilities)))


def _within(region: SpeechRegion, total: int) -> SpeechRegion:
    return replace(region, end=min(region.end, total), speech_end=min(region.speech_end, total))


def _least_likely(probabilities: list[float]) -> int:
    """Where to cut: the middle of the 5 frames of the second half that are least speech, the latest of equals."""
    half = len(probabilities) // 2
    smooth = np.convolve(probabilities, np.ones(5) / 5, mode="same")[half:-2]
    return half + len(smooth) - 1 - int(np.argmin(smooth[::-1]))
