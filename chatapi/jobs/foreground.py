"""Running one job in the foreground, in the thread that calls."""

from __future__ import annotations

from chatapi.errors import WrongMode
from chatapi.jobs.claims import claim, recover
from chatapi.jobs.execution import Execution, Report, ignore
from chatapi.jobs.records import JobRecord
from chatapi.jobs.steps import JobKind
from chatapi.jobs.store import JobRequest, JobStore


def run_job(store: JobStore, kind: JobKind, request: JobRequest, report: Report = ignore) -> JobRecord:
    """Run a job to its end. One of the same kind and subject that was interrupted, failed or cancelled goes on at its
    first unfinished step. `report` receives its events.

    Raises what ended it: the error of a step; WrongMode when it was paused or cancelled elsewhere, or when another
    process runs it; KeyboardInterrupt, after the job was stored as paused. Raises TooLarge, Busy, StorageError.
    """
    if not request.command:
        raise ValueError("a job in the foreground needs the command that resumes it")
    recover(store)
    job = store.add_or_reopen(request)
    held = claim(store, job.id)
    execution = Execution(held, kind, store.log(job.id), report)
    execution.run()
    if execution.error is not None:
        raise execution.error
    job = store.get(job.id)
    if job.state != "done":
        raise WrongMode(f"job {job.id} was {job.state}; resume with: {job.command}", code=f"job_{job.state}")
    return job
