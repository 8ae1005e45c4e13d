"""A process that runs a job of many small steps until it is killed: DATA SECONDS, which each step takes."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio

from chatapi.jobs import Command, JobKind, JobRecord, JobRunner, JobSteps, JobStore, Step, StepRun, follow

KIND = "killed"
STEPS = 1500
COMMANDS = 25
"""Every so manieth step is a command."""
RUNS = "runs.log"
"""A line for each start of a step, in the data directory: an effect outside the store."""
TOKEN = "token"
"""A file's name."""


def name(number: int) -> str:
    return f"step-{number:04d}"


def steps_of(data: Path, seconds: float) -> Callable[[JobRecord], JobSteps]:
    def work(run: StepRun, number: int) -> str:
        with (data / RUNS).open("a") as runs:
            runs.write(f"{name(number)}\n")
        token = secrets.token_hex(8)
        if number % COMMANDS == 0:
            script = f"(sleep {seconds * 2}; printf {token} > {TOKEN}) & wait"
            run.run_command(Command(["sh", "-c", script], run.folder)).require("writing the token")
        else:
            time.sleep(seconds)
            (run.folder / TOKEN).write_text(token)
        return token

    def publish(run: StepRun, tokens: list[str]) -> str:
        draft = run.folder / "tokens"
        draft.write_text("\n".join(tokens))
        return run.publish(draft, data / "published" / "tokens").sha256

    def steps(job: JobRecord) -> JobSteps:
        tokens = []
        for number in range(STEPS):
            until = 0.99 * (number + 1) / STEPS
            run = lambda run, number=number: work(run, number)  # noqa: E731
            tokens.append((yield Step(name(number), f"step {number}", run, inputs=number, until=until)))
        yield Step("publish", "publishing", lambda run: publish(run, tokens), inputs=tokens, until=1.0)

    return steps


async def run(data: Path, seconds: float) -> None:
    """Run the only job until it is done."""
    with closing(JobStore(data)) as store:
        runner = JobRunner(store, [JobKind(KIND, steps_of(data, seconds))])
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run)
            async for _ in follow(store, store.find(kind=KIND)[0].id):
                pass
            group.cancel_scope.cancel()


if __name__ == "__main__":
    os.environ.pop("CHATAPI_DATA", None)
    anyio.run(run, Path(sys.argv[1]), float(sys.argv[2]))
