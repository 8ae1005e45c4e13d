"""Running one job in the foreground, in the thread that calls."""

from __future__ import annotations

import time
from contextlib import suppress

from chatapi.errors import WrongMode
from chatapi.jobs.claims import Claim, claim, recover
from chatapi.jobs.execution import Execution, Report, ignore
from chatapi.jobs.foreground_turns import told_by_server
from chatapi.jobs.records import JobRecord
from chatapi.jobs.steps import JobKind
from chatapi.jobs.store import JobRequest, JobStore

CLAIM_ATTEMPTS, CLAIM_SECONDS = 4, 0.1
"""How often a job is claimed before another process is taken to run it, and the time between, in seconds."""


def run_job(store: JobStore, kind: JobKind, request: JobRequest, report: Report = ignore) -> JobRecord:
    """Run a job to its end. One of the same kind and subject that was interrupted, failed or cancelled goes on at its
    first unfinished step. `report` receives its events. It yields to more urgent work of a server on the same data
    directory.

    Raises what ended it: the error of a step; WrongMode when it was paused or cancelled elsewhere, or when another
    process runs it; KeyboardInterrupt, after the job was stored as paused. Raises TooLarge, Busy, StorageError.
    """
    if not request.command:
        raise ValueError("a job in the foreground needs the command that resumes it")
    held = _claimed(store, request)
    execution = Execution(held, kind, store.log(held.job.id), report, must_yield=told_by_server(held.folder))
    execution.run()
    if execution.error is not None:
        raise execution.error
    job = store.get(held.job.id)
    if job.state != "done":
        raise WrongMode(f"job {job.id} was {job.state}; resume with: {job.command}", code=f"job_{job.state}")
    return job


def _claimed(store: JobStore, request: JobRequest) -> Claim:
    """The claim on the job. Tried more than once, because a server that recovers it holds the lock for a moment."""
    for _ in range(CLAIM_ATTEMPTS - 1):
        with suppress(WrongMode):
            return _claim_now(store, request)
        time.sleep(CLAIM_SECONDS)
    return _claim_now(store, request)


def _claim_now(store: JobStore, request: JobRequest) -> Claim:
    recover(store)
    return claim(store, store.add_or_reopen(request).id)
