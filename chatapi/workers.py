"""Engines on threads of their own, used from the event loop as streams.

An engine is built, stepped and closed on threads that are its own: a shared pool would move generators between
threads. A caller who leaves stops the engine at its next step; a slot is free only when its thread really is. An
engine that gives nothing for too long is abandoned with its thread and built anew.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import anyio

from chatapi.engines import (
    ContextOverflow,
    LanguageModel,
    SpeechDetector,
    Stop,
    Synthesizer,
    Transcriber,
    TurnDetector,
    WakeDetector,
)
from chatapi.errors import ChatapiError, EngineFailed, NotReady
from chatapi.gate import Gate, Priority

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

AHEAD = 64
"""Items an engine may be ahead of its caller; then its thread waits."""
REBUILDS = 3
"""Engines abandoned in one process; each keeps its memory, so beyond that the process must be restarted."""


class _End:
    """The last item of a job, with what ended it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Yields(Enum):
    """What a job does when somebody of a higher priority wants its slot."""

    NEVER = "never"
    AGAIN = "again"
    """As long as nothing has come of it, it stops at its next step and is done again from its start, later."""
    RAISES = "raises"
    """It stops at its next step, and its caller is told by Preempted."""


class Preempted(Exception):
    """A job made room for a more urgent one; what came of it so far stands."""


class _Job(Generic[E, T]):
    """One call of an engine: runs on a worker's thread, is read from the event loop."""

    def __init__(self, call: Callable[[E, Stop], Iterator[T]], priority: Priority, yields: Yields) -> None:
        self._call = call
        self.priority = priority
        self._yields = yields
        self._begun = self.preempted = False
        self._loop = asyncio.get_running_loop()
        self._items: deque[Any] = deque()
        self._room = threading.Semaphore(AHEAD)
        self._arrived = anyio.Event()
        self._left = False
        self.over = False
        """The thread is done with it."""

    def run(self, engine: E) -> None:
        """On the worker's thread: step until the end, or until the caller left."""
        error: Exception | None = None
        try:
            items = self._call(engine, self.stopped)
            try:
                for item in items:
                    self._room.acquire()
                    if self._left or self.preempted:
                        break
                    self._begun = True
                    self._put(item)
            finally:
                if (close := getattr(items, "close", None)) is not None:
                    close()
        except Exception as raised:
            error = raised
        self._put(_End(Preempted() if self.preempted and error is None else error))

    def stopped(self) -> bool:
        return self._left or self.preempted

    def preempt(self) -> bool:
        """From the event loop: make room. False when it will not."""
        if self._yields is Yields.NEVER or self._left or (self._yields is Yields.AGAIN and self._begun):
            return False
        self.preempted = True
        self._room.release()
        return True

    def leave(self) -> None:
        """From the event loop: nobody reads any more."""
        self._left = True
        self._room.release()

    async def take(self) -> Any:
        """From the event loop: the next item or the `_End`."""
        while not self._items:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        item = self._items.popleft()
        self._room.release()
        return item

    def _put(self, item: Any) -> None:
        self._items.append(item)
        call_in(self._loop, self._wake)

    def _wake(self) -> None:
        self._arrived.set()


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Run a function in the loop from another thread; nothing when the loop is gone."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        log.debug("the event loop ended before a thread did")


class _Crew(Generic[E]):
    """The threads of one built engine."""

    def __init__(self, name: str, build: Callable[[], E], slots: int) -> None:
        self._inbox: queue.SimpleQueue[tuple[_Job[E, Any], Callable[[], None]] | None] = queue.SimpleQueue()
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

    def give(self, job: _Job[E, Any], over: Callable[[], None]) -> None:
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
        while (given := self._inbox.get()) is not None:
            job, over = given
            if self.engine is not None:
                job.run(self.engine)
            call_in(self._loop, over)
            del job, over, given
        self._finish()

    def _finish(self) -> None:
        with self._lock:
            self._alive -= 1
            if self._alive:
                return
        if (close := getattr(self.engine, "close", None)) is not None:
            close()
        self.engine = None
        call_in(self._loop, self.built.set)
        call_in(self._loop, self.closed.set)


class Worker(Generic[E]):
    """An engine with threads of its own, as many as it has slots."""

    def __init__(self, name: str, build: Callable[[], E], slots: int = 1, step_seconds: float = 30) -> None:
        self.name = name
        self.gate = Gate(name, slots)
        self.rebuilt = 0
        """How often a stuck engine was abandoned."""
        self.given = 0
        """Items that the engine has given, of all its jobs."""
        self._build = build
        self._step_seconds = step_seconds
        self._crew: _Crew[E] | None = None
        self._running: set[_Job[E, Any]] = set()

    @property
    def state(self) -> str:
        """idle, loading, ready or failed."""
        if self._crew is None:
            return "idle"
        if self._crew.error is not None or self.rebuilt > REBUILDS:
            return "failed"
        return "ready" if self._crew.built.is_set() else "loading"

    async def open(self) -> E:
        """Build the engine; what its constructor raises is raised here."""
        if self._crew is None:
            self._crew = _Crew(self.name, self._build, self.gate.slots)
        await self._crew.built.wait()
        if self._crew.error is not None:
            raise self._crew.error
        return self.engine

    @property
    def engine(self) -> E:
        """For reading what it declares (languages, voices); NotReady before it is built."""
        if self._crew is None or self._crew.engine is None:
            raise NotReady(f"the {self.name} engine is not loaded yet", retry_after=2)
        return self._crew.engine

    async def aclose(self) -> None:
        """Stop the threads and close the engine; gives up on a stuck one after a step's time."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.dismiss()
            with anyio.move_on_after(min(self._step_seconds, 5), shield=True):
                await crew.closed.wait()

    @asynccontextmanager
    async def stream(
        self,
        call: Callable[[E, Stop], Iterator[T]],
        priority: Priority = Priority.REQUEST,
        yields: Yields = Yields.NEVER,
    ) -> AsyncIterator[AsyncIterator[T]]:
        """Wait for a slot, then hand out what `call(engine, stop)` yields. Leaving stops it.

        Raises what the engine raises if it is ours, EngineFailed for anything else and when it is stuck.
        """
        jobs = [await self._begin(call, priority, yields)]
        items = self._items(jobs, lambda: self._begin(call, priority, yields))
        try:
            yield items
        finally:
            job = jobs[-1]
            job.leave()
            await items.aclose()
            if not job.over:
                asyncio.get_running_loop().call_later(self._step_seconds, self._abandon, job)

    async def _begin(self, call: Callable[[E, Stop], Iterator[T]], priority: Priority, yields: Yields) -> _Job[E, T]:
        if self.gate.used >= self.gate.slots:
            self._make_room(priority)
        await self.gate.acquire(priority)
        try:
            self._refuse_if_not_ready()
        except ChatapiError:
            self.gate.release()
            raise
        job: _Job[E, T] = _Job(call, priority, yields)
        crew = self._crew
        assert crew is not None  # noqa: S101 - just seen to be ready
        self._running.add(job)
        crew.give(job, lambda: self._over(job))
        return job

    def _make_room(self, priority: Priority) -> None:
        """Ask the least urgent job to stop, if it is less urgent than this."""
        if any(job.preempted for job in self._running):
            return
        for job in sorted(self._running, key=lambda job: job.priority, reverse=True):
            if job.priority > priority and job.preempt():
                return

    async def call(self, function: Callable[[E], T], priority: Priority = Priority.REQUEST) -> T:
        """One result of a plain function of the engine, run on its thread."""

        def once(engine: E, _: Stop) -> Iterator[T]:
            yield function(engine)

        async with self.stream(once, priority) as results:
            async for result in results:
                return result
        raise EngineFailed(f"the {self.name} engine gave no result")

    async def _items(
        self, jobs: list[_Job[E, T]], again: Callable[[], Awaitable[_Job[E, T]]]
    ) -> AsyncGenerator[T, None]:
        begun = False
        while True:
            item: Any = None
            job = jobs[-1]
            with anyio.move_on_after(self._step_seconds) as patience:
                item = await job.take()
            if patience.cancelled_caught:
                self._abandon(job)
                raise EngineFailed(
                    f"the {self.name} engine gave nothing for {self._step_seconds:g} seconds; it is being rebuilt",
                    code="engine_stuck",
                )
            if not isinstance(item, _End):
                begun = True
                self.given += 1
                yield item
                continue
            if item.error is None:
                return
            if isinstance(item.error, Preempted) and not begun:
                jobs.append(await again())
                continue
            if isinstance(item.error, (ChatapiError, ContextOverflow, Preempted)):
                raise item.error
            raise EngineFailed(f"the {self.name} engine failed: {item.error!r}") from item.error

    def _refuse_if_not_ready(self) -> None:
        if self.state == "failed":
            raise EngineFailed(f"the {self.name} engine has failed; restart chatapi", code="engine_gone")
        if self.state != "ready":
            raise NotReady(f"the {self.name} engine is still loading", retry_after=2)

    def _over(self, job: _Job[E, Any]) -> None:
        """The thread is done with the job: its slot is free."""
        if not job.over:
            job.over = True
            self._running.discard(job)
            self.gate.release()

    def _abandon(self, job: _Job[E, Any]) -> None:
        """A job whose thread did not come back in time: leave engine and thread behind, build another."""
        if job.over or self._crew is None:
            return
        log.error("the %s engine is stuck; building it anew", self.name)
        self._over(job)
        self.rebuilt += 1
        if self.rebuilt <= REBUILDS:
            self._crew.dismiss()
            self._crew = _Crew(self.name, self._build, self.gate.slots)


@dataclass(frozen=True)
class Engines:
    """The engines of a turn."""

    vad: Worker[SpeechDetector]
    wake: Worker[WakeDetector]
    turn: Worker[TurnDetector]
    asr: Worker[Transcriber]
    llm: Worker[LanguageModel]
    tts: Worker[Synthesizer]

    def all(self) -> tuple[Worker[Any], ...]:
        return (self.vad, self.wake, self.turn, self.asr, self.llm, self.tts)
