"""The runner: runs queued jobs beside a server, a number of each class at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import current_token

from chatapi.errors import ChatapiError
from chatapi.jobs.claims import Claim, claim_next, recover
from chatapi.jobs.execution import Execution, MustYield, Working, never, uncounted
from chatapi.jobs.records import JobFailure
from chatapi.jobs.steps import JobKind
from chatapi.jobs.store import JobStore
from chatapi.runtime.admission import Priority

log = logging.getLogger(__name__)

SLOTS: Mapping[Priority, int] = {Priority.LIVE: 1, Priority.REQUEST: 2, Priority.BULK: 1, Priority.TRAINING: 1}
"""Number of jobs of each class that run at once."""
POLL_SECONDS = 1.0
"""Interval between checks for jobs that other processes added, resumed or left interrupted, in seconds."""
RETRY_SECONDS = 10.0
"""Time before the next check while the store cannot be used, in seconds."""
STOP_SECONDS = 4.0
"""Time that running jobs have to come to a checkpoint when the runner is cancelled, in seconds. With the times that the
web server and the engines have, it stays below the TimeoutStopSec of `systemd/chatapi.service`."""
STORE_SECONDS = 0.5
"""Longest wait for the store after that, in seconds."""


class JobRunner:
    """Runs the queued jobs of some kinds. A job of another kind fails (unknown_kind); jobs of commands stay queued.

    A job runs in a thread of its own. Belongs to one event loop.
    """

    def __init__(
        self,
        store: JobStore,
        kinds: Iterable[JobKind],
        slots: Mapping[Priority, int] = SLOTS,
        must_yield: MustYield = never,
        working: Working = uncounted,
    ) -> None:
        """`must_yield` is asked at every checkpoint, in the job's thread: whether work of its class has to wait.
        `working` is entered by the job's thread while it runs."""
        self._store, self._slots, self._must_yield, self._working = store, slots, must_yield, working
        self._kinds = {kind.name: kind for kind in kinds}
        self._running: dict[Priority, list[Execution]] = {priority: [] for priority in slots}
        self._wake = anyio.Event()

    def wake(self) -> None:
        """Look for jobs at once, for example because one was added."""
        self._wake.set()

    async def run(self) -> None:
        """Run jobs until cancelled; then running jobs stop at their next checkpoint and are queued again."""
        async with anyio.create_task_group() as group:
            while True:
                self._wake = anyio.Event()
                seconds = POLL_SECONDS
                try:
                    for held in await anyio.to_thread.run_sync(self._claim_free):
                        execution = self._execution(held)
                        group.start_soon(self._run_one, execution)
                except ChatapiError as error:
                    log.warning("no job can be started: %s", error.message)
                    seconds = RETRY_SECONDS
                with anyio.move_on_after(seconds):
                    await self._wake.wait()

    def _claim_free(self) -> list[Claim]:
        """Claim a job for every free slot, the most urgent class first. In a thread."""
        recover(self._store)
        self._store.delete_old()
        found: list[Claim] = []
        for priority in sorted(self._slots):
            free = self._slots[priority] - len(self._running[priority])
            while free > 0 and (held := claim_next(self._store, priority)) is not None:
                if held.job.kind in self._kinds:
                    found.append(held)
                    free -= 1
                else:
                    self._reject(held)
        return found

    def _reject(self, held: Claim) -> None:
        """Store that a job of an unknown kind failed. In a thread."""
        known = ", ".join(sorted(self._kinds)) or "none"
        message = f"this server runs no jobs of kind {held.job.kind[:64]!r} (it runs: {known}); retry it where one does"
        try:
            held.end("failed", JobFailure("unknown_kind", message))
        finally:
            held.release()
        log.warning("job %s failed: %s", held.job.id, message)

    def _execution(self, held: Claim) -> Execution:
        kind = self._kinds[held.job.kind]
        execution = Execution(held, kind, self._store.log(held.job.id), must_yield=self._must_yield)
        self._running[held.job.priority].append(execution)
        return execution

    async def _run_one(self, execution: Execution) -> None:
        priority = execution.job.priority

        def run() -> None:
            with self._working(priority):
                execution.run()

        ended = _start(run, f"job {execution.job.id}")
        try:
            await self._watch(execution, ended)
        finally:
            execution.stop()
            with anyio.move_on_after(STOP_SECONDS, shield=True) as scope:
                await ended.wait()
            if scope.cancelled_caught:
                log.warning("job %s came to no checkpoint in time; it runs again at the next start", execution.job.id)
                with anyio.move_on_after(STORE_SECONDS, shield=True):
                    await anyio.to_thread.run_sync(execution.declare_interrupted, abandon_on_cancel=True)
            self._running[priority].remove(execution)
            self.wake()

    async def _watch(self, execution: Execution, ended: anyio.Event) -> None:
        """Wait until it has ended. One that is stuck is declared failed; its slot stays taken until its thread ends."""
        stuck = False
        while not ended.is_set():
            with anyio.move_on_after(POLL_SECONDS):
                await ended.wait()
            silent = time.monotonic() - execution.alive_at
            if not stuck and not ended.is_set() and silent > execution.kind.stall_seconds:
                stuck = True
                log.error("job %s is stuck: no checkpoint for %.0f seconds", execution.job.id, silent)
                await anyio.to_thread.run_sync(execution.declare_stuck)


def _start(function: Callable[[], None], name: str) -> anyio.Event:
    """Run a function in a thread that does not keep the process alive; the event is set when it has ended."""
    ended, token = anyio.Event(), current_token()

    def run() -> None:
        try:
            function()
        finally:
            try:
                anyio.from_thread.run_sync(ended.set, token=token)
            except RuntimeError:
                log.debug("the event loop ended before a job")

    threading.Thread(target=run, name=name, daemon=True).start()
    return ended
