"""Engines on threads of their own, used from the event loop as streams.

An engine is built, stepped and closed on threads that are its own: a shared pool would move generators between
threads. A caller who leaves stops the engine at its next step; a slot is free only when its thread really is. An
engine that gives no sign of life for too long, neither an item nor a question whether it shall stop, is abandoned with
its thread and built anew; closed it is when that thread comes back. One that nobody uses for longer than it may be idle
is closed, and built again by the next who needs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

import anyio

from chatapi.engines import (
    ContextOverflow,
    EndOfTurnDetector,
    LanguageModel,
    Stop,
    Synthesizer,
    Transcriber,
    VoiceActivityDetector,
    WakeWordDetector,
)
from chatapi.engines.registry import DECLARED
from chatapi.errors import ChatapiError, EngineFailed, InternalError, NotReady
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.engine_threads import AHEAD, EngineThreads, Job, Preempted, StreamEnd, YieldPolicy, call_in

__all__ = ["AHEAD", "REBUILDS", "Engines", "Preempted", "Worker", "YieldPolicy", "call_in"]

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

REBUILDS = 3
"""Engines abandoned within REBUILD_SECONDS that are built anew at once. After one more the engine is away until the
first of them is so long ago, and then comes back as an idle one does, for whoever needs it.

Each keeps its memory and the cores it computes on until its thread comes back, which may be never. What is built is
chosen by the memory that is left then (`memory.plan`), and a service manager may restart the process before.
"""
REBUILD_SECONDS = 3600.0


Tell = Callable[[str, float], None]
"""Told what happens to an engine, and how much of it: unloaded and rebuilt (1), and of each job that is over its busy
time (seconds that were computed) and pace (items a second)."""


def _nobody(what: str, amount: float) -> None:
    """Is told and does nothing."""


class Worker(Generic[E]):
    """An engine with threads of its own, as many as it has slots."""

    def __init__(
        self,
        name: str,
        build: Callable[[], E],
        slots: int = 1,
        step_seconds: float = 30,
        idle_seconds: float = 0,
        tell: Tell = _nobody,
    ) -> None:
        """`idle_seconds` without use after which the engine is closed; 0: never."""
        self.name = name
        self.admission = Admission(name, slots)
        self.rebuilt = 0
        """How often a stuck engine was abandoned."""
        self.unloaded = 0
        """How often the engine was closed because it was idle."""
        self.given = 0
        """Items that the engine has given, of all its jobs."""
        self._build = build
        self._step_seconds = step_seconds
        self._idle_seconds = idle_seconds
        self._tell = tell
        self._crew: EngineThreads[E] | None = None
        self._running: dict[Job[E, Any], EngineThreads[E]] = {}
        self._opening = anyio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._used = 0.0
        """When the engine was last needed, in the event loop's time."""
        self._leaving: EngineThreads[E] | None = None
        """The last one that was idle: its memory may not be given back yet."""
        self._declared: E | None = None
        """While the engine is away: what it declares."""
        self._abandoned: deque[float] = deque(maxlen=REBUILDS + 1)
        """When the last engines were, on the clock of `time.monotonic`."""

    @property
    def state(self) -> str:
        """idle, loading, ready, reloading (it was away and comes back) or failed."""
        if self.barred:
            return "failed"
        if self._crew is None or self._failed_to_return():
            return "idle"
        if self._crew.error is not None:
            return "failed"
        if self._crew.built.is_set():
            return "ready"
        return "loading" if self._declared is None else "reloading"

    @property
    def barred(self) -> float:
        """Seconds until an engine that was stuck too often may come back; 0: now."""
        if self._crew is not None or len(self._abandoned) <= REBUILDS:
            return 0.0
        return max(0.0, self._abandoned[0] + REBUILD_SECONDS - time.monotonic())

    async def open(self) -> E:
        """Build the engine; what its constructor raises is raised here."""
        async with self._opening:
            if self._crew is None or self._failed_to_return():
                if self._leaving is not None:
                    with anyio.move_on_after(self._step_seconds):
                        await self._leaving.closed.wait()
                    self._leaving = None
                self._crew = EngineThreads(self.name, self._build, self.admission.slots)
            threads = self._crew
            await threads.built.wait()
            if threads.error is not None:
                raise threads.error
            self._declared = None
        self._use()
        return self.engine

    def preload(self) -> None:
        """Somebody will need the engine soon: if it is idle, it begins to come back now."""
        gone = (self._leaving is None or self._leaving.closed.is_set()) and not self.barred
        if self._crew is None and self._declared is not None and gone:
            self._crew = EngineThreads(self.name, self._build, self.admission.slots)
            self._use()

    @property
    def engine(self) -> E:
        """For reading what it declares (languages, voices), also while it is idle; NotReady before it is built."""
        if self._crew is not None and self._crew.engine is not None:
            return self._crew.engine
        if self._declared is not None:
            return self._declared
        raise NotReady(f"the {self.name} engine is not loaded yet", retry_after=2)

    async def aclose(self) -> None:
        """Stop the threads and close the engine; gives up on a stuck one after a step's time."""
        if self._timer is not None:
            self._timer.cancel()
        threads, self._crew, self._declared = self._crew, None, None
        if threads is not None:
            threads.dismiss()
        with anyio.move_on_after(min(self._step_seconds, 5), shield=True):
            for each in (threads, self._leaving):
                if each is not None:
                    await each.closed.wait()

    def _use(self) -> None:
        self._used = asyncio.get_running_loop().time()
        self._await_rest()

    def _await_rest(self) -> None:
        """Wait for the end of the idle time, if the engine has any."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle_seconds and not self.admission.used and self._crew is not None:
            self._timer = asyncio.get_running_loop().call_at(self._used + self._idle_seconds, self._rest)

    def _rest(self) -> None:
        """Close the engine until somebody needs it, unless somebody does."""
        threads = self._crew
        if threads is None or self.admission.used:
            return
        if threads.engine is None:
            # It is still being built.
            self._use()
            return
        self._declared = _declared(threads.engine)
        self._crew, self._leaving = None, threads
        threads.dismiss()
        self.unloaded += 1
        self._tell("unloaded", 1)
        log.info("engine idle, its memory is given back", extra={"role": self.name, "seconds": self._idle_seconds})

    def _failed_to_return(self) -> bool:
        """What keeps it from coming back may pass, such as memory that others hold: it is tried again when needed."""
        return self._declared is not None and self._crew is not None and self._crew.error is not None

    async def _come_back(self) -> None:
        """Build an engine that was idle; one who needs it at the same time waits for the same one."""
        if self._declared is None or self.barred:
            return
        try:
            await self.open()
        except Exception as error:
            if isinstance(error, ChatapiError) and error.__cause__ is None:
                raise
            log.exception("the %s engine could not be loaded again", self.name)
            told = f"the {self.name} engine could not be loaded again; the log says why"
            raise EngineFailed(told, code=getattr(error, "code", None)) from error

    @asynccontextmanager
    async def stream(
        self,
        call: Callable[[E, Stop], Iterator[T]],
        priority: Priority = Priority.REQUEST,
        yields: YieldPolicy = YieldPolicy.NEVER,
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
                job.patience = asyncio.get_running_loop().call_later(self._step_seconds, self._abandon, job)

    async def _begin(
        self, call: Callable[[E, Stop], Iterator[T]], priority: Priority, yields: YieldPolicy
    ) -> Job[E, T]:
        if self.admission.used >= self.admission.slots:
            self._make_room(priority)
        await self.admission.acquire(priority)
        try:
            await self._come_back()
            self._refuse_if_not_ready()
        except BaseException:
            self._release(priority)
            raise
        threads = self._crew
        assert threads is not None  # noqa: S101 - just seen to be ready
        job: Job[E, T] = Job(call, priority, yields)
        self._running[job] = threads
        threads.give(job, lambda: self._over(job))
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

    async def _items(self, jobs: list[Job[E, T]], again: Callable[[], Awaitable[Job[E, T]]]) -> AsyncGenerator[T, None]:
        begun = False
        while True:
            item = await self._next(jobs[-1])
            if not isinstance(item, StreamEnd):
                begun = True
                self.given += 1
                yield item
            elif isinstance(item.error, Preempted) and not begun:
                jobs.append(await again())
            else:
                self._check_end(item)
                return

    async def _next(self, job: Job[E, Any]) -> Any:
        """The next item of a job or its `StreamEnd`; waits as long as the engine gives signs of life."""
        since = time.monotonic()
        # A caller who was long away finds one that waited for it, not one that is stuck.
        while (left := self._step_seconds - min(job.silent, time.monotonic() - since)) > 0:
            with anyio.move_on_after(left):
                return await job.take()
        self._abandon(job)
        raise EngineFailed(
            f"the {self.name} engine gave nothing for {self._step_seconds:g} seconds; it is being rebuilt",
            code="engine_stuck",
        )

    def _check_end(self, end: StreamEnd) -> None:
        """Raises what ended a job. What a library raised is for the log: its caller is given a sentence of ours."""
        error, end.error = end.error, None
        try:
            if isinstance(error, InternalError) and error.__cause__ is not None:
                log.error("the %s engine failed", self.name, exc_info=error)
            if isinstance(error, (ChatapiError, ContextOverflow, Preempted)):
                raise error
            if error is not None:
                log.error("the %s engine failed", self.name, exc_info=error)
                raise EngineFailed(f"the {self.name} engine failed; the log says why") from error
        finally:
            # Its traceback holds this frame, which would hold it, and with it the audio, until the next collection.
            del error

    def _refuse_if_not_ready(self) -> None:
        if wait := self.barred:
            raise NotReady(
                f"the {self.name} engine got stuck {REBUILDS + 1} times within {REBUILD_SECONDS / 60:g} minutes; it is "
                f"built again in {wait:.0f} seconds, or when chatapi is restarted",
                retry_after=wait,
                code="engine_gone",
            )
        if self.state == "failed":
            raise EngineFailed(f"the {self.name} engine has failed; restart chatapi", code="engine_gone")
        if self.state != "ready":
            raise NotReady(f"the {self.name} engine is still loading", retry_after=2)

    def _over(self, job: Job[E, Any]) -> None:
        """The thread is done with the job: its slot is free."""
        if not job.over:
            job.over = True
            self._running.pop(job, None)
            if job.patience is not None:
                # The event loop would hold the job until then.
                job.patience.cancel()
            self._tell("busy", job.busy)
            if (pace := job.pace) is not None:
                self._tell("pace", pace)
            self._release(job.priority)

    def _release(self, priority: Priority) -> None:
        """Who only wants to see whether the engine still works (TRAINING) does not keep it from becoming idle."""
        self.admission.release()
        if priority is Priority.TRAINING:
            self._await_rest()
        else:
            self._use()

    def _abandon(self, job: Job[E, Any]) -> None:
        """A job whose thread did not come back in time: leave engine and thread behind, build another."""
        threads = self._running.get(job)
        if job.over or threads is None:
            return
        self._over(job)
        if threads is not self._crew:
            # Another of its jobs was stuck before, or the worker is closed.
            return
        log.error("the %s engine is stuck; building it anew", self.name)
        self.rebuilt += 1
        self._tell("rebuilt", 1)
        self._abandoned.append(time.monotonic())
        # Its last thread to come back closes it.
        threads.dismiss()
        self._declared, self._crew = _declared(threads.engine), None
        if wait := self.barred:
            log.error("the %s engine is stuck too often; it stays away for %.0f seconds", self.name, wait)
        else:
            self._crew = EngineThreads(self.name, self._build, self.admission.slots)


def _declared(engine: E | None) -> E:
    """What stands for an engine that is away."""
    return cast(E, SimpleNamespace(**{name: getattr(engine, name) for name in DECLARED if hasattr(engine, name)}))


@dataclass(frozen=True)
class Engines:
    """The engines of a turn."""

    vad: Worker[VoiceActivityDetector]
    wake_word: Worker[WakeWordDetector]
    turn_detection: Worker[EndOfTurnDetector]
    asr: Worker[Transcriber]
    llm: Worker[LanguageModel]
    tts: Worker[Synthesizer]

    def all(self) -> tuple[Worker[Any], ...]:
        return (self.vad, self.wake_word, self.turn_detection, self.asr, self.llm, self.tts)
