"""The thread on which detectors judge the frames of audio streams, so that the event loop does not wait for them.

One thread serves all streams: it takes pieces of a few frames in the order in which they come, so that those of a
stream stay in order and no stream waits for a long block of another. Whoever has a piece judged waits for the result,
which is the bound of the queue and slows down the reader of the stream. Nothing is dropped.

A worker (`workers`) would not do: a stream would hold one of its slots as long as it lives, or wait for a slot while a
recording uses it."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from chatapi.audio import Samples
from chatapi.errors import EngineFailed
from chatapi.runtime.engine_threads import call_in
from chatapi.system import machine_clock

log = logging.getLogger(__name__)

T = TypeVar("T")

PIECE_FRAMES = 8
"""Frames that are judged in one go: 256 ms of audio, which take less than 1 ms. Blocks of clients are shorter."""
STUCK_SECONDS = 10.0
"""Time after which a piece, which takes less than 1 ms, counts as stuck, in seconds of the machine's clock; meanwhile
the other streams wait."""
MOST_STUCK = 3
"""Stuck threads, each of which is replaced; with one more, calls fail until one of them returns."""


class FrameStream(Protocol):
    """A detector's state of one stream: a SpeechStream or a WakeWordStream."""

    def probability(self, samples: Samples, /) -> float:
        """The probability after the next samples, 16 kHz mono."""


class _Call(Generic[T]):
    """A function that waits for the thread or runs on it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = self._loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        """Looks whether the thread is stuck."""
        self._started: float | None = None
        """When it started to run, in seconds of the machine's clock; None: it waits."""

    def run(self) -> None:
        """On the thread: runs it, unless its caller has gone."""
        if self.result.done():
            return
        try:
            self._started = machine_clock.shared.now()
            found = self._function()
        except Exception as error:
            self.fail(error)
        else:
            call_in(self._loop, partial(self._succeed, found))

    def fail(self, error: Exception) -> None:
        """From any thread: the caller gets this error, unless it has a result."""
        call_in(self._loop, partial(self._fail, error))

    def check_after(self, seconds: float, check: Callable[[], None]) -> None:
        """In the event loop: checks in a while whether the thread is stuck."""
        self.timer = self._loop.call_later(seconds, check)

    @property
    def seconds(self) -> float:
        """Time for which it has run, in seconds of the machine's clock."""
        return 0.0 if self._started is None else machine_clock.shared.now() - self._started

    def _succeed(self, found: T) -> None:
        if not self.result.done():
            self.result.set_result(found)

    def _fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class _Runner:
    """A thread, and what it runs."""

    def __init__(self) -> None:
        self.call: _Call[Any] | None = None
        self.abandoned = False
        """Whether it was stuck and another thread has taken its place; then it ends with its call."""


class DetectorThread:
    """Runs the calls of all streams of a process, one after another. Its thread starts with the first call."""

    def __init__(self, stuck_seconds: float = STUCK_SECONDS) -> None:
        self.stuck = 0
        """Number of threads that are stuck now."""
        self._stuck_seconds = stuck_seconds
        self._calls: queue.SimpleQueue[_Call[Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._runner: _Runner | None = None

    @property
    def waiting(self) -> int:
        """Number of calls that wait for the thread."""
        return self._calls.qsize()

    async def run(self, function: Callable[[], T]) -> T:
        """The result of a function, run on the thread; calls run in order. A cancelled call that waits does not run.

        Raises what the function raises, and EngineFailed (engine_stuck) when it takes too long.
        """
        call = _Call(function)
        self._ensure_runner()
        self._calls.put(call)
        call.check_after(self._stuck_seconds, partial(self._check, call))
        try:
            return await call.result
        finally:
            if call.timer is not None:
                call.timer.cancel()

    def _ensure_runner(self) -> None:
        with self._lock:
            if self._runner is not None:
                return
            if self.stuck > MOST_STUCK:
                raise self._stuck_error()
            self._runner = _Runner()
            threading.Thread(target=self._work, args=(self._runner,), name="detectors", daemon=True).start()

    def _work(self, runner: _Runner) -> None:
        while True:
            call = runner.call = self._calls.get()
            call.run()
            with self._lock:
                runner.call = None
                if runner.abandoned:
                    self.stuck -= 1
                    return
            # The thread holds no audio while it waits for the next call.
            del call

    def _check(self, call: _Call[Any]) -> None:
        """Replaces the thread if it is stuck, because this call has waited for long."""
        with self._lock:
            running = self._runner.call if self._runner is not None else None
            left = self._stuck_seconds - (running.seconds if running is not None else 0.0)
            if self._runner is not None and running is not None and left <= 0:
                self._runner.abandoned, self._runner = True, None
                self.stuck += 1
                running.fail(self._stuck_error())
                log.error("detector stuck; its thread is replaced", extra={"stuck": self.stuck})
        if call is running and left <= 0:
            return
        try:
            self._ensure_runner()
        except EngineFailed as error:
            call.fail(error)
            return
        call.check_after(max(left, self._stuck_seconds / 10), partial(self._check, call))

    def _stuck_error(self) -> EngineFailed:
        return EngineFailed(f"a detector made no progress for {self._stuck_seconds:g} seconds", code="engine_stuck")


shared = DetectorThread()
"""The detectors' thread of this process."""


class DetectorStream:
    """One stream of a detector, whose frames are judged on the detectors' thread."""

    def __init__(self, stream: FrameStream, thread: DetectorThread | None = None) -> None:
        """`thread`: None: that of the process."""
        self._stream = stream
        self._thread = shared if thread is None else thread
        self._judging = False
        """Whether its state is in use; the thread sees that only where it has replaced one that was stuck in it."""

    async def probabilities(self, frames: Sequence[Samples]) -> list[float]:
        """The probability after each of the next frames, in order.

        Raises what the detector raises, and EngineFailed (engine_stuck) when it takes too long.
        """
        found: list[float] = []
        for first in range(0, len(frames), PIECE_FRAMES):
            found += await self._thread.run(partial(self._judge, frames[first : first + PIECE_FRAMES]))
        return found

    def _judge(self, piece: Sequence[Samples]) -> list[float]:
        if self._judging:
            raise EngineFailed("the detector of this stream is stuck", code="engine_stuck")
        self._judging = True
        try:
            return [self._stream.probability(frame) for frame in piece]
        finally:
            self._judging = False
