"""Work on the event loop for the thread of a job, which waits for it and comes to its checkpoints meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from chatapi.errors import collapse_exception_group

POLL_SECONDS = 0.2
"""Interval between checkpoints while an engine works, in seconds."""

T = TypeVar("T")


def wait_for(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], report: Callable[[], None]) -> T:
    """The result of work on the event loop; `report` is called meanwhile, and what it raises cancels the work."""
    scope: anyio.CancelScope | None = None

    async def cancellable() -> T:
        nonlocal scope
        # Its cancellation, unlike that of the task, reaches the threads of the work and waits for them.
        with anyio.CancelScope() as scope:
            return await work
        raise asyncio.CancelledError

    def cancel() -> None:
        if scope is not None:
            scope.cancel()
        else:
            future.cancel()
            work.close()

    future = asyncio.run_coroutine_threadsafe(cancellable(), loop)
    try:
        while not concurrent.futures.wait([future], POLL_SECONDS).done:
            report()
        return future.result()
    except Exception as error:
        raise collapse_exception_group(error) from None
    finally:
        if not future.done():
            with suppress(RuntimeError):
                # The loop is closed when it fails.
                loop.call_soon_threadsafe(cancel)
