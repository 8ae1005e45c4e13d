"""A room with somebody in it who talks with the box: a virtual microphone and a virtual speaker, 20 ms at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.abilities.live import Live, Options, Session
from chatapi.audio import RATE, Samples
from chatapi.events import Interrupted, LiveEvent, Resumed, Speech, SpeechStarted, TurnEnded

BLOCK = RATE // 50
HISS = 10 ** (-66 / 20)
"""A quiet room's noise, as RMS of full scale."""
TAIL = 4
"""Seconds of echo that are kept."""


Microphone = Callable[[Samples, Samples], Samples]
"""What it gives of 20 ms that are said and 20 ms that are played."""


class Speaker:
    """Plays what it is given, in time, and remembers what was to be heard."""

    def __init__(self) -> None:
        self.track: list[Samples] = []
        """A block for every block of time."""
        self.paused = False
        self._left: Samples = np.zeros(0, np.float32)

    @property
    def busy(self) -> bool:
        return len(self._left) > 0

    def give(self, samples: Samples) -> None:
        self._left = np.concatenate([self._left, samples])

    def clear(self) -> None:
        self._left, self.paused = np.zeros(0, np.float32), False

    def block(self) -> Samples:
        """What sounds in the next 20 ms."""
        block: Samples = np.zeros(BLOCK, np.float32)
        if not self.paused:
            part, self._left = self._left[:BLOCK], self._left[BLOCK:]
            block[: len(part)] = part
        self.track.append(block)
        return block

    def heard(self, start: float = 0.0) -> Samples:
        """All that sounded since `start` seconds."""
        blocks = self.track[round(start * 50) :]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def first(self, since: float) -> float | None:
        """Seconds at which something sounds, at or after `since`."""
        loud = np.flatnonzero(np.abs(self.heard(since)) > 1e-3)
        return round(since * 50) / 50 + loud[0] / RATE if len(loud) else None

    def last(self, since: float, until: float) -> float | None:
        """Seconds at which it last sounded between two times."""
        span = self.heard(since)[: round((until - since) * RATE)]
        loud = np.flatnonzero(np.abs(span) > 1e-3)
        return round(since * 50) / 50 + loud[-1] / RATE if len(loud) else None


class Stage:
    """Time passes here only while something is said or waited for; the clock is the samples sent."""

    def __init__(
        self,
        session: Session,
        events: MemoryObjectReceiveStream[LiveEvent],
        microphone: Microphone,
        random: np.random.Generator,
    ) -> None:
        self.speaker = Speaker()
        self.events: list[tuple[float, LiveEvent]] = []
        """With the second at which each came."""
        self.said: list[tuple[float, float, str]] = []
        """Start, end and words of what was said to the box."""
        self._session = session
        self._arriving = events
        self._microphone = microphone
        self._random = random
        self._blocks = 0
        self._begun = time.perf_counter()

    @property
    def now(self) -> float:
        return self._blocks * BLOCK / RATE

    async def say(self, samples: Samples, words: str = "") -> tuple[float, float]:
        """Speak; the seconds at which its first and last sound came."""
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        sound = samples[loud[0] : loud[-1] + 1]
        start = self.now
        for at in range(0, len(sound), BLOCK):
            block = sound[at : at + BLOCK]
            await self._pass(np.pad(block, (0, BLOCK - len(block))))
        end = start + len(sound) / RATE
        self.said.append((start, end, words))
        return start, end

    async def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 50)):
            await self._pass(np.zeros(BLOCK, np.float32))

    async def until(self, condition: Callable[[], bool], patience: float = 15) -> bool:
        """Whether it came about."""
        end = self.now + patience
        while not condition():
            if self.now > end:
                return False
            await self.wait(0.02)
        return True

    async def answered(self, since: float, patience: float = 30) -> bool:
        """Until the answer to what was said before is over and has been heard."""
        return await self.until(lambda: self.came(TurnEnded, since) > 0 and not self.speaker.busy, patience)

    def came(self, kind: type, since: float = 0.0) -> int:
        """How many events of a kind came since."""
        return sum(isinstance(event, kind) and at >= since for at, event in self.events)

    async def _pass(self, block: Samples) -> None:
        played = self.speaker.block()
        hiss = self._random.normal(0, HISS, BLOCK).astype(np.float32)
        await self._session.hear(self._microphone(np.clip(block + hiss, -1, 1), played))
        self._blocks += 1
        await anyio.sleep(max(0.0, self._begun + self.now - time.perf_counter()))
        while self._arriving.statistics().current_buffer_used:
            self._take(self._arriving.receive_nowait())

    def _take(self, event: LiveEvent) -> None:
        self.events.append((self.now, event))
        if isinstance(event, Speech):
            self.speaker.give(event.audio.at(RATE).samples)
        elif isinstance(event, SpeechStarted) and event.during_answer:
            self.speaker.paused = True
        elif isinstance(event, Resumed):
            self.speaker.paused = False
        elif isinstance(event, Interrupted):
            self.speaker.clear()


def headset(said: Samples, played: Samples) -> Samples:
    """A microphone that does not hear the speaker."""
    return said


@asynccontextmanager
async def stage(live: Live, microphone: Microphone = headset, seed: int = 0) -> AsyncIterator[Stage]:
    """A stage with a session of its own, answers the same each time."""
    options = Options(temperature=0, max_tokens=60)
    async with live.session(options) as (session, events):
        yield Stage(session, events, microphone, np.random.default_rng(seed))
