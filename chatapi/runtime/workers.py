"""Workers: engines on threads of their own, used from the event loop as streams.

An engine is built, stepped and closed on its own threads: a shared pool would move generators between threads. A
cancelled caller stops the engine at its next step, and a slot becomes free only when its thread is free. A stuck
engine, one that neither yields an item nor checks its `Stop` for too long, is abandoned with its thread and rebuilt;
the thread closes it when it returns. An engine that is unused for longer than its idle timeout is unloaded, and loaded
again by the next request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

import anyio

from chatapi.engines import (
    EndOfTurnDetector,
    LanguageModel,
    Stop,
    Synthesizer,
    Transcriber,
    VoiceActivityDetector,
    WakeWordDetector,
)
from chatapi.engines.call import EngineCall
from chatapi.errors import ChatapiError, EngineFailed, NotReady
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.engine_host import Call, EngineHost
from chatapi.runtime.engine_threads import CpuTurn, EngineThreads, Job, Preempted, StreamEnd, YieldPolicy
from chatapi.runtime.rebuild_limit import REBUILDS, RebuildLimit
from chatapi.runtime.scheduler import Scheduler
from chatapi.system import machine_clock

__all__ = ["Call", "Engines", "Preempted", "Worker", "YieldPolicy"]

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

Report = Callable[[str, float], None]
"""Receives what happens to an engine and its amount: unloaded and rebuilt (1), and for each finished job busy (seconds
of computing) and pace (items per second)."""


class Worker(Generic[E]):
    """An engine with one thread per slot."""

    def __init__(
        self,
        name: str,
        load: Callable[[], E | EngineHost[E]],
        slots: int = 1,
        step_seconds: float = 30,
        idle_seconds: float = 0,
        report: Report = lambda *_: None,
    ) -> None:
        """`load` returns an engine, or the host of one that runs elsewhere. `step_seconds`: time without progress after
        which it is stuck. `idle_seconds`: time without use after which it is unloaded; 0: never."""
        self.name = name
        self.admission = Admission(name, slots)
        self.unloaded = 0
        """How often the engine was unloaded because it was idle."""
        self.items_produced = 0
        """Number of items of all jobs."""
        self.scheduler: Scheduler | None = None
        """Of the machine; None: the jobs neither yield nor count."""
        self._load = load
        self._step_seconds = step_seconds
        self._idle_seconds = idle_seconds
        self._report = report
        self._threads: EngineThreads[E] | None = None
        self._running: dict[Job[E, Any], EngineThreads[E]] = {}
        self._opening = anyio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._used_at = 0.0
        """When the engine was last needed, in seconds of the event loop's clock."""
        self._closing: EngineThreads[E] | None = None
        """Threads of the engine that was unloaded last; its memory may not be free yet."""
        self._declared: E | None = None
        """What the engine declares, while it is unloaded."""
        self._limit = RebuildLimit()

    @property
    def state(self) -> str:
        """idle, loading, ready, reloading (it was unloaded and loads again) or failed."""
        if self.rebuild_delay:
            return "failed"
        if self._threads is None or self._reload_failed():
            return "idle"
        if self._threads.error is not None:
            return "failed"
        if self._threads.built.is_set():
            return "ready"
        return "loading" if self._declared is None else "reloading"

    @property
    def rebuild_delay(self) -> float:
        """Time until an engine that was lost too often may be loaded again, in seconds; 0: now."""
        return 0.0 if self._threads is not None else self._limit.delay

    @property
    def rebuilt(self) -> int:
        """How often the engine was lost: stuck, or crashed in its process."""
        return self._limit.count

    @property
    def memory_bytes(self) -> int:
        """Memory of the engine outside this process, in bytes."""
        host = self._threads.host if self._threads is not None else None
        return host.memory_bytes if host is not None else 0

    async def open(self) -> E:
        """Load the engine. Raises what its constructor raises."""
        async with self._opening:
            if self._threads is None or self._reload_failed():
                if self._closing is not None:
                    with anyio.move_on_after(self._step_seconds):
                        await self._closing.closed.wait()
                    self._closing = None
                self._threads = self._new_threads()
            threads = self._threads
            await threads.built.wait()
            if threads.error is not None:
                raise threads.error
            self._declared = None
        self._mark_used()
        return self.engine

    def preload(self) -> None:
        """Begin to load an unloaded engine, because it will be needed soon."""
        loadable = (self._closing is None or self._closing.closed.is_set()) and not self.rebuild_delay
        if self._threads is None and self._declared is not None and loadable:
            self._threads = self._new_threads()
            self._mark_used()

    def expect_live(self) -> None:
        """Keep a slot free, and the machine's cores, for live work that is about to come."""
        self.admission.reserve_live()
        if self.scheduler is not None:
            self.scheduler.expect(Priority.LIVE)

    @property
    def engine(self) -> E:
        """The engine, for reading what it declares (languages, voices), also while it is unloaded. Raises NotReady
        before it was first loaded."""
        if self._threads is not None and self._threads.engine is not None:
            return self._threads.engine
        if self._declared is not None:
            return self._declared
        raise NotReady(f"the {self.name} engine is not loaded yet", retry_after=2)

    async def aclose(self) -> None:
        """Stop the threads and close the engine; waits at most 5 seconds for a stuck one."""
        if self._timer is not None:
            self._timer.cancel()
        threads, self._threads, self._declared = self._threads, None, None
        if threads is not None:
            threads.shut_down()
        closing = [each for each in (threads, self._closing) if each is not None]
        with anyio.move_on_after(min(self._step_seconds, 5), shield=True):
            for each in closing:
                await each.closed.wait()
        for each in closing:
            each.kill()

    def _mark_used(self) -> None:
        self._used_at = asyncio.get_running_loop().time()
        self._start_idle_timer()

    def _start_idle_timer(self) -> None:
        """Unload the engine at the end of its idle timeout, if it has one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle_seconds and not self.admission.used and self._threads is not None:
            self._timer = asyncio.get_running_loop().call_at(self._used_at + self._idle_seconds, self._unload)

    def _unload(self) -> None:
        """Unload the engine, unless it is in use."""
        threads = self._threads
        if threads is None or self.admission.used:
            return
        if threads.engine is None:
            # It is still loading.
            self._mark_used()
            return
        self._declared = threads.declared()
        self._threads, self._closing = None, threads
        threads.shut_down()
        self.unloaded += 1
        self._report("unloaded", 1)
        log.info("idle engine unloaded", extra={"role": self.name, "seconds": self._idle_seconds})

    def _reload_failed(self) -> bool:
        """Whether the engine could not be loaded again. The reason may pass, such as a lack of memory, so the next
        request tries again."""
        return self._declared is not None and self._threads is not None and self._threads.error is not None

    async def _reload(self) -> None:
        """Load an unloaded engine; concurrent callers wait for the same one."""
        if self._declared is None or self.rebuild_delay:
            return
        try:
            await self.open()
        except Exception as error:
            if isinstance(error, ChatapiError) and error.__cause__ is None:
                raise
            log.exception("the %s engine could not be loaded again", self.name)
            message = f"the {self.name} engine could not be loaded again; the log says why"
            raise EngineFailed(message, code=getattr(error, "code", None)) from error

    @asynccontextmanager
    async def stream(
        self,
        call: Call[E, T],
        priority: Priority = Priority.REQUEST,
        yields: YieldPolicy = YieldPolicy.NEVER,
    ) -> AsyncIterator[AsyncIterator[T]]:
        """Wait for a slot, then stream the items of `call(engine, stop)`. Leaving the context cancels the job.

        Raises ChatapiError as the engine does, and EngineFailed for any other error and for a stuck engine.
        """
        jobs = [await self._begin(call, priority, yields)]
        items = self._items(jobs, lambda: self._begin(call, priority, yields))
        try:
            yield items
        finally:
            job = jobs[-1]
            job.cancel()
            await items.aclose()
            if not job.done:
                job.abandon_timer = asyncio.get_running_loop().call_later(self._step_seconds, self._abandon, job)

    async def _begin(self, call: Call[E, T], priority: Priority, yields: YieldPolicy) -> Job[E, T]:
        if self.admission.used >= self.admission.slots:
            self._preempt(priority)
        await self.admission.acquire(priority)
        try:
            self._check_lost()
            await self._reload()
            self._require_ready()
        except BaseException:
            self._release(priority)
            raise
        threads = self._threads
        assert threads is not None  # noqa: S101 - just seen to be ready
        job: Job[E, T] = Job(call, priority, yields, CpuTurn(self.scheduler, self.admission, priority))
        self._running[job] = threads
        threads.submit(job, lambda: self._finished(job))
        return job

    def _preempt(self, priority: Priority) -> None:
        """Stop the least urgent job, if it is less urgent than this priority."""
        if any(job.preempted for job in self._running):
            return
        for job in sorted(self._running, key=lambda job: job.priority, reverse=True):
            if job.priority > priority and job.preempt():
                return

    async def collect(self, call: EngineCall[T], priority: Priority = Priority.REQUEST) -> list[T]:
        """All items of a call at once. Raises what `stream` raises."""
        async with self.stream(replace(call, whole=True), priority) as collected:
            async for items in collected:
                return cast("list[T]", items)
        raise EngineFailed(f"the {self.name} engine returned no result")

    async def call(self, function: Callable[[E], T], priority: Priority = Priority.REQUEST) -> T:
        """The result of a function of the engine, run on the engine's thread."""

        def once(engine: E, _: Stop) -> Iterator[T]:
            yield function(engine)

        async with self.stream(once, priority) as results:
            async for result in results:
                return result
        raise EngineFailed(f"the {self.name} engine returned no result")

    async def _items(
        self, jobs: list[Job[E, T]], restart: Callable[[], Awaitable[Job[E, T]]]
    ) -> AsyncGenerator[T, None]:
        started = False
        while True:
            item = await self._next(jobs[-1])
            if not isinstance(item, StreamEnd):
                started = True
                self.items_produced += 1
                yield item
            elif isinstance(item.error, Preempted) and not started:
                jobs.append(await restart())
            else:
                item.check(self.name)
                return

    async def _next(self, job: Job[E, Any]) -> Any:
        """The next item of a job or its `StreamEnd`; waits as long as the engine makes progress."""
        since = machine_clock.shared.now()
        # After a long pause of the reader the engine has waited for it and is not stuck.
        while (left := self._step_seconds - min(job.silent_seconds, machine_clock.shared.now() - since)) > 0:
            with anyio.move_on_after(left):
                return await job.next_item()
        self._abandon(job)
        raise EngineFailed(
            f"the {self.name} engine made no progress for {self._step_seconds:g} seconds; it is being rebuilt",
            code="engine_stuck",
        )

    def _require_ready(self) -> None:
        if wait := self.rebuild_delay:
            raise NotReady(
                f"the {self.name} engine got stuck or crashed {REBUILDS + 1} times in a short time; it is rebuilt in "
                f"{wait:.0f} seconds, or when chatapi restarts",
                retry_after=wait,
                code="engine_gone",
            )
        if self.state == "failed":
            raise EngineFailed(f"the {self.name} engine has failed; restart chatapi", code="engine_gone")
        if self.state != "ready":
            raise NotReady(f"the {self.name} engine is still loading", retry_after=2)

    def _finished(self, job: Job[E, Any]) -> None:
        """Free the slot of a job that its thread has finished."""
        if not job.done:
            job.done = True
            self._running.pop(job, None)
            if job.abandon_timer is not None:
                # Otherwise the event loop holds the job until the timer ends.
                job.abandon_timer.cancel()
            self._report("busy", job.busy)
            if (pace := job.pace) is not None:
                self._report("pace", pace)
            self._release(job.priority)

    def _release(self, priority: Priority) -> None:
        """Free a slot. Health probes do not count as use, so they do not keep an engine loaded."""
        self.admission.release()
        if priority is Priority.PROBE:
            self._start_idle_timer()
        else:
            self._mark_used()

    def _abandon(self, job: Job[E, Any]) -> None:
        """Abandon the engine and the thread of a stuck job, and rebuild the engine."""
        threads = self._running.get(job)
        if job.done or threads is None:
            return
        self._finished(job)
        if threads is self._threads:
            self._rebuild(threads, "is stuck")
        # Otherwise the engine was abandoned before for another of its jobs, or the worker is closed.

    def _check_lost(self) -> None:
        """Rebuild the engine if it was lost."""
        threads = self._threads
        if threads is not None and threads.host is not None and threads.host.lost:
            self._rebuild(threads, "has crashed")

    def _rebuild(self, threads: EngineThreads[E], why: str) -> None:
        """Abandon an engine with its threads, and load another one."""
        log.error("the %s engine %s; rebuilding it", self.name, why)
        self._report("rebuilt", 1)
        self._declared, self._threads = threads.declared(), None
        # Its last thread to return closes it.
        threads.shut_down()
        gone = threads.kill()
        self._limit.lost(gone)
        if wait := self.rebuild_delay:
            log.error("the %s engine was lost too often; it stays unloaded for %.0f seconds", self.name, wait)
        else:
            self._threads = self._new_threads(threads if gone else None)

    def _new_threads(self, after: EngineThreads[E] | None = None) -> EngineThreads[E]:
        return EngineThreads(self.name, self._load, self.admission.slots, self._check_lost, after)


class Engines:
    """The worker of each role; those that services use are attributes too."""

    vad: Worker[VoiceActivityDetector]
    wake_word: Worker[WakeWordDetector]
    turn_detection: Worker[EndOfTurnDetector]
    asr: Worker[Transcriber]
    llm: Worker[LanguageModel]
    tts: Worker[Synthesizer]

    def __init__(self, workers: Mapping[str, Worker[Any]]) -> None:
        """`workers`: role -> its worker."""
        self._workers = dict(workers)
        vars(self).update(self._workers)

    def __getitem__(self, role: str) -> Worker[Any]:
        return self._workers[role]

    def all(self) -> tuple[Worker[Any], ...]:
        return tuple(self._workers.values())
