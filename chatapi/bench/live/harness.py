"""What every stage has, whichever door leads to the box: who speaks when, what comes back, and one clock for both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import anyio
import numpy as np

from chatapi.audio import INAUDIBLE, RATE, Audio, Samples
from chatapi.errors import InternalError
from chatapi.events import Interrupted, LiveEvent, Resumed, SpeechStarted, TurnEnded

BLOCK = RATE // 50
HISS = 10 ** (-66 / 20)
"""A quiet room's noise, as RMS of full scale."""
MAX_TOKENS = 60
"""Of an answer: long enough to be interrupted, and not longer."""
NEWEST = 2
"""Blocks of what sounds now."""

Microphone = Callable[[Samples, Samples], Samples]
"""What it gives of 20 ms that are said and 20 ms that are played, 16 kHz."""


class ReceivedTranscript(Protocol):
    """What of the box is to be heard. Times are the stage's seconds."""

    @property
    def busy(self) -> bool:
        """Whether something sounds, or is about to."""
        ...

    @property
    def left(self) -> float | None:
        """Seconds of what the box sent that are still to be heard; None: not known."""
        ...

    @property
    def sounding(self) -> bool:
        """Whether something sounds, as far as that is known."""
        ...

    def heard(self, start: float = 0.0) -> Samples:
        """All that sounded since `start`, 16 kHz mono."""
        ...

    def first(self, since: float) -> float | None:
        """When something sounds, at or after `since`."""
        ...

    def last(self, since: float, until: float) -> float | None:
        """When it last sounded between two times."""
        ...


class Harness(Protocol):
    """What a scene needs: a room with somebody in it who talks with the box. Times are seconds of one clock."""

    events: list[tuple[float, LiveEvent]]
    """With the second at which each came."""
    said: list[tuple[float, float, str]]
    """Start, end and words of what was said to the box."""

    @property
    def now(self) -> float: ...

    @property
    def speaker(self) -> ReceivedTranscript: ...

    async def say(self, samples: Samples, words: str = "") -> tuple[float, float]:
        """Speak, 16 kHz; the seconds at which its first and last sound came."""
        ...

    async def wait(self, seconds: float) -> None: ...

    async def until(self, condition: Callable[[], object], patience: float = 15) -> bool:
        """Whether it came about, within `patience` seconds."""
        ...

    async def answered(self, since: float, patience: float = 30) -> bool:
        """Until the answer to what was said before is over and has been heard."""
        ...

    def came(self, kind: type, since: float = 0.0) -> int:
        """How many events of a kind came since."""
        ...


class Track:
    """What sounded, a block for every 20 ms."""

    def __init__(self, rate: int = RATE) -> None:
        self.track: list[Samples] = []
        self.rate = rate
        """Samples a second of the blocks."""

    @property
    def sounding(self) -> bool:
        return any(np.abs(block).max() > INAUDIBLE for block in self.track[-NEWEST:])

    def heard(self, start: float = 0.0) -> Samples:
        """All that sounded since `start` seconds, 16 kHz."""
        return Audio(self._since(start), self.rate).at(RATE).samples

    def first(self, since: float, level: float = INAUDIBLE) -> float | None:
        """Seconds at which something louder than `level` sounds, at or after `since`."""
        loud = np.flatnonzero(np.abs(self._since(since)) > level)
        return round(since * 50) / 50 + float(loud[0]) / self.rate if len(loud) else None

    def last(self, since: float, until: float, level: float = INAUDIBLE) -> float | None:
        """Seconds at which it was last louder than `level` between two times."""
        span = self._since(since)[: max(0, round((until - since) * self.rate))]
        loud = np.flatnonzero(np.abs(span) > level)
        return round(since * 50) / 50 + float(loud[-1]) / self.rate if len(loud) else None

    def _since(self, start: float) -> Samples:
        blocks = self.track[max(0, round(start * 50)) :]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


class Speaker(Track):
    """Plays what it is given, in time, and remembers what was to be heard."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self.played = 0
        """Samples that sounded since it was last cleared."""
        self._left: Samples = np.zeros(0, np.float32)

    @property
    def busy(self) -> bool:
        return len(self._left) > 0

    @property
    def left(self) -> float:
        return len(self._left) / self.rate

    def give(self, samples: Samples) -> None:
        self._left = np.concatenate([self._left, samples])

    def clear(self) -> None:
        self._left, self.paused, self.played = np.zeros(0, np.float32), False, 0

    def obey(self, event: LiveEvent) -> None:
        """Be silent and go on as an event demands."""
        if isinstance(event, SpeechStarted) and event.during_answer:
            self.paused = True
        elif isinstance(event, Resumed):
            self.paused = False
        elif isinstance(event, Interrupted):
            self.clear()

    def block(self) -> Samples:
        """What sounds in the next 20 ms."""
        block: Samples = np.zeros(BLOCK, np.float32)
        if not self.paused:
            part, self._left = self._left[:BLOCK], self._left[BLOCK:]
            block[: len(part)] = part
            self.played += len(part)
        self.track.append(block)
        return block


class Noise(ABC):
    """The part of a stage that is the same behind every door: `wait`, `_speak` and the clock are each door's own."""

    def __init__(self) -> None:
        self.events: list[tuple[float, LiveEvent]] = []
        self.said: list[tuple[float, float, str]] = []

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds at which what is said next will begin to sound."""

    @property
    @abstractmethod
    def speaker(self) -> ReceivedTranscript: ...

    @abstractmethod
    async def wait(self, seconds: float) -> None: ...

    @abstractmethod
    async def _speak(self, sound: Samples) -> float:
        """Have it sound, 16 kHz, and return when it has: the second at which it began."""

    async def say(self, samples: Samples, words: str = "") -> tuple[float, float]:
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        sound = samples[loud[0] : loud[-1] + 1]
        start = await self._speak(sound)
        end = start + len(sound) / RATE
        self.said.append((start, end, words))
        return start, end

    async def until(self, condition: Callable[[], object], patience: float = 15) -> bool:
        end = self.now + patience
        while not condition():
            if self.now > end:
                return False
            await self.wait(0.02)
        return True

    async def answered(self, since: float, patience: float = 30) -> bool:
        return await self.until(lambda: self.came(TurnEnded, since) > 0 and not self.speaker.busy, patience)

    def came(self, kind: type, since: float = 0.0) -> int:
        return sum(isinstance(event, kind) and at >= since for at, event in self.events)


class Blocks:
    """What a stage has that plays to itself: a speaker of its own, and a clock of the blocks that passed."""

    def __init__(self) -> None:
        self._speaker = Speaker()
        self._blocks = 0

    @property
    def now(self) -> float:
        return self._blocks * BLOCK / RATE

    @property
    def speaker(self) -> Speaker:
        return self._speaker


class Flowing(Noise):
    """A stage whose microphone never stops: what is said joins a queue, and somebody else calls `tick`."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = anyio.Event()
        self._stopped = False

    async def wait(self, seconds: float) -> None:
        # Less half a sample, for the sum of many blocks is not exact.
        end = self.now + seconds - 0.5 / RATE
        while self.now < end:
            await self._next()

    async def _next(self) -> None:
        """Until another 20 ms are over. Raises InternalError when the clock stands still for ever."""
        await self._passed.wait()
        if self._stopped:
            raise InternalError("what gives the stage its time is gone")

    def tick(self, stopped: bool = False) -> None:
        """Another 20 ms are over, or none will follow."""
        self._stopped = stopped
        passed, self._passed = self._passed, anyio.Event()
        passed.set()


def blocks_of(sound: Samples, size: int = BLOCK) -> list[Samples]:
    """Cut into blocks, the last one filled with silence."""
    return [
        np.pad(part, (0, size - len(part))) for part in (sound[at : at + size] for at in range(0, len(sound), size))
    ]
