"""A command that runs a job of two busy processes in the foreground, until it is interrupted: DATA."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from pathlib import Path

import job_server
from chatapi.jobs import JobKind, JobRecord, JobRequest, JobSteps, JobStore, run_job


def steps(job: JobRecord) -> JobSteps:
    return job_server.command(job_server.BUSY, job)


if __name__ == "__main__":
    os.environ.pop("CHATAPI_DATA", None)
    # A shell starts commands in the background with the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with closing(JobStore(Path(sys.argv[1]))) as store:
        try:
            run_job(store, JobKind("foreground", steps), JobRequest("foreground", command="foreground_job"))
        except KeyboardInterrupt:
            sys.exit(130)
