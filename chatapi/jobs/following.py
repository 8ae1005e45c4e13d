"""Following the events of a job until it has finished."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.to_thread

from chatapi.jobs.records import JobEvent
from chatapi.jobs.store import JobStore

POLL_SECONDS = 0.25
"""Interval between checks for new events, in seconds: another process may run the job."""


async def follow(store: JobStore, job: str, after: int = 0) -> AsyncIterator[JobEvent]:
    """The job's events behind a number: those stored, then each as it is stored, until the job has finished.

    Events that are no longer kept are skipped; the first number tells. Raises NotFound (unknown_job).
    """
    while True:
        found = await anyio.to_thread.run_sync(store.get, job)
        events = await anyio.to_thread.run_sync(store.events, job, after)
        for event in events:
            yield event
            after = event.number
        # The record was read first, so its last event is among these.
        if found.finished and after >= found.events:
            return
        if not events:
            await anyio.sleep(POLL_SECONDS)
