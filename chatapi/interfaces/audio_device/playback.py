"""What the speaker is to play, taken block by block: paused, resumed and counted by the sample, without clicks."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from chatapi.audio import RATE, Audio, Samples

DEVICE_RATE = 48_000
"""Samples a second that nearly every speaker takes."""
WAITING = 120.0
"""Seconds of sound that may wait."""
FADE = 0.005
"""Seconds in which sound goes out before a pause, and comes back after it."""
BLOCKS = 512
"""Blocks remembered until the device has played them: at least 5 s of latency."""


@dataclass(frozen=True)
class _Block:
    """Where a block's sound lies."""

    clock: int
    """Samples the device took before it, silence included."""
    taken: int
    """Samples of sound taken before it."""
    count: int
    """Samples of sound in it."""


class Playback:
    """A queue of sound between the event loop, which adds, and the device's thread, which takes.

    Inside, samples are counted at the device's rate; outside, at 16 kHz. Every method may be called from any thread.
    """

    def __init__(self, rate: int = DEVICE_RATE, waiting: float = WAITING) -> None:
        self.rate = rate
        """Samples a second of what `fill` writes."""
        self.dropped = 0
        """Samples at 16 kHz that found no room."""
        self._waiting = waiting
        self._lock = threading.Lock()
        self._pieces: deque[Samples] = deque()
        self._tail: Samples = np.zeros(0, np.float32)
        self._given = self._taken = self._reached = self._clock = 0
        self._latency = 0.0
        self._blocks: deque[_Block] = deque(maxlen=BLOCKS)
        self._paused = False
        self._silent = False

    def give(self, audio: Audio) -> None:
        """Add sound; what passes the longest wait is dropped and counted.

        Each audio is resampled by itself, so it should begin and end in silence, as a spoken sentence does.
        """
        # Resampled outside the lock, which the device's thread needs; again when the device changed meanwhile.
        while not self._append(audio.at(rate := self.rate).samples.astype(np.float32), rate):
            pass

    def pause(self) -> None:
        """Fade out in the next block, then be silent until `resume` or `clear`."""
        self._paused = True

    def resume(self) -> None:
        """Go on, faded in, with the sample after the last one played."""
        self._paused = False

    def clear(self) -> None:
        """Forget all that waits, fading out what sounds; ends a pause and counts from 0 again."""
        with self._lock:
            if not self._silent:
                tail = self._take(min(self._fade, self._given - self._taken))
                self._tail = tail * self._ramp(len(tail))[::-1]
            self._pieces.clear()
            self._blocks.clear()
            self._given = self._taken = self._reached = 0
            self._paused = self._silent = False

    def fill(self, block: Samples, latency: float = 0.0) -> None:
        """Write the next samples over all of `block`; `latency`: seconds until its first one is heard."""
        block[:] = 0
        with self._lock:
            self._latency = latency
            start = min(len(self._tail), len(block))
            block[:start] = self._tail[:start]
            self._tail = self._tail[start:]
            if count := self._fill(block[start:]):
                self._blocks.append(_Block(self._clock + start, self._taken - count, count))
            self._clock += len(block)

    def settle(self) -> None:
        """The device is gone: what it took counts as played, for nobody can say more."""
        with self._lock:
            self._blocks.clear()
            self._reached = self._taken
            self._tail = self._tail[:0]

    def set_rate(self, rate: int) -> None:
        """The next device works at another rate: what waits is resampled. Only while no device takes."""
        self.settle()
        with self._lock:
            if rate == self.rate:
                return
            rest = Audio(np.concatenate([np.zeros(0, np.float32), *self._pieces]), self.rate).at(rate).samples
            self._taken = self._reached = round(self._taken * rate / self.rate)
            self._given = self._taken + len(rest)
            self._pieces = deque([rest] if len(rest) else [])
            self.rate = rate

    @property
    def played(self) -> int:
        """Samples at 16 kHz, of what was given since the last `clear`, that have left the speaker."""
        with self._lock:
            return self._at_16k(self._heard())

    @property
    def playing(self) -> bool:
        """Whether something given is still to be heard."""
        with self._lock:
            return self._heard() < self._given

    def _append(self, samples: Samples, rate: int) -> bool:
        """Whether `rate` is still the device's."""
        with self._lock:
            if rate != self.rate:
                return False
            room = max(0, int(self._waiting * rate) - (self._given - self._taken))
            self.dropped += self._at_16k(max(0, len(samples) - room))
            if len(kept := samples[:room]):
                self._pieces.append(kept)
                self._given += len(kept)
            return True

    def _heard(self) -> int:
        """`played` at the device's rate; never less than it said before, whatever the latency does."""
        clock = self._clock - int(self._latency * self.rate)
        for block in reversed(self._blocks):
            if block.clock <= clock:
                self._reached = max(self._reached, block.taken + min(block.count, clock - block.clock))
                break
        return self._reached

    def _fill(self, block: Samples) -> int:
        """Write sound from the block's start on; how many samples it was."""
        if self._silent and self._paused:
            return 0
        wanted = len(block) if not self._paused else min(self._fade, len(block))
        sound = self._take(min(wanted, self._given - self._taken))
        if self._paused:
            sound = sound * self._ramp(len(sound))[::-1]
        elif self._silent and len(sound):
            ramp = self._ramp(min(self._fade, len(sound)))
            sound = np.concatenate([sound[: len(ramp)] * ramp, sound[len(ramp) :]])
        self._silent = self._paused
        block[: len(sound)] = sound
        return len(sound)

    def _take(self, count: int) -> Samples:
        """The next `count` samples, all of which wait."""
        parts: list[Samples] = [np.zeros(0, np.float32)]
        self._taken += count
        while count:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(piece[count:])
            parts.append(piece[:count])
            count -= len(parts[-1])
        taken: Samples = np.concatenate(parts)
        return taken

    @property
    def _fade(self) -> int:
        return int(FADE * self.rate)

    @staticmethod
    def _ramp(count: int) -> Samples:
        """From nothing to all, in half a cosine."""
        ramp: Samples = (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(1, count))).astype(np.float32)
        return ramp

    def _at_16k(self, count: int) -> int:
        return round(count * RATE / self.rate)
