"""The harness of every scenario: speech, playback and events on one clock, over any transport."""

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
"""Noise of a quiet room, as RMS of full scale."""
MAX_TOKENS = 60
"""Longest answer, in tokens: long enough to be interrupted, and not longer."""
NEWEST = 2
"""Number of newest blocks that decide whether audio is playing now."""

Microphone = Callable[[Samples, Samples], Samples]
"""From 20 ms of speech and 20 ms of played audio to the microphone's 20 ms, 16 kHz."""


class PlayedAudio(Protocol):
    """The audio that the box plays. Times are seconds of the harness's clock."""

    @property
    def busy(self) -> bool:
        """Whether audio is playing, or is about to."""
        ...

    @property
    def remaining(self) -> float | None:
        """Received audio that is still to be played, in seconds; None: not known."""
        ...

    @property
    def sounding(self) -> bool:
        """Whether audio is playing, as far as that is known."""
        ...

    def audio(self, start: float = 0.0) -> Samples:
        """The audio played since `start`, 16 kHz mono."""
        ...

    def first(self, since: float) -> float | None:
        """When audio plays first, at or after `since`."""
        ...

    def last(self, since: float, until: float) -> float | None:
        """When audio played last between two times."""
        ...


class Harness(Protocol):
    """What a scenario needs: a simulated speaker in a conversation with the box. Times are seconds of one clock."""

    events: list[tuple[float, LiveEvent]]
    """Events, with the time of each."""
    utterances: list[tuple[float, float, str]]
    """Start, end and text of each utterance of the simulated speaker."""

    @property
    def now(self) -> float: ...

    @property
    def speaker(self) -> PlayedAudio: ...

    async def say(self, samples: Samples, words: str = "") -> tuple[float, float]:
        """Speak, 16 kHz. Returns the times of the first and the last sound."""
        ...

    async def wait(self, seconds: float) -> None: ...

    async def until(self, condition: Callable[[], object], patience: float = 15) -> bool:
        """Wait for a condition. Returns whether it was met within `patience` seconds."""
        ...

    async def answered(self, since: float, patience: float = 30) -> bool:
        """Wait until the answer to the speech before `since` has ended and was played. Returns whether it was."""
        ...

    def came(self, kind: type, since: float = 0.0) -> int:
        """The number of events of a kind since a time."""
        ...


class Track:
    """Recorded audio, in blocks of 20 ms."""

    def __init__(self, rate: int = RATE) -> None:
        self.track: list[Samples] = []
        self.rate = rate
        """Sample rate of the blocks, in Hz."""

    @property
    def sounding(self) -> bool:
        return any(np.abs(block).max() > INAUDIBLE for block in self.track[-NEWEST:])

    def audio(self, start: float = 0.0) -> Samples:
        """The audio since `start` seconds, 16 kHz."""
        return Audio(self._since(start), self.rate).at(RATE).samples

    def first(self, since: float, level: float = INAUDIBLE) -> float | None:
        """When the audio is first louder than `level`, at or after `since`, in seconds."""
        loud = np.flatnonzero(np.abs(self._since(since)) > level)
        return round(since * 50) / 50 + float(loud[0]) / self.rate if len(loud) else None

    def last(self, since: float, until: float, level: float = INAUDIBLE) -> float | None:
        """When the audio was last louder than `level` between two times, in seconds."""
        span = self._since(since)[: max(0, round((until - since) * self.rate))]
        loud = np.flatnonzero(np.abs(span) > level)
        return round(since * 50) / 50 + float(loud[-1]) / self.rate if len(loud) else None

    def _since(self, start: float) -> Samples:
        blocks = self.track[max(0, round(start * 50)) :]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


class Speaker(Track):
    """A simulated loudspeaker: plays audio in time and records what it played."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self.played = 0
        """Number of samples played since it was last cleared."""
        self._remaining: Samples = np.zeros(0, np.float32)

    @property
    def busy(self) -> bool:
        return len(self._remaining) > 0

    @property
    def remaining(self) -> float:
        return len(self._remaining) / self.rate

    def play(self, samples: Samples) -> None:
        self._remaining = np.concatenate([self._remaining, samples])

    def clear(self) -> None:
        self._remaining, self.paused, self.played = np.zeros(0, np.float32), False, 0

    def apply(self, event: LiveEvent) -> None:
        """Pause, resume or clear the playback as an event demands."""
        if isinstance(event, SpeechStarted) and event.during_answer:
            self.paused = True
        elif isinstance(event, Resumed):
            self.paused = False
        elif isinstance(event, Interrupted):
            self.clear()

    def block(self) -> Samples:
        """The played audio of the next 20 ms."""
        block: Samples = np.zeros(BLOCK, np.float32)
        if not self.paused:
            part, self._remaining = self._remaining[:BLOCK], self._remaining[BLOCK:]
            block[: len(part)] = part
            self.played += len(part)
        self.track.append(block)
        return block


class HarnessBase(ABC):
    """The part of a harness that all transports share; each has its own `wait`, `_speak` and clock."""

    def __init__(self) -> None:
        self.events: list[tuple[float, LiveEvent]] = []
        self.utterances: list[tuple[float, float, str]] = []

    @property
    @abstractmethod
    def now(self) -> float:
        """Time at which the next speech will begin, in seconds."""

    @property
    @abstractmethod
    def speaker(self) -> PlayedAudio: ...

    @abstractmethod
    async def wait(self, seconds: float) -> None: ...

    @abstractmethod
    async def _speak(self, sound: Samples) -> float:
        """Play speech, 16 kHz, to its end. Returns when it began, in seconds."""

    async def say(self, samples: Samples, words: str = "") -> tuple[float, float]:
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        sound = samples[loud[0] : loud[-1] + 1]
        start = await self._speak(sound)
        end = start + len(sound) / RATE
        self.utterances.append((start, end, words))
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


class BlockClock:
    """A simulated loudspeaker, and a clock that counts the blocks sent."""

    def __init__(self) -> None:
        self._speaker = Speaker()
        self._blocks = 0

    @property
    def now(self) -> float:
        return self._blocks * BLOCK / RATE

    @property
    def speaker(self) -> Speaker:
        return self._speaker


class ContinuousHarness(HarnessBase):
    """A harness whose microphone never stops: speech is queued, and another task calls `tick`."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = anyio.Event()
        self._stopped = False

    async def wait(self, seconds: float) -> None:
        # Less half a sample, because the sum of many blocks is not exact.
        end = self.now + seconds - 0.5 / RATE
        while self.now < end:
            await self._next()

    async def _next(self) -> None:
        """Wait for the next 20 ms. Raises InternalError when the clock has stopped."""
        await self._passed.wait()
        if self._stopped:
            raise InternalError("the clock of the harness has stopped")

    def tick(self, stopped: bool = False) -> None:
        """Advance the clock by 20 ms, or stop it."""
        self._stopped = stopped
        passed, self._passed = self._passed, anyio.Event()
        passed.set()


def blocks_of(sound: Samples, size: int = BLOCK) -> list[Samples]:
    """The audio cut into blocks, the last one padded with silence."""
    return [
        np.pad(part, (0, size - len(part))) for part in (sound[at : at + size] for at in range(0, len(sound), size))
    ]
