"""A built engine's threads, and the jobs they do for the event loop."""

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
from typing import Any, Generic, TypeVar

import anyio

from chatapi.engines import Stop
from chatapi.runtime.admission import Priority
from chatapi.system import malloc_trim

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

AHEAD = 64
"""Items an engine may be ahead of its caller; then its thread waits."""
PAUSE_SECONDS = 1.0
"""Without a job, after which an engine gives back memory that it kept for the next one: to give it back and take it
anew between the sentences of an answer costs a fifth of the time they take."""


class StreamEnd:
    """The last item of a job, with what ended it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class YieldPolicy(Enum):
    """What a job does when somebody of a higher priority wants its slot."""

    NEVER = "never"
    AGAIN = "again"
    """As long as nothing has come of it, it stops at its next step and is done again from its start, later."""
    RAISES = "raises"
    """It stops at its next step, and its caller is told by Preempted."""


class Preempted(Exception):
    """A job made room for a more urgent one; what came of it so far stands."""


class _QueuedJob:
    """The `Stop` of a job: an engine that asks it has come a step further, and is not stuck."""

    def __init__(self, job: Job[Any, Any]) -> None:
        self._job = job

    def __call__(self) -> bool:
        if self._job.unwanted:
            # Asking on and on once the answer is yes is no work.
            return True
        self._job.alive()
        return False

    def unmarked(self) -> bool:
        """The same answer, for a thread that only waits: that it asks shows nothing (`engines.still_wanted`)."""
        return self._job.unwanted


class Job(Generic[E, T]):
    """One call of an engine: runs on a worker's thread, is read from the event loop.

    Once it is over it holds neither the call, whose closure may hold hours of audio, nor what nobody reads any more.
    """

    def __init__(self, call: Callable[[E, Stop], Iterator[T]], priority: Priority, yields: YieldPolicy) -> None:
        self._call: Callable[[E, Stop], Iterator[T]] | None = call
        self.priority = priority
        self._yields = yields
        self._begun = self.preempted = self._waited = False
        self._loop = asyncio.get_running_loop()
        self._items: deque[Any] = deque()
        self._room = threading.Semaphore(AHEAD)
        self._arrived = anyio.Event()
        self._left = False
        self.over = False
        """The thread is done with it."""
        self.patience: asyncio.TimerHandle | None = None
        """Ends the wait for the thread, once the caller left."""
        self._alive = time.monotonic()
        self.busy = 0.0
        """Seconds the engine has computed for it."""
        self._steps = -2
        """Items between its first and its last."""
        self._stepped = self._last = 0.0
        """Seconds that those took, and the last one."""

    def run(self, engine: E) -> None:
        """On the worker's thread: step until the end, or until the caller left."""
        assert self._call is not None  # noqa: S101 - a job is run once
        self.alive()
        end = StreamEnd(None)
        try:
            self._step(self._call(engine, _QueuedJob(self)))
        except Exception as error:
            # The frames that the error came through hold the audio as long as somebody holds the error.
            _clear_frames(error)
            # Kept in no variable of this frame, which the error holds too: neither would be freed before a collection.
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
                    self._room.acquire()
                if self.unwanted:
                    break
                self._begun = True
                self.alive()
                self._put(item)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    def _timed(self, items: Iterator[T]) -> Iterator[T]:
        while True:
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

    @property
    def pace(self) -> float | None:
        """Items a second, once it had begun; the last, which may hold no more than the reason of the end, not counted.

        None where there were too few, and where it had to wait for its caller: an engine with threads of its own goes
        on meanwhile, and then gives at once what it had made.
        """
        told = self._steps > 0 and self._stepped > 0 and not self._waited
        return self._steps / self._stepped if told else None

    @property
    def unwanted(self) -> bool:
        """Whether the thread is to stop."""
        return self._left or self.preempted

    def alive(self) -> None:
        """From any thread: the engine is at work on it."""
        self._alive = time.monotonic()

    @property
    def silent(self) -> float:
        """Seconds since the last sign that the engine is at work on it."""
        return time.monotonic() - self._alive

    def preempt(self) -> bool:
        """From the event loop: make room. False when it will not."""
        if self._yields is YieldPolicy.NEVER or self._left or (self._yields is YieldPolicy.AGAIN and self._begun):
            return False
        self.preempted = True
        self._room.release()
        return True

    def leave(self) -> None:
        """From the event loop: nobody reads any more."""
        self._left = True
        self._items.clear()
        self._room.release()

    async def take(self) -> Any:
        """From the event loop: the next item or the `StreamEnd`."""
        while not self._items:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        item = self._items.popleft()
        self._room.release()
        return item

    def _put(self, item: Any) -> None:
        if self._left:
            return
        self._items.append(item)
        call_in(self._loop, self._wake)

    def _wake(self) -> None:
        self._arrived.set()


def _clear_frames(error: BaseException | None) -> None:
    """Free what the functions that an error came through, and its causes, had in their variables."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Run a function in the loop from another thread; nothing when the loop is gone."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        log.debug("the event loop ended before a thread did")


class EngineThreads(Generic[E]):
    """The threads of one built engine."""

    def __init__(self, name: str, build: Callable[[], E], slots: int) -> None:
        self._inbox: queue.SimpleQueue[tuple[Job[E, Any], Callable[[], None]] | None] = queue.SimpleQueue()
        self._build = build
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self.built = anyio.Event()
        self.closed = anyio.Event()
        self.error: Exception | None = None
        self.engine: E | None = None
        self._alive = slots
        self._lock = threading.Lock()
        self._name = name
        threading.Thread(target=self._first, name=name, daemon=True).start()

    def give(self, job: Job[E, Any], over: Callable[[], None]) -> None:
        self._inbox.put((job, over))

    def dismiss(self) -> None:
        """Let the threads end once their jobs are done; the last one closes the engine."""
        for _ in range(self._slots):
            self._inbox.put(None)

    def _first(self) -> None:
        try:
            self.engine = self._build()
        except Exception as error:
            self.error = error
            self._alive = 1
            self._finish()
        else:
            for number in range(1, self._slots):
                threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True).start()
            call_in(self._loop, self.built.set)
            self._work()

    def _work(self) -> None:
        while (given := self._next()) is not None:
            job, over = given
            if self.engine is not None:
                job.run(self.engine)
            call_in(self._loop, over)
            del job, over, given
        self._finish()

    def _next(self) -> tuple[Job[E, Any], Callable[[], None]] | None:
        """The next job; if none comes for a while, the engine gives back memory, once."""
        release_memory = getattr(self.engine, "release_memory", None)
        if release_memory is not None:
            try:
                return self._inbox.get(timeout=PAUSE_SECONDS)
            except queue.Empty:
                self._release_memory(release_memory)
        return self._inbox.get()

    def _release_memory(self, release_memory: Callable[[Stop], object]) -> None:
        try:
            release_memory(lambda: not self._inbox.empty())
        except Exception:
            log.exception("the %s engine could not give back its memory", self._name)

    def _finish(self) -> None:
        with self._lock:
            self._alive -= 1
            if self._alive:
                return
        if (close := getattr(self.engine, "close", None)) is not None:
            close()
        self.engine = None
        malloc_trim.trim()
        call_in(self._loop, self.built.set)
        call_in(self._loop, self.closed.set)
