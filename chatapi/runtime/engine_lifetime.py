"""The lifetime of a worker's engine: loaded, unloaded while it is idle, rebuilt when it is lost, and swapped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import anyio

from chatapi.errors import ChatapiError, EngineFailed, ModelMissing, NotReady
from chatapi.runtime.admission import Admission
from chatapi.runtime.engine_host import EngineHost
from chatapi.runtime.engine_threads import EngineThreads
from chatapi.runtime.rebuild_limit import REBUILDS, RebuildLimit

log = logging.getLogger(__name__)

E = TypeVar("E")

LOAD_SECONDS = 600.0
"""Longest time for loading an engine beside another one, in seconds."""

Load = Callable[[], "E | EngineHost[E]"]
"""Returns an engine, or the host of one that runs elsewhere; blocking."""
Report = Callable[[str, float], None]
"""Receives what happens to an engine and its amount: unloaded and rebuilt (1), and for each finished job busy (seconds
of computing) and pace (items per second)."""


class EngineLifetime(Generic[E]):
    """The engine of one worker, which may come and go; all methods belong to one event loop."""

    def __init__(
        self, admission: Admission, load: Load[E], step_seconds: float, idle_seconds: float, report: Report
    ) -> None:
        """`admission`: of the engine's slots. `step_seconds`: longest wait for the memory of an engine that was
        unloaded. `idle_seconds`: time without use after which it is unloaded; 0: never."""
        self.name = admission.name
        self.unloaded = 0
        """How often the engine was unloaded because it was idle."""
        self.load_error: Exception | None = None
        """Why the engine could not be loaded the last time; None: it could."""
        self._admission = admission
        self._load = load
        self._step_seconds = step_seconds
        self._idle_seconds = idle_seconds
        self._report = report
        self._threads: EngineThreads[E] | None = None
        self._opening = anyio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._used_at = 0.0
        """When the engine was last needed, in seconds of the event loop's clock."""
        self._closing: EngineThreads[E] | None = None
        """Threads of the engine that was unloaded last; its memory may not be free yet."""
        self._declared: E | None = None
        """What the engine declares, while it is unloaded."""
        self._limit = RebuildLimit()
        self._attempts = 0
        """How often the engine was tried to load."""
        self._others: list[EngineThreads[E]] = []
        """Threads of engines that are not in use yet, or that finish their calls after a swap."""
        self._hold: anyio.Event | None = None
        """Set when calls, which wait meanwhile, may continue."""

    @property
    def state(self) -> str:
        """idle, loading, ready, reloading (it was unloaded and loads again) or failed."""
        if self._hold is not None and self._threads is None:
            return "reloading"
        if self.rebuild_delay:
            return "failed"
        if self._threads is None:
            # What was loaded before is tried again, because the reason may pass, such as a lack of memory.
            tried = self.load_error is None or self._declared is not None or isinstance(self.load_error, ModelMissing)
            return "idle" if tried else "failed"
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
        hosts = (each.host for each in (self._threads, self._closing, *self._others) if each is not None)
        return sum(host.memory_bytes for host in hosts if host is not None)

    @property
    def was_loaded(self) -> bool:
        """Whether the engine was loaded, or tried to load, since the start."""
        return self._threads is not None or self._declared is not None or self.load_error is not None

    @property
    def is_held(self) -> bool:
        """Whether calls wait until the engine is swapped."""
        return self._hold is not None

    @property
    def engine(self) -> E:
        """The engine, for reading what it declares (languages, voices), also while it is unloaded. Raises NotReady
        before it was first loaded."""
        if self._threads is not None and self._threads.engine is not None:
            return self._threads.engine
        if self._declared is not None:
            return self._declared
        raise NotReady(f"the {self.name} engine is not loaded yet", retry_after=2)

    async def open(self) -> E:
        """Load the engine; callers that come meanwhile get the same one, or the same error. Raises what its constructor
        raises, and NotReady (engine_gone) when that happened too often."""
        attempts = self._attempts
        async with self._opening:
            await self._until_released()
            if self._threads is None:
                if self._attempts != attempts and self.load_error is not None:
                    raise self.load_error
                self._require_rebuild()
                await self._begin_load()
            threads = self._threads
            assert threads is not None  # noqa: S101 - begun above
            await threads.built.wait()
            # It may have been swapped meanwhile.
            if threads.error is not None and self._threads is None:
                raise threads.error
            self._declared = self.load_error = None
        self.mark_used()
        return self.engine

    async def _begin_load(self) -> None:
        if self._closing is not None:
            with anyio.move_on_after(self._step_seconds):
                await self._closing.closed.wait()
            self._closing = None
        self._threads = self._new_threads()

    def preload(self) -> None:
        """Begin to load an unloaded engine, because it will be needed soon."""
        free = self._closing is None or self._closing.closed.is_set()
        loadable = free and not self.rebuild_delay and not self.is_held
        if self._threads is None and self._declared is not None and loadable:
            self._threads = self._new_threads()
            self.mark_used()

    async def ready(self) -> EngineThreads[E]:
        """The threads of the loaded engine; loads it again where it was unloaded, lost or could not be loaded.

        Raises NotReady while it is loaded for the first time (not_ready), and when it was lost too often (engine_gone);
        what its constructor raises, as EngineFailed where that is no error of chatapi.
        """
        await self._until_released()
        self.check_lost()
        await self._reload()
        threads = self._threads
        if threads is None or not threads.built.is_set():
            self._require_rebuild()
            raise NotReady(f"the {self.name} engine is still loading", retry_after=2)
        return threads

    async def _reload(self) -> None:
        """Load an unloaded engine; concurrent callers wait for the same one."""
        loaded_before = self._declared is not None or self.load_error is not None
        if not loaded_before or self.rebuild_delay:
            return
        try:
            await self.open()
        except Exception as error:
            if isinstance(error, ChatapiError) and error.__cause__ is None:
                raise
            log.exception("the %s engine could not be loaded again", self.name)
            message = f"the {self.name} engine could not be loaded again; the log says why"
            raise EngineFailed(message, code=getattr(error, "code", None)) from error

    async def aclose(self) -> None:
        """Stop the threads and close the engine; waits at most 5 seconds for a stuck one."""
        if self._timer is not None:
            self._timer.cancel()
        threads, self._threads, self._declared = self._threads, None, None
        closing = [each for each in (threads, self._closing, *self._others) if each is not None]
        for each in closing:
            each.shut_down()
        with anyio.move_on_after(min(self._step_seconds, 5), shield=True):
            for each in closing:
                await each.closed.wait()
        for each in closing:
            each.kill()

    def mark_used(self) -> None:
        """Count the idle timeout from now on."""
        self._used_at = asyncio.get_running_loop().time()
        self.start_idle_timer()

    def start_idle_timer(self) -> None:
        """Unload the engine at the end of its idle timeout, if it has one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle_seconds and not self._admission.used and self._threads is not None:
            self._timer = asyncio.get_running_loop().call_at(self._used_at + self._idle_seconds, self._unload)

    def _unload(self) -> None:
        """Unload the engine, unless it is in use."""
        threads = self._threads
        if threads is None or self._admission.used:
            return
        if threads.engine is None:
            # It is still loading.
            self.mark_used()
            return
        self._declared = threads.declared()
        self._threads, self._closing = None, threads
        threads.shut_down()
        self.unloaded += 1
        self._report("unloaded", 1)
        log.info("idle engine unloaded", extra={"role": self.name, "seconds": self._idle_seconds})

    def _require_rebuild(self) -> None:
        """Raise NotReady while the engine may not be loaded again."""
        if wait := self.rebuild_delay:
            raise NotReady(
                f"the {self.name} engine got stuck, crashed or could not be loaded {REBUILDS + 1} times in a short "
                f"time; it is rebuilt in {wait:.0f} seconds, or when chatapi restarts",
                retry_after=wait,
                code="engine_gone",
            )

    def abandon(self, threads: EngineThreads[E]) -> None:
        """Rebuild the engine of these threads, one of which is stuck, if it is still the worker's."""
        if threads is self._threads:
            self._rebuild(threads, "is stuck")
        elif threads in self._others:
            # It was swapped, so that nothing waits for it any more.
            threads.kill()
        # Otherwise the engine was abandoned before for another of its jobs, or the worker is closed.

    def check_lost(self) -> None:
        """Rebuild the engine if it was lost; give it up for now if it could not be loaded."""
        threads = self._threads
        if threads is None:
            return
        if threads.error is not None:
            self._give_up(threads.error)
        elif threads.host is not None and threads.host.lost:
            self._rebuild(threads, "has crashed")

    def _give_up(self, error: Exception) -> None:
        """The next call tries to load it again, unless that failed too often. To see that there is no model costs
        nothing, so that the next call has the same error."""
        self._threads, self.load_error = None, error
        if not isinstance(error, ModelMissing):
            self._limit.failed()
            self._log_delay()

    def _rebuild(self, threads: EngineThreads[E], why: str) -> None:
        """Abandon an engine with its threads, and load another one."""
        log.error("the %s engine %s; rebuilding it", self.name, why)
        self._report("rebuilt", 1)
        self._declared, self._threads = threads.declared(), None
        # Its last thread to return closes it.
        threads.shut_down()
        gone = threads.kill()
        self._limit.lost(gone)
        self._log_delay()
        if not self.rebuild_delay:
            self._threads = self._new_threads(threads if gone else None)

    async def _until_released(self) -> None:
        while self._hold is not None:
            await self._hold.wait()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Inside the context new calls wait, and the engine is neither loaded nor unloaded for them."""
        self._hold = hold = anyio.Event()
        try:
            yield
        finally:
            self._hold = None
            hold.set()

    async def load_beside(self, load: Load[E], slots: int) -> EngineThreads[E]:
        """The threads of another engine, which nothing uses until `swap`; `discard` closes it. Raises what its
        constructor raises, EngineFailed (engine_stuck) after LOAD_SECONDS."""
        threads: EngineThreads[E] = EngineThreads(self.name, load, slots, self.check_lost)
        self._keep(threads)
        try:
            with anyio.move_on_after(LOAD_SECONDS):
                await threads.built.wait()
        finally:
            if threads.host is None:
                self.discard(threads)
        if threads.host is None:
            late = f"it was not loaded within {LOAD_SECONDS:g} seconds"
            raise threads.error or EngineFailed(late, code="engine_stuck")
        return threads

    def discard(self, threads: EngineThreads[E]) -> None:
        """Close an engine that is not in use."""
        threads.shut_down()
        threads.kill()

    def swap(self, threads: EngineThreads[E]) -> None:
        """Replace the present engine, which finishes its calls, with one of `load_beside`."""
        old, self._threads = self._threads, threads
        self._others.remove(threads)
        self._declared = self.load_error = None
        self._limit.forget()
        self._admission.resize(threads.slots)
        if old is not None:
            old.shut_down()
            self._keep(old)
        self.mark_used()

    async def unload_and_wait(self) -> None:
        """Unload the engine, which no call uses, and wait for its memory. Inside of `holding`."""
        threads, self._threads = self._threads, None
        if threads is not None:
            if threads.engine is not None:
                self._declared = threads.declared()
            threads.shut_down()
            self._closing = threads
        if self._closing is not None:
            with anyio.move_on_after(self._step_seconds):
                await self._closing.closed.wait()
            self._closing.kill()

    async def restore(self) -> Exception | None:
        """Load the unloaded engine again. Returns why that failed."""
        self._threads = threads = self._new_threads()
        await threads.built.wait()
        return threads.error

    def _keep(self, threads: EngineThreads[E]) -> None:
        """Remember threads until they have ended."""
        self._others = [*(each for each in self._others if not each.closed.is_set()), threads]

    def _log_delay(self) -> None:
        if wait := self.rebuild_delay:
            log.error("the %s engine was lost too often; it stays unloaded for %.0f seconds", self.name, wait)

    def _new_threads(self, after: EngineThreads[Any] | None = None) -> EngineThreads[E]:
        self._attempts += 1
        return EngineThreads(self.name, self._load, self._admission.slots, self.check_lost, after)
