"""The scheduler's decisions for jobs that commands run: they reach another process as a lock on a file.

The server holds the lock of a job's file while the job has to wait, and the command tries it at each checkpoint. The
kernel releases it when the server ends, however it ends; without a server no job waits.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from chatapi.errors import ChatapiError
from chatapi.jobs.execution import MustYield, Working
from chatapi.jobs.store import JobStore
from chatapi.runtime.admission import Priority
from chatapi.system import private_files

log = logging.getLogger(__name__)

FILE = "yield"
"""The file's name, in the job's folder."""
DECIDE_SECONDS = 0.1
"""Interval between decisions while such jobs run, in seconds."""
LOOK_SECONDS = 1.0
"""Interval between checks which such jobs run, in seconds."""


def told_by_server(folder: Path) -> MustYield:
    """Whether a server has the job of this folder wait; for the command that runs the job."""

    def must_yield(priority: Priority) -> bool:
        try:
            descriptor = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # No server has made it.
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    return must_yield


@dataclass
class _Told:
    """A job in the foreground that the server knows of."""

    priority: Priority
    descriptor: int
    """Of its file."""

    def tell(self, wait: bool) -> None:
        """Have it wait, or go on; a lock that the job is just trying is tried again at the next decision."""
        with suppress(BlockingIOError):
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if wait else fcntl.LOCK_UN)


class ForegroundTurns:
    """Tells the jobs that commands run when they have to wait; for the server. Belongs to one event loop."""

    def __init__(self, store: JobStore, must_yield: MustYield, working: Working) -> None:
        self._store, self._must_yield, self._working = store, must_yield, working
        self._known: set[str] = set()

    async def run(self) -> None:
        """Tell until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                try:
                    running = await anyio.to_thread.run_sync(self._store.in_foreground)
                except ChatapiError as error:
                    log.warning("jobs of commands cannot be told to wait: %s", error.message)
                    running = {}
                for job in running.keys() - self._known:
                    self._known.add(job)
                    group.start_soon(self._follow, job, running[job])
                await anyio.sleep(LOOK_SECONDS)

    async def _follow(self, job: str, priority: Priority) -> None:
        """Tell one job, until it no longer runs. It counts as work of its class meanwhile."""
        try:
            told = _Told(priority, await anyio.to_thread.run_sync(_opened, self._store.folder(job) / FILE))
        except OSError as error:
            log.warning("a job of a command cannot be told to wait: %s", error)
            await anyio.sleep(LOOK_SECONDS * 10)
            self._known.discard(job)
            return
        try:
            with self._working(priority):
                while await self._runs(job):
                    for _ in range(round(LOOK_SECONDS / DECIDE_SECONDS)):
                        told.tell(self._must_yield(priority))
                        await anyio.sleep(DECIDE_SECONDS)
        finally:
            os.close(told.descriptor)
            self._known.discard(job)

    async def _runs(self, job: str) -> bool:
        try:
            return job in await anyio.to_thread.run_sync(self._store.in_foreground)
        except ChatapiError:
            return False


def _opened(file: Path) -> int:
    """Raises OSError."""
    private_files.touch(file)
    return os.open(file, os.O_RDWR | os.O_CLOEXEC)
