"""The threads of an engine, and the jobs that they run for the event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

import anyio

from chatapi.engines import ContextOverflow, Stop, registry
from chatapi.errors import ChatapiError, EngineFailed, InternalError
from chatapi.runtime.admission import Priority
from chatapi.runtime.cpu_turn import CpuTurn
from chatapi.runtime.engine_host import Call, EngineHost, LocalHost
from chatapi.system import machine_clock, malloc_trim

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

AHEAD = 64
"""Items an engine may be ahead of its reader; then its thread waits."""
PAUSE_SECONDS = 1.0
"""Time without a job after which an engine returns memory to the system, in seconds. Returning it and allocating it
again between the sentences of an answer costs a fifth of their computing time."""
GONE_SECONDS = 30.0
"""Longest wait for a killed engine to return its memory, in seconds."""


YIELD_SECONDS = 0.02
"""Interval between checks whether a job still has to wait for more urgent work, in seconds."""


class StreamEnd:
    """The last item of a job, with the error that ended it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def check(self, name: str) -> None:
        """Raise the error. That of a library goes to the log with the engine's name; the caller gets EngineFailed."""
        error, self.error = self.error, None
        try:
            if isinstance(error, InternalError) and error.__cause__ is not None:
                log.error("the %s engine failed", name, exc_info=error)
            if isinstance(error, (ChatapiError, ContextOverflow, Preempted)):
                raise error
            if error is not None:
                log.error("the %s engine failed", name, exc_info=error)
                raise EngineFailed(f"the {name} engine failed; the log says why") from error
        finally:
            # The error's traceback holds this frame; the cycle would keep the audio until the next garbage collection.
            del error


class YieldPolicy(Enum):
    """What a job does when work of a higher priority wants its slot."""

    NEVER = "never"
    RESTART = "restart"
    """Until its first item, the job stops at its next step and runs again later from its start."""
    RAISE = "raise"
    """The job stops at its next step, and its reader gets Preempted."""


class Preempted(Exception):
    """A job made room for a more urgent one; its items so far remain valid."""


class _JobStop:
    """The `Stop` of a job. An engine that checks it shows that it is not stuck."""

    def __init__(self, job: Job[Any, Any]) -> None:
        self._job = job

    def __call__(self) -> bool:
        if self._job.stopping:
            # Checking again after the job was stopped is no sign of progress.
            return True
        self._job.mark_alive()
        return False

    def unmarked(self) -> bool:
        """The same answer without a sign of progress, for a thread that only waits (`engines.still_wanted`)."""
        return self._job.stopping


class Job(Generic[E, T]):
    """One call of an engine: it runs on a worker's thread and is read from the event loop.

    When it has ended it holds neither the call, whose arguments may hold hours of audio, nor unread items.
    """

    def __init__(self, call: Call[E, T], priority: Priority, yields: YieldPolicy, turn: CpuTurn) -> None:
        self._call: Call[E, T] | None = call
        self._turn = turn
        self.priority = priority
        self._yields = yields
        self._started = self.preempted = self._waited = False
        self._loop = asyncio.get_running_loop()
        self._items: deque[Any] = deque()
        self._room = threading.Semaphore(AHEAD)
        self._arrived = anyio.Event()
        self._waking = False
        """Whether the event loop was asked to wake the reader and has not done so yet."""
        self._cancelled = False
        self.done = False
        """Whether the thread has finished the job."""
        self.abandon_timer: asyncio.TimerHandle | None = None
        """Abandons the engine when the thread does not finish a cancelled job in time."""
        self._alive_at = machine_clock.shared.now()
        self.busy = 0.0
        """Time the engine has computed for this job, in seconds."""
        self._steps = -2
        """Number of items between the first and the last."""
        self._stepped = self._last = 0.0
        """Time those items took, and the time of the last item, in seconds."""

    def run(self, host: EngineHost[E]) -> None:
        """On the worker's thread: step until the end, or until the job is cancelled."""
        assert self._call is not None  # noqa: S101 - a job is run once
        self.mark_alive()
        end = StreamEnd(None)
        try:
            with self._turn.working():
                self._step(host.call(self._call, _JobStop(self)))
        except Exception as error:
            # The frames that the error passed through hold the audio as long as the error lives.
            _clear_frames(error)
            # Not kept in a variable of this frame: the error holds the frame, and the cycle would keep both alive.
            end.error = error
        self._call = None
        if self.preempted and end.error is None:
            end.error = Preempted()
        self._put(end)

    def _step(self, items: Iterator[T]) -> None:
        try:
            for item in self._timed(items):
                if not self._room.acquire(blocking=False):
                    self._waited = True
                    with self._turn.resting():
                        self._room.acquire()
                if self.stopping:
                    break
                self._started = True
                self.mark_alive()
                self._put(item)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    def _timed(self, items: Iterator[T]) -> Iterator[T]:
        while self._has_turn():
            since = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                took = time.perf_counter() - since
                self.busy += took
            self._stepped += self._last if self._steps >= 0 else 0.0
            self._steps, self._last = self._steps + 1, took
            yield item

    def _has_turn(self) -> bool:
        """Wait until the next step may be computed; False when the job has to stop instead."""
        if self._turn.must_wait():
            with self._turn.resting():
                while not self.stopping and self._turn.must_wait():
                    # It is not stuck.
                    self.mark_alive()
                    time.sleep(YIELD_SECONDS)
        return not self.stopping

    @property
    def pace(self) -> float | None:
        """Items per second after the first item. The last item is not counted; it may hold only the finish reason.

        None when there were too few items, or when the engine waited for its reader: an engine with threads of its own
        goes on meanwhile and then delivers many items at once.
        """
        measured = self._steps > 0 and self._stepped > 0 and not self._waited
        return self._steps / self._stepped if measured else None

    @property
    def stopping(self) -> bool:
        """Whether the thread must stop."""
        return self._cancelled or self.preempted

    def mark_alive(self) -> None:
        """From any thread: record that the engine makes progress."""
        self._alive_at = machine_clock.shared.now()

    @property
    def silent_seconds(self) -> float:
        """Time since the last sign of progress, in seconds of the machine's clock."""
        return machine_clock.shared.now() - self._alive_at

    def preempt(self) -> bool:
        """From the event loop: stop for a more urgent job. False when the job may not be stopped."""
        if self._yields is YieldPolicy.NEVER or self._cancelled:
            return False
        if self._yields is YieldPolicy.RESTART and self._started:
            return False
        self.preempted = True
        self._room.release()
        return True

    def cancel(self) -> None:
        """From the event loop: stop at the next step and drop all items."""
        self._cancelled = True
        self._items.clear()
        self._room.release()

    @property
    def has_items(self) -> bool:
        """Whether the next item can be taken without waiting."""
        return bool(self._items)

    async def wait_for_item(self) -> None:
        """From the event loop: wait until an item or the `StreamEnd` has arrived."""
        while not self._items:
            self._arrived = anyio.Event()
            await self._arrived.wait()

    def take(self) -> Any:
        """From the event loop: the next item or the `StreamEnd`, which has arrived."""
        item = self._items.popleft()
        self._room.release()
        return item

    def _put(self, item: Any) -> None:
        if self._cancelled:
            return
        self._items.append(item)
        # One wake-up for all items that arrive before the event loop gets to it: each costs more than its item.
        if not self._waking:
            self._waking = True
            call_in(self._loop, self._wake)

    def _wake(self) -> None:
        # First, so that an item that arrives from here on wakes the reader again.
        self._waking = False
        self._arrived.set()


def _clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of the frames in an error's traceback, and in those of its causes."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Run a function in the event loop from another thread; does nothing when the loop is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        log.debug("event loop closed before a thread ended")


class EngineThreads(Generic[E]):
    """The threads of one loaded engine."""

    def __init__(
        self,
        name: str,
        load: Callable[[], E | EngineHost[E]],
        slots: int,
        on_lost: Callable[[], object],
        after: EngineThreads[E] | None = None,
    ) -> None:
        """`load` returns an engine, or the host of one that runs elsewhere. `on_lost` runs in the event loop when that
        engine could not be loaded, before `built` is set, or is lost. `after`: threads whose engine must be gone."""
        self._queue: queue.SimpleQueue[tuple[Job[E, Any], Callable[[], None]] | None] = queue.SimpleQueue()
        self._load = load
        self.slots = slots
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self.built = anyio.Event()
        self.closed = anyio.Event()
        self.error: Exception | None = None
        self.host: EngineHost[E] | None = None
        self._alive = slots
        self._lock = threading.Lock()
        self._name = name
        self._ended = threading.Event()
        threading.Thread(target=self._first, args=(after,), name=name, daemon=True).start()

    @property
    def engine(self) -> E | None:
        """The engine or what it declares, while it is loaded."""
        return self.host.engine if self.host is not None else None

    def declared(self) -> E:
        """The attributes that the engine declares, to take its place while it is unloaded."""
        engine, names = self.engine, registry.declared()
        return cast(E, SimpleNamespace(**{name: getattr(engine, name) for name in names if hasattr(engine, name)}))

    def submit(self, job: Job[E, Any], on_done: Callable[[], None]) -> None:
        """Queue a job; `on_done` runs in the event loop when it has ended."""
        self._queue.put((job, on_done))

    def shut_down(self) -> None:
        """End the threads after their jobs; the last one closes the engine."""
        for _ in range(self.slots):
            self._queue.put(None)

    def kill(self) -> bool:
        """End the engine at once if its host can; its jobs then end with EngineFailed (engine_crashed)."""
        return self.host is not None and self.host.kill()

    def _first(self, after: EngineThreads[E] | None) -> None:
        if after is not None:
            after._ended.wait(GONE_SECONDS)
        try:
            # No variable of this frame holds the engine: the frame lives as long as the thread.
            self.host = _hosted(self._load())
        except Exception as error:
            self.error = error
            call_in(self._loop, self._on_lost)
            self._alive = 1
            self._finish()
        else:
            self.host.on_lost(lambda: call_in(self._loop, self._on_lost))
            for number in range(1, self.slots):
                threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True).start()
            call_in(self._loop, self.built.set)
            self._work()

    def _work(self) -> None:
        while (queued := self._next()) is not None:
            job, on_done = queued
            if self.host is not None:
                job.run(self.host)
            call_in(self._loop, on_done)
            del job, on_done, queued
        self._finish()

    def _next(self) -> tuple[Job[E, Any], Callable[[], None]] | None:
        """The next job; without one for PAUSE_SECONDS the engine returns memory to the system, once."""
        release_memory = getattr(self.engine, "release_memory", None)
        if release_memory is not None:
            try:
                return self._queue.get(timeout=PAUSE_SECONDS)
            except queue.Empty:
                self._release_memory(release_memory)
        return self._queue.get()

    def _release_memory(self, release_memory: Callable[[Stop], object]) -> None:
        try:
            release_memory(lambda: not self._queue.empty())
        except Exception:
            log.exception("the %s engine could not return its memory", self._name)

    def _finish(self) -> None:
        with self._lock:
            self._alive -= 1
            if self._alive:
                return
        if self.host is not None:
            self.host.unload()
        self.host = None
        malloc_trim.trim()
        self._ended.set()
        call_in(self._loop, self.built.set)
        call_in(self._loop, self.closed.set)


def _hosted(loaded: E | EngineHost[E]) -> EngineHost[E]:
    return loaded if isinstance(loaded, EngineHost) else LocalHost(loaded)
