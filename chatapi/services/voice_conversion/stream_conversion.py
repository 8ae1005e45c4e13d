"""Conversion of a stream, chunk by chunk, before its end is known."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.engines import ConversionWindow, VoiceConverter
from chatapi.engines.call import EngineCall
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker

FRAME = 320
"""Samples of 16 kHz of which chunks are multiples: 20 ms."""
FADE = FRAME
"""Samples of 16 kHz at the joint of two chunks, which are cross-faded."""


@dataclass(frozen=True)
class StreamTiming:
    """How a stream is divided, in milliseconds; multiples of 20."""

    chunk_ms: int
    """Audio that is converted at once."""
    lookahead_ms: int
    """Audio after a chunk that the engine sees with it; at least 20."""
    context_ms: int = 2000
    """Audio before a chunk that the engine sees with it."""

    @property
    def latency_ms(self) -> int:
        """From a sound to its conversion on an infinitely fast machine: the chunk must be complete, with what follows
        it."""
        return self.chunk_ms + self.lookahead_ms

    @property
    def chunk(self) -> int:
        """In samples of 16 kHz."""
        return self.chunk_ms * RATE // 1000

    @property
    def lookahead(self) -> int:
        """In samples of 16 kHz."""
        return self.lookahead_ms * RATE // 1000

    @property
    def context(self) -> int:
        """In samples of 16 kHz."""
        return self.context_ms * RATE // 1000


LIVE = StreamTiming(chunk_ms=80, lookahead_ms=60, context_ms=500)
"""Of live conversion."""
LONGEST_CHUNK = RATE * 640 // 1000
"""Samples of 16 kHz of the longest chunk that a slow box takes by itself: a second of speech in chunks of 80 ms takes
twice the computing time that it takes in chunks of 320 ms."""
JUDGED_CHUNKS = 4
"""Chunks after which the length of the next ones is decided."""
SLOW, FAST = 0.9, 0.3
"""Computing time for a second of audio from which chunks become longer, and below which they become shorter again."""
RECORDED = StreamTiming(chunk_ms=10_000, lookahead_ms=500)
"""Of recordings: more urgent work waits for one chunk at most."""


class StreamConversion:
    """The conversion of one stream of 16 kHz mono. Its methods are used one after another."""

    def __init__(
        self, worker: Worker[VoiceConverter], reference: Samples, timing: StreamTiming, priority: Priority, source: str
    ) -> None:
        """`source`: a name of the source's speaker, which no other stream has."""
        self.on_chunk: Callable[[float, float], None] = lambda *_: None
        """Receives for each chunk the seconds from its last sample to its last audio, and those of its audio."""
        self._worker, self._reference, self._timing = worker, reference, timing
        self._priority, self._source = priority, source
        self._buffer: Samples = np.zeros(0, np.float32)
        self._base, self._done = 0, 0
        self._joint = Joint()
        self._pace = ChunkPace(timing.chunk)

    async def feed(self, samples: Samples) -> AsyncGenerator[Audio, None]:
        """The audio that becomes certain by these samples, in parts. Raises the errors of the engine."""
        self._buffer = np.concatenate([self._buffer, samples])
        while self._base + len(self._buffer) >= self._done + self._pace.chunk + self._timing.lookahead:
            async with aclosing(self._convert(self._done + self._pace.chunk, last=False)) as parts:
                async for part in parts:
                    yield part

    async def finish(self) -> AsyncGenerator[Audio, None]:
        """The rest of the audio. Raises the errors of the engine."""
        end = self._base + len(self._buffer)
        if end > self._done:
            async with aclosing(self._convert(end, last=True)) as parts:
                async for part in parts:
                    yield part

    async def _convert(self, end: int, last: bool) -> AsyncGenerator[Audio, None]:
        """Converts up to this sample of the stream. But for the last time it converts FADE more, which are mixed with
        the beginning of the next chunk."""
        past = 0 if last else FADE
        seen = self._buffer[: end + max(past, 0 if last else self._timing.lookahead) - self._base]
        window = ConversionWindow(self._done - self._base, end + past - self._base, self._base)
        call = EngineCall.of(
            VoiceConverter.convert, seen, self._reference, source=self._source, window=window
        )  # fmt: skip
        began, seconds = time.monotonic(), 0.0
        async with self._worker.stream(call, self._priority) as chunks:
            self._joint.begin()
            async for chunk in chunks:
                held = 0 if last else round(FADE * chunk.rate / RATE)
                if len(ready := self._joint.feed(chunk.samples, held)):
                    seconds += len(ready) / chunk.rate
                    yield Audio(ready, chunk.rate)
        waited = time.monotonic() - began
        self.on_chunk(waited, seconds)
        if self._priority is Priority.LIVE:
            self._pace.add(waited, (end - self._done) / RATE)
        self._done = end
        kept = max(self._base, (end - self._timing.context) // FRAME * FRAME)
        self._buffer, self._base = self._buffer[kept - self._base :], kept


class ChunkPace:
    """Chooses how much audio of a live stream is converted at once, so that a slow or busy box keeps up."""

    def __init__(self, chunk: int) -> None:
        """`chunk`: the shortest one, in samples of 16 kHz."""
        self.chunk = self._shortest = chunk
        """In samples of 16 kHz."""
        self._waited = self._seconds = 0.0
        self._count = 0

    def add(self, waited: float, seconds: float) -> None:
        """Counts a chunk of so many seconds, for which the client waited so many seconds."""
        self._waited, self._seconds, self._count = self._waited + waited, self._seconds + seconds, self._count + 1
        if self._count < JUDGED_CHUNKS or not self._seconds:
            return
        share = self._waited / self._seconds
        if share > SLOW and self.chunk < LONGEST_CHUNK:
            self.chunk = min(2 * self.chunk, LONGEST_CHUNK)
        elif share < FAST and self.chunk > self._shortest:
            self.chunk = max(self.chunk // 2 // FRAME * FRAME, self._shortest)
        self._waited, self._seconds, self._count = 0.0, 0.0, 0


class Joint:
    """Joins chunks that overlap."""

    def __init__(self) -> None:
        self._tail: Samples = np.zeros(0, np.float32)
        self._pending: Samples = self._tail
        self._fresh = True

    def begin(self) -> None:
        """What is fed from now on belongs to the next chunk, whose beginning is the end of the last one once more."""
        self._tail, self._pending, self._fresh = self._pending, np.zeros(0, np.float32), True

    def feed(self, samples: Samples, held: int) -> Samples:
        """The samples that are certain; the last `held` of a chunk wait for the next one."""
        self._pending = np.concatenate([self._pending, samples])
        if self._fresh:
            if len(self._pending) < len(self._tail):
                return np.zeros(0, np.float32)
            share = (np.arange(len(self._tail), dtype=np.float32) + 1) / (len(self._tail) + 1)
            self._pending[: len(self._tail)] *= share
            self._pending[: len(self._tail)] += self._tail * (1 - share)
            self._fresh = False
        ready = self._pending[: max(0, len(self._pending) - held)]
        self._pending = self._pending[len(ready) :]
        return ready
