"""In-process transport: a live session in this process, fed 20 ms at a time, without HTTP."""

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
from chatapi.bench.live.harness import BLOCK, HISS, MAX_TOKENS, BlockClock, Harness, HarnessBase, Microphone, blocks_of
from chatapi.events import LiveEvent, Speech
from chatapi.services.live import LiveConversations, LiveSession, SessionOptions

AWAY = 0.1
"""Time between two calls from which the caller did something else, in seconds; the clock stops meanwhile."""
STEP, LONGEST = 0.001, 60
"""Shortest and longest real time of 20 ms when time is skipped, in seconds: a task must receive a thread's result
before it computes more."""


class InProcessHarness(BlockClock, HarnessBase):
    """A harness whose time passes only while it speaks or waits; the clock counts the samples sent."""

    def __init__(
        self,
        session: LiveSession,
        events: MemoryObjectReceiveStream[LiveEvent],
        microphone: Microphone,
        random: np.random.Generator,
        computing: Callable[[], bool] | None = None,
    ) -> None:
        """`computing` tells whether an engine computes: then time stands still, and otherwise passes at once. None:
        time passes as on a clock."""
        BlockClock.__init__(self)
        HarnessBase.__init__(self)
        self._session = session
        self._events = events
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
        # Otherwise the next blocks would be sent faster than real time until the clock has caught up.
        if (away := time.perf_counter() - self._left) > AWAY:
            self._begun += away
        hiss = self._random.normal(0, HISS, BLOCK).astype(np.float32)
        await self._session.feed(self._microphone(np.clip(block + hiss, -1, 1), self._speaker.block()))
        self._blocks += 1
        await self._in_time()
        while self._events.statistics().current_buffer_used:
            self._take(self._events.receive_nowait())
        self._left = time.perf_counter()

    async def _in_time(self) -> None:
        """Wait until the next 20 ms begin."""
        if self._computing is None:
            await anyio.sleep(max(0.0, self._begun + self.now - time.perf_counter()))
            return
        for _ in range(round(LONGEST / STEP)):
            await anyio.sleep(STEP)
            if not self._computing():
                break

    def _take(self, event: LiveEvent) -> None:
        self.events.append((self.now, event))
        self._speaker.apply(event)
        if isinstance(event, Speech):
            self._speaker.play(event.audio.at(RATE).samples)


class InProcessTransport:
    """Live sessions of an appliance in this process."""

    def __init__(self, live: LiveConversations, hurry: bool = False) -> None:
        """`hurry`: as if computing took no time, and without waiting for the clock."""
        self._live = live
        self._hurry = hurry

    @asynccontextmanager
    async def open_harness(
        self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS
    ) -> AsyncIterator[Harness]:
        """A harness with a session of its own; its answers are deterministic."""
        random = np.random.default_rng(seed)
        options = SessionOptions(temperature=0, max_tokens=most)
        async with self._live.session(options) as (session, events):
            yield InProcessHarness(
                session, events, microphone(echo, seed), random, self._computing if self._hurry else None
            )

    def _computing(self) -> bool:
        engines = self._live.engines.all()
        return any(worker.admission.used for worker in (*engines, self._live.conversations.history))

    async def rows(self) -> list[Row]:
        """No rows: this transport adds nothing."""
        return []
