"""Microphone capture: blocks of audio from the device's thread, after echo cancellation, for one async listener."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import anyio
import numpy as np

from chatapi.audio import RATE, Resampled, Samples
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller
from chatapi.runtime.engine_threads import call_in

log = logging.getLogger(__name__)

BLOCK = RATE // 50
"""Samples of one block: 20 ms."""
MAX_WAITING_BLOCKS = 100
"""Most blocks of 20 ms that wait for the listener; beyond that the oldest is dropped."""
MAX_ARRIVED_BLOCKS = 1000
"""Most device blocks that wait for the event loop: more than 6 s."""


@dataclass(frozen=True, eq=False)
class _DeviceBlock:
    """One block as a device recorded or played it."""

    source: object
    """The input stream it comes from; None for playback."""
    samples: Samples
    rate: int
    """Samples a second."""
    latency: float
    """Latency of the device, in seconds."""


class Capture:
    """Orders the blocks of both devices, cancels the echo, and yields blocks of 20 ms.

    Both devices append to one queue on their own threads, so that the echo canceller sees playback and capture in the
    order in which they happened, however long the event loop was busy.
    """

    def __init__(self, canceller: EchoCanceller | None, echo: str) -> None:
        """Call in the event loop. `echo` is the reported state as long as the canceller works."""
        self.dropped = 0
        """Samples at 16 kHz that were dropped because the listener fell behind."""
        self.echo = echo
        """State of the echo cancellation: on, off, or why it is off, in one sentence."""
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[_DeviceBlock] = deque()
        self._blocks: deque[Samples] = deque()
        self._more = anyio.Event()
        self._copies: list[deque[Samples]] = []
        """Blocks that wait for each further listener."""
        self._copied = anyio.Event()
        """Set, and replaced, when there is a new block for them."""
        self._closed = False
        self._source: object = None
        self._resampled = Resampled(RATE, RATE)
        self._rest: Samples = np.zeros(0, np.float32)
        self._canceller = canceller
        self._played_latency = 0.0

    def from_microphone(self, source: object, samples: Samples, rate: int, latency: float) -> None:
        """Queues recorded samples; called on the device's thread."""
        self._queue_device_block(_DeviceBlock(source, samples, rate, latency))
        call_in(self._loop, self._process)

    def from_speaker(self, samples: Samples, rate: int, latency: float) -> None:
        """Queues played samples; called on the device's thread."""
        if self._canceller is not None:
            self._queue_device_block(_DeviceBlock(None, samples, rate, latency))

    async def blocks(self) -> AsyncIterator[Samples]:
        """Blocks of 20 ms, float32 mono at 16 kHz, until `close`. One listener at a time."""
        while not self._closed:
            while self._blocks:
                yield self._blocks.popleft()
            self._more = anyio.Event()
            await self._more.wait()

    async def copied(self) -> AsyncGenerator[Samples, None]:
        """The same blocks for a further listener, from now on until `close`. Raises nothing where it falls behind: its
        oldest block is dropped."""
        copy = deque[Samples](maxlen=MAX_WAITING_BLOCKS)
        self._copies.append(copy)
        try:
            while not self._closed:
                while copy:
                    yield copy.popleft()
                more = self._copied
                await more.wait()
        finally:
            self._copies.remove(copy)

    def close(self) -> None:
        self._closed = True
        self._more.set()
        self._copied.set()

    def _queue_device_block(self, arrival: _DeviceBlock) -> None:
        if len(self._arrived) >= MAX_ARRIVED_BLOCKS:
            oldest = self._arrived.popleft()
            if oldest.source is not None:
                self.dropped += round(len(oldest.samples) * RATE / oldest.rate)
        self._arrived.append(arrival)

    def _process(self) -> None:
        """Processes all queued blocks; runs in the event loop."""
        while self._arrived:
            arrival = self._arrived.popleft()
            try:
                if arrival.source is None:
                    self._process_playback(arrival)
                else:
                    self._process_capture(arrival)
            except RuntimeError as error:
                self._canceller = None
                self.echo = f"echo cancellation stopped: {error}"
                log.exception("echo canceller failed")

    def _process_playback(self, arrival: _DeviceBlock) -> None:
        self._played_latency = arrival.latency
        if self._canceller is not None:
            self._canceller.process_playback(arrival.samples, arrival.rate)

    def _process_capture(self, arrival: _DeviceBlock) -> None:
        if arrival.source is not self._source:
            self._source = arrival.source
            self._resampled = Resampled(arrival.rate, RATE)
        samples = self._resampled.feed(arrival.samples)
        if self._canceller is not None:
            self._canceller.delay = arrival.latency + self._played_latency
            samples = self._canceller.process_capture(samples)
        self._rest = np.concatenate([self._rest, samples])
        while len(self._rest) >= BLOCK:
            self._enqueue(self._rest[:BLOCK])
            self._rest = self._rest[BLOCK:]

    def _enqueue(self, block: Samples) -> None:
        if len(self._blocks) >= MAX_WAITING_BLOCKS:
            self.dropped += len(self._blocks.popleft())
        self._blocks.append(block)
        self._more.set()
        if self._copies:
            for copy in self._copies:
                copy.append(block)
            self._copied.set()
            self._copied = anyio.Event()
