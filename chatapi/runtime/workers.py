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
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import anyio

from chatapi.engines import (
    CommandClassifier,
    EndOfTurnDetector,
    LanguageModel,
    SoundDetector,
    SpeakerEncoder,
    Stop,
    Synthesizer,
    Transcriber,
    VoiceActivityDetector,
    VoiceConverter,
    WakeWordDetector,
    WordEncoder,
)
from chatapi.engines.call import EngineCall
from chatapi.errors import Busy, ChatapiError, EngineFailed
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.cpu_turn import CpuTurn
from chatapi.runtime.engine_host import Call
from chatapi.runtime.engine_lifetime import EngineLifetime, Load, Report
from chatapi.runtime.engine_threads import EngineThreads, Job, Preempted, StreamEnd, YieldPolicy
from chatapi.runtime.scheduler import Scheduler
from chatapi.system import machine_clock

__all__ = ["Call", "Engines", "LateCall", "Preempted", "Replacement", "Worker", "YieldPolicy"]

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")


@dataclass(frozen=True)
class LateCall(Generic[T]):
    """A call that depends on what the engine declares, which may be another one after a wait."""

    of: Callable[[Any], EngineCall[T]]


@dataclass(frozen=True)
class Replacement(Generic[E]):
    """An engine that takes the place of another one."""

    load: Load[E]
    slots: int
    warm_up: Callable[[E], EngineCall[Any]]
    """Its first call, made before it takes the place."""
    may_be_away: bool = False
    """Whether the first call may fail, because the engine asks a server that may start later."""


class Worker(Generic[E]):
    """An engine with one thread per slot."""

    def __init__(
        self,
        name: str,
        load: Load[E],
        slots: int = 1,
        step_seconds: float = 30,
        idle_seconds: float = 0,
        report: Report = lambda *_: None,
    ) -> None:
        """`load` returns an engine, or the host of one that runs elsewhere. `step_seconds`: time without progress after
        which it is stuck. `idle_seconds`: time without use after which it is unloaded; 0: never."""
        self.name = name
        self.admission = Admission(name, slots)
        self.items_produced = 0
        """Number of items of all jobs."""
        self.scheduler: Scheduler | None = None
        """Of the machine; None: the jobs neither yield nor count."""
        self.lifetime: EngineLifetime[E] = EngineLifetime(self.admission, load, step_seconds, idle_seconds, report)
        self._step_seconds = step_seconds
        self._report = report
        self._running: dict[Job[E, Any], EngineThreads[E]] = {}
        self._drained = anyio.Event()
        """Set when no call is in flight any more."""

    @property
    def state(self) -> str:
        """idle, loading, ready, reloading (it was unloaded and loads again) or failed."""
        return self.lifetime.state

    @property
    def rebuild_delay(self) -> float:
        """Time until an engine that was lost too often may be loaded again, in seconds; 0: now."""
        return self.lifetime.rebuild_delay

    @property
    def load_error(self) -> Exception | None:
        """Why the engine could not be loaded the last time; None: it could."""
        return self.lifetime.load_error

    @property
    def rebuilt(self) -> int:
        """How often the engine was lost: stuck, or crashed in its process."""
        return self.lifetime.rebuilt

    @property
    def unloaded(self) -> int:
        """How often the engine was unloaded because it was idle."""
        return self.lifetime.unloaded

    @property
    def memory_bytes(self) -> int:
        """Memory of the engine outside this process, in bytes."""
        return self.lifetime.memory_bytes

    @property
    def engine(self) -> E:
        """The engine, for reading what it declares (languages, voices), also while it is unloaded. Raises NotReady
        before it was first loaded."""
        return self.lifetime.engine

    async def open(self) -> E:
        """Load the engine. Raises what its constructor raises, NotReady (engine_gone) when that happened too often."""
        return await self.lifetime.open()

    def preload(self) -> None:
        """Begin to load an unloaded engine, because it will be needed soon."""
        self.lifetime.preload()

    async def aclose(self) -> None:
        """Stop the threads and close the engine; waits at most 5 seconds for a stuck one."""
        await self.lifetime.aclose()

    async def swap(self, new: Replacement[E], beside: bool, drain_seconds: float) -> None:
        """Swap the engine; calls in flight finish on the old one.

        `beside`: load the new engine while the old one serves; else calls wait from now on, the old one is unloaded
        when those in flight have ended, and loaded again where the new one fails. Raises what the new engine's
        constructor or warm-up raises, and Busy (engine_in_use) when calls in flight do not end within `drain_seconds`.
        """
        if beside:
            self.lifetime.swap(await self._prepared(new))
            return
        with self.lifetime.holding():
            await self._drain(drain_seconds)
            await self.lifetime.unload_and_wait()
            try:
                threads = await self._prepared(new)
            except Exception as error:
                if (again := await self.lifetime.restore()) is not None:
                    raise EngineFailed(f"{error}; the old one could not be loaded again: {again}") from error
                raise
            self.lifetime.swap(threads)

    async def _drain(self, seconds: float) -> None:
        """Wait until no call is in flight."""
        self._drained = anyio.Event()
        if not self._running:
            return
        with anyio.move_on_after(seconds):
            await self._drained.wait()
            return
        raise Busy(
            f"calls of the {self.name} engine did not end within {seconds:.0f} seconds, and there is no memory for two",
            retry_after=seconds,
            code="engine_in_use",
        )

    async def _prepared(self, new: Replacement[E]) -> EngineThreads[E]:
        """A loaded engine that has made its first call."""
        threads = await self.lifetime.load_beside(new.load, new.slots)
        try:
            await self._warm_up(threads, new)
        except BaseException:
            self.lifetime.discard(threads)
            raise
        return threads

    async def _warm_up(self, threads: EngineThreads[E], new: Replacement[E]) -> None:
        engine = threads.engine
        assert engine is not None  # noqa: S101 - just loaded
        # Less urgent than live work, which the old engine still serves; bulk work might wait for many seconds.
        turn = CpuTurn(self.scheduler, self.admission, Priority.REQUEST)
        job: Job[E, Any] = Job(new.warm_up(engine), Priority.REQUEST, YieldPolicy.NEVER, turn)
        threads.submit(job, lambda: None)
        try:
            while not isinstance(item := await self._next(job), StreamEnd):
                pass
            item.check(self.name)
        except ChatapiError as error:
            if not new.may_be_away:
                raise
            log.warning("upstream %s server not reachable yet: %s", self.name, error.message)
        finally:
            job.cancel()

    def expect_live(self) -> None:
        """Keep a slot free, and the machine's cores, for live work that is about to come."""
        self.admission.reserve_live()
        if self.scheduler is not None:
            self.scheduler.expect(Priority.LIVE)

    @asynccontextmanager
    async def stream(
        self,
        call: Call[E, T] | LateCall[T],
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

    async def _begin(self, call: Call[E, T] | LateCall[T], priority: Priority, yields: YieldPolicy) -> Job[E, T]:
        if self.admission.used >= self.admission.slots:
            self._preempt(priority)
        if priority is Priority.PROBE and self.lifetime.is_held:
            raise Busy(f"the {self.name} engine is being swapped", retry_after=1)
        await self.admission.acquire(priority)
        try:
            threads = await self.lifetime.ready()
            if isinstance(call, LateCall):
                call = call.of(threads.engine)
        except BaseException:
            self._release(priority)
            raise
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
        if job.has_items:
            return job.take()
        since = machine_clock.shared.now()
        # After a long pause of the reader the engine has waited for it and is not stuck.
        while (left := self._step_seconds - min(job.silent_seconds, machine_clock.shared.now() - since)) > 0:
            with anyio.move_on_after(left):
                await job.wait_for_item()
                return job.take()
        self._abandon(job)
        raise EngineFailed(
            f"the {self.name} engine made no progress for {self._step_seconds:g} seconds; it is being rebuilt",
            code="engine_stuck",
        )

    def _finished(self, job: Job[E, Any]) -> None:
        """Free the slot of a job that its thread has finished."""
        if not job.done:
            job.done = True
            self._running.pop(job, None)
            if not self._running:
                self._drained.set()
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
            self.lifetime.start_idle_timer()
        else:
            self.lifetime.mark_used()

    def _abandon(self, job: Job[E, Any]) -> None:
        """Abandon the engine and the thread of a stuck job, and rebuild the engine."""
        threads = self._running.get(job)
        if job.done or threads is None:
            return
        self._finished(job)
        self.lifetime.abandon(threads)


class Engines:
    """The worker of each role; those that services use are attributes too."""

    vad: Worker[VoiceActivityDetector]
    wake_word: Worker[WakeWordDetector]
    turn_detection: Worker[EndOfTurnDetector]
    asr: Worker[Transcriber]
    llm: Worker[LanguageModel]
    tts: Worker[Synthesizer]
    speaker: Worker[SpeakerEncoder]
    voice_converter: Worker[VoiceConverter]
    command: Worker[CommandClassifier]
    word_encoder: Worker[WordEncoder]
    sound_detector: Worker[SoundDetector]

    def __init__(self, workers: Mapping[str, Worker[Any]]) -> None:
        """`workers`: role -> its worker."""
        self._workers = dict(workers)
        vars(self).update(self._workers)

    def __getitem__(self, role: str) -> Worker[Any]:
        return self._workers[role]

    def all(self) -> tuple[Worker[Any], ...]:
        return tuple(self._workers.values())
