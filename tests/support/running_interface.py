"""An interface or the jobs of a test's server, run in the server's event loop until a block ends."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from conftest import TIMEOUT, RunningServer


@contextmanager
def running_interface(running: RunningServer, run: Callable[[], Awaitable[None]]) -> Iterator[Future[None]]:
    """The task of `run`, which has ended when the block has: the future of a cancelled one is done before that."""
    ended = threading.Event()

    async def run_to_end() -> None:
        try:
            await run()
        finally:
            ended.set()

    task = running.portal.start_task_soon(run_to_end)
    try:
        yield task
    finally:
        task.cancel()
        assert ended.wait(TIMEOUT), "the interface did not end"


@contextmanager
def running_jobs(running: RunningServer) -> Iterator[None]:
    """Runs the jobs of a server, as `chatapi serve` does."""
    with running_interface(running, running.appliance.jobs.run):
        yield
