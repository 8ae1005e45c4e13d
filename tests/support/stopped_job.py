"""A process that runs a job whose command is stopped for more urgent work, until it is killed: DATA."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread

from chatapi.jobs import Command, JobKind, JobRecord, JobRunner, JobSteps, JobStore, Step, StepRun
from chatapi.runtime.admission import Priority
from chatapi.runtime.scheduler import MinimumShare, Scheduler

KIND = "stopped"
SCRIPT = "echo $$ > pids.new; (while :; do :; done) & echo $! >> pids.new; mv pids.new pids; while :; do :; done"


def steps(job: JobRecord) -> JobSteps:
    def run(step: StepRun) -> None:
        step.run_command(Command(["sh", "-c", SCRIPT], step.folder))

    yield Step("command", "running a command", run, until=1.0)


async def run(data: Path) -> None:
    scheduler = Scheduler(shares={Priority.BULK: MinimumShare(3600, 1)})
    with closing(JobStore(data)) as store:
        runner = JobRunner(store, [JobKind(KIND, steps)], must_yield=scheduler.must_yield, working=scheduler.working)
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run)
            while not await anyio.to_thread.run_sync(lambda: list(data.rglob("pids"))):
                await anyio.sleep(0.01)
            with scheduler.working(Priority.LIVE):
                await anyio.sleep_forever()


if __name__ == "__main__":
    os.environ.pop("CHATAPI_DATA", None)
    anyio.run(run, Path(sys.argv[1]))
