"""`chatapi serve` with kinds of jobs of its own, as a service adds them. Arguments: those of the command."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from chatapi import cli
from chatapi.appliance import Appliance
from chatapi.cli import serve
from chatapi.jobs import Command, JobKind, JobRecord, JobSteps, Step, StepRun
from chatapi.settings import Settings

STEPS = 40
RUNS = "runs.log"
"""A line for each start of a step of the kind `many`, in the data directory: an effect outside the store."""
BUSY = "echo $$ > pids.new; (while :; do :; done) & echo $! >> pids.new; mv pids.new pids; while :; do :; done"
"""Two processes of a group that compute for ever."""
STUBBORN = f"trap '' TERM; {BUSY}"
"""The same, and they ignore SIGTERM."""


def many(data: Path, job: JobRecord) -> JobSteps:
    """Many steps; every fifth is a command."""

    def work(run: StepRun, number: int) -> int:
        with (data / RUNS).open("a") as runs:
            runs.write(f"{number}\n")
        if number % 5 == 0:
            run.run_command(Command(["sleep", "0.05"], run.folder)).require("sleeping")
        else:
            time.sleep(0.05)
            run.checkpoint()
        return number

    for number in range(STEPS):
        yield Step(f"step-{number}", f"step {number}", partial(work, number=number), until=(number + 1) / STEPS)


def command(script: str, job: JobRecord) -> JobSteps:
    """One command without an end."""
    yield Step("command", "computing", lambda run: run.run_command(Command(["sh", "-c", script], run.folder)).status)


def stuck(job: JobRecord) -> JobSteps:
    """A step that comes to no checkpoint."""
    yield Step("stuck", "being stuck", lambda run: time.sleep(3600))


class ApplianceWithJobs(Appliance):
    """An appliance whose services have jobs."""

    def __init__(self, settings: Settings, root: Path = Path("/")) -> None:
        super().__init__(settings, root)
        self.jobs.offer(JobKind("many", partial(many, settings.data)))
        self.jobs.offer(JobKind("busy", partial(command, BUSY)))
        self.jobs.offer(JobKind("stubborn", partial(command, STUBBORN)))
        self.jobs.offer(JobKind("stuck", stuck))


if __name__ == "__main__":
    serve.Appliance = ApplianceWithJobs  # type: ignore[misc]
    sys.exit(cli.main(sys.argv[1:]))
