"""The door inside: the ability itself, in this process, fed 20 ms at a time. What the web adds is not in it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.audio import RATE, Samples
from chatapi.bench import Row
from chatapi.bench.live.acoustics import microphone
from chatapi.bench.live.harness import BLOCK, HISS, MAX_TOKENS, Blocks, Harness, Microphone, Noise, blocks_of
from chatapi.events import LiveEvent, Speech
from chatapi.services.live import LiveConversations, LiveSession, SessionOptions

AWAY = 0.1
"""Seconds without a call after which something else was done meanwhile, for which time here stands still."""
STEP, LONGEST = 0.001, 60
"""Seconds that 20 ms take at least where time is skipped, for a task has to take what a thread gave before it computes
more, and at most."""


class InProcessHarness(Blocks, Noise):
    """Time passes here only while something is said or waited for; the clock is the samples sent."""

    def __init__(
        self,
        session: LiveSession,
        events: MemoryObjectReceiveStream[LiveEvent],
        microphone: Microphone,
        random: np.random.Generator,
        computing: Callable[[], bool] | None = None,
    ) -> None:
        """With `computing`, which says whether anything is computed, time does not pass meanwhile, and else at once."""
        Blocks.__init__(self)
        Noise.__init__(self)
        self._session = session
        self._arriving = events
        self._microphone = microphone
        self._random = random
        self._computing = computing
        self._begun = self._left = time.perf_counter()

    async def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 50)):
            await self._pass(np.zeros(BLOCK, np.float32))

    async def _speak(self, sound: Samples) -> float:
        start = self.now
        for block in blocks_of(sound):
            await self._pass(block)
        return start

    async def _pass(self, block: Samples) -> None:
        # Else what comes next would be heard faster than it can be said, until the time is made up for.
        if (away := time.perf_counter() - self._left) > AWAY:
            self._begun += away
        hiss = self._random.normal(0, HISS, BLOCK).astype(np.float32)
        await self._session.feed(self._microphone(np.clip(block + hiss, -1, 1), self._speaker.block()))
        self._blocks += 1
        await self._in_time()
        while self._arriving.statistics().current_buffer_used:
            self._take(self._arriving.receive_nowait())
        self._left = time.perf_counter()

    async def _in_time(self) -> None:
        """Until the next 20 ms begin."""
        if self._computing is None:
            await anyio.sleep(max(0.0, self._begun + self.now - time.perf_counter()))
            return
        for _ in range(round(LONGEST / STEP)):
            await anyio.sleep(STEP)
            if not self._computing():
                break

    def _take(self, event: LiveEvent) -> None:
        self.events.append((self.now, event))
        self._speaker.obey(event)
        if isinstance(event, Speech):
            self._speaker.give(event.audio.at(RATE).samples)


class InProcessTransport:
    """Sessions of an appliance that is here."""

    def __init__(self, live: LiveConversations, hurry: bool = False) -> None:
        """`hurry`: as if computing took no time, and nobody had to wait for the clock."""
        self._live = live
        self._hurry = hurry

    @asynccontextmanager
    async def stage(self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS) -> AsyncIterator[Harness]:
        """A stage with a session of its own, answers the same each time."""
        random = np.random.default_rng(seed)
        options = SessionOptions(temperature=0, max_tokens=most)
        async with self._live.session(options) as (session, events):
            yield InProcessHarness(
                session, events, microphone(echo, seed), random, self._computing if self._hurry else None
            )

    def _computing(self) -> bool:
        engines = self._live.engines.all()
        return any(worker.admission.used for worker in (*engines, self._live.history))

    async def rows(self) -> list[Row]:
        """Nothing: it adds nothing that is not the box's own."""
        return []
