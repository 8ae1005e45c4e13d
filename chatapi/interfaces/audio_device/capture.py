"""What the microphone heard, block by block, on its way from the device's thread to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import numpy as np

from chatapi.audio import RATE, Resampled, Samples
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller
from chatapi.runtime.workers import call_in

log = logging.getLogger(__name__)

BLOCK = RATE // 50
"""Samples handed out at once: 20 ms."""
WAITING = 100
"""Blocks of 20 ms that may wait for the listener; then the oldest is dropped."""
ARRIVING = 1000
"""Blocks of the devices that may wait for the event loop: more than 6 s."""


@dataclass(frozen=True, eq=False)
class _Arrival:
    """A block as a device gave or took it."""

    source: object
    """The stream it is of; None: it is what the speaker played."""
    samples: Samples
    rate: int
    latency: float


class Capture:
    """Puts the devices' blocks in order, cancels the echo, and hands out 20 ms at a time.

    Both devices write into one list on their own threads, so that the canceller sees what was played and what was
    heard in the order in which it happened, however long the event loop was busy.
    """

    def __init__(self, canceller: EchoCanceller | None, echo: str) -> None:
        """In the event loop. `echo` is what is told as long as the canceller works."""
        self.dropped = 0
        """Samples at 16 kHz that nobody took in time."""
        self.echo = echo
        """on, off, or why it is off, in one sentence."""
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[_Arrival] = deque()
        self._blocks: deque[Samples] = deque()
        self._more = anyio.Event()
        self._closed = False
        self._source: object = None
        self._resampled = Resampled(RATE, RATE)
        self._rest: Samples = np.zeros(0, np.float32)
        self._canceller = canceller
        self._played_latency = 0.0

    def from_microphone(self, source: object, samples: Samples, rate: int, latency: float) -> None:
        """On the device's thread: the microphone gave these."""
        self._arrive(_Arrival(source, samples, rate, latency))
        call_in(self._loop, self._work)

    def from_speaker(self, samples: Samples, rate: int, latency: float) -> None:
        """On the device's thread: the speaker took these."""
        if self._canceller is not None:
            self._arrive(_Arrival(None, samples, rate, latency))

    async def blocks(self) -> AsyncIterator[Samples]:
        """Blocks of 20 ms, float32 mono at 16 kHz, until it is closed. One listener at a time."""
        while not self._closed:
            while self._blocks:
                yield self._blocks.popleft()
            self._more = anyio.Event()
            await self._more.wait()

    def close(self) -> None:
        self._closed = True
        self._more.set()

    def _arrive(self, arrival: _Arrival) -> None:
        if len(self._arrived) >= ARRIVING:
            oldest = self._arrived.popleft()
            if oldest.source is not None:
                self.dropped += round(len(oldest.samples) * RATE / oldest.rate)
        self._arrived.append(arrival)

    def _work(self) -> None:
        """In the event loop: everything that has arrived."""
        while self._arrived:
            arrival = self._arrived.popleft()
            try:
                if arrival.source is None:
                    self._take_played(arrival)
                else:
                    self._take_heard(arrival)
            except RuntimeError as error:
                self._canceller = None
                self.echo = f"echo is not cancelled any more: {error}"
                log.exception("the echo canceller failed")

    def _take_played(self, arrival: _Arrival) -> None:
        self._played_latency = arrival.latency
        if self._canceller is not None:
            self._canceller.played(arrival.samples, arrival.rate)

    def _take_heard(self, arrival: _Arrival) -> None:
        if arrival.source is not self._source:
            self._source = arrival.source
            self._resampled = Resampled(arrival.rate, RATE)
        samples = self._resampled.feed(arrival.samples)
        if self._canceller is not None:
            self._canceller.delay = arrival.latency + self._played_latency
            samples = self._canceller.clean(samples)
        self._rest = np.concatenate([self._rest, samples])
        while len(self._rest) >= BLOCK:
            self._hand_out(self._rest[:BLOCK])
            self._rest = self._rest[BLOCK:]

    def _hand_out(self, block: Samples) -> None:
        if len(self._blocks) >= WAITING:
            self.dropped += len(self._blocks.popleft())
        self._blocks.append(block)
        self._more.set()
