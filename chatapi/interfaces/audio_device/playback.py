"""The playback queue of the speaker: pause, resume and position are exact to the sample, without clicks."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from chatapi.audio import RATE, Audio, Samples

DEVICE_RATE = 48_000
"""Sample rate that nearly every speaker supports, in hertz."""
MAX_QUEUED_SECONDS = 120.0
"""Longest audio that may be queued, in seconds."""
FADE = 0.005
"""Length of the fade before and after a pause, in seconds."""
BLOCKS = 512
"""Most blocks that are tracked until the device has played them: at least 5 s of latency."""


@dataclass(frozen=True)
class _Block:
    """The position of one block in the played audio."""

    clock: int
    """Samples the device took before it, including silence."""
    taken: int
    """Samples of queued audio taken before it."""
    count: int
    """Samples of queued audio in it."""


class Playback:
    """A queue of audio between the event loop, which adds, and the device's thread, which takes.

    Samples are counted at the device's rate inside, and at 16 kHz outside. Every method may be called from any thread.
    """

    def __init__(self, rate: int = DEVICE_RATE, max_queued_seconds: float = MAX_QUEUED_SECONDS) -> None:
        self.rate = rate
        """Sample rate that `fill` writes, in hertz."""
        self.dropped = 0
        """Samples at 16 kHz that were dropped because the queue was full."""
        self._max_queued_seconds = max_queued_seconds
        self._lock = threading.Lock()
        self._queue: deque[Samples] = deque()
        self._tail: Samples = np.zeros(0, np.float32)
        self._added = self._taken = self._played = self._clock = 0
        self._latency = 0.0
        self._blocks: deque[_Block] = deque(maxlen=BLOCKS)
        self._paused = False
        self._silent = False

    def add(self, audio: Audio) -> None:
        """Queues audio; what exceeds the longest queue is dropped and counted.

        Each audio is resampled on its own, so it should begin and end in silence, as a synthesized sentence does.
        """
        # Resampled outside the lock, which the device's thread needs; repeated when the device changed meanwhile.
        while not self._append(audio.at(rate := self.rate).samples.astype(np.float32), rate):
            pass

    def pause(self) -> None:
        """Fades out in the next block, then plays silence until `resume` or `clear`."""
        self._paused = True

    def resume(self) -> None:
        """Fades in and continues with the sample after the last one played."""
        self._paused = False

    def clear(self) -> None:
        """Drops the queue, fading out what plays; ends a pause and counts from 0 again."""
        with self._lock:
            if not self._silent:
                tail = self._take(min(self._fade, self._added - self._taken))
                self._tail = tail * self._ramp(len(tail))[::-1]
            self._queue.clear()
            self._blocks.clear()
            self._added = self._taken = self._played = 0
            self._paused = self._silent = False

    def fill(self, block: Samples, latency: float = 0.0) -> None:
        """Fills `block` with the next samples; `latency`: seconds until its first sample leaves the speaker."""
        block[:] = 0
        with self._lock:
            self._latency = latency
            start = min(len(self._tail), len(block))
            block[:start] = self._tail[:start]
            self._tail = self._tail[start:]
            if count := self._fill(block[start:]):
                self._blocks.append(_Block(self._clock + start, self._taken - count, count))
            self._clock += len(block)

    def device_lost(self) -> None:
        """Counts all samples that the device took as played. Call it when the device is gone."""
        with self._lock:
            self._blocks.clear()
            self._played = self._taken
            self._tail = self._tail[:0]

    def set_rate(self, rate: int) -> None:
        """Sets the sample rate of the next device and resamples the queue. Call it only while no device is open."""
        self.device_lost()
        with self._lock:
            if rate == self.rate:
                return
            rest = Audio(np.concatenate([np.zeros(0, np.float32), *self._queue]), self.rate).at(rate).samples
            self._taken = self._played = round(self._taken * rate / self.rate)
            self._added = self._taken + len(rest)
            self._queue = deque([rest] if len(rest) else [])
            self.rate = rate

    @property
    def played(self) -> int:
        """Samples at 16 kHz, queued since the last `clear`, that have left the speaker."""
        with self._lock:
            return self._at_16k(self._played_samples())

    @property
    def playing(self) -> bool:
        """Whether queued audio has not left the speaker yet."""
        with self._lock:
            return self._played_samples() < self._added

    def _append(self, samples: Samples, rate: int) -> bool:
        """Queues the samples; False when `rate` is not the device's rate any more."""
        with self._lock:
            if rate != self.rate:
                return False
            room = max(0, int(self._max_queued_seconds * rate) - (self._added - self._taken))
            self.dropped += self._at_16k(max(0, len(samples) - room))
            if len(kept := samples[:room]):
                self._queue.append(kept)
                self._added += len(kept)
            return True

    def _played_samples(self) -> int:
        """`played` at the device's rate; it never decreases, whatever the latency does."""
        clock = self._clock - int(self._latency * self.rate)
        for block in reversed(self._blocks):
            if block.clock <= clock:
                self._played = max(self._played, block.taken + min(block.count, clock - block.clock))
                break
        return self._played

    def _fill(self, block: Samples) -> int:
        """Writes queued audio to the start of the block and returns the number of samples."""
        if self._silent and self._paused:
            return 0
        wanted = len(block) if not self._paused else min(self._fade, len(block))
        audio = self._take(min(wanted, self._added - self._taken))
        if self._paused:
            audio = audio * self._ramp(len(audio))[::-1]
        elif self._silent and len(audio):
            ramp = self._ramp(min(self._fade, len(audio)))
            audio = np.concatenate([audio[: len(ramp)] * ramp, audio[len(ramp) :]])
        self._silent = self._paused
        block[: len(audio)] = audio
        return len(audio)

    def _take(self, count: int) -> Samples:
        """The next `count` samples, which must be queued."""
        parts: list[Samples] = [np.zeros(0, np.float32)]
        self._taken += count
        while count:
            chunk = self._queue.popleft()
            if len(chunk) > count:
                self._queue.appendleft(chunk[count:])
            parts.append(chunk[:count])
            count -= len(parts[-1])
        taken: Samples = np.concatenate(parts)
        return taken

    @property
    def _fade(self) -> int:
        return int(FADE * self.rate)

    @staticmethod
    def _ramp(count: int) -> Samples:
        """A rise from 0 to 1, half a cosine."""
        ramp: Samples = (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(1, count))).astype(np.float32)
        return ramp

    def _at_16k(self, count: int) -> int:
        return round(count * RATE / self.rate)
