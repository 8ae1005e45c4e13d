"""Commands of jobs beside more urgent work: real processes, which are stopped, go on, and always end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import psutil
import pytest

import stopped_job
from chatapi.jobs import Command, JobKind, JobRecord, JobRequest, JobRunner, JobSteps, JobStore, Step, StepRun, commands
from chatapi.jobs import execution as execution_of_jobs
from chatapi.jobs import runner as runner_of_jobs
from chatapi.runtime.admission import Priority
from chatapi.runtime.scheduler import SHARES, MinimumShare, Scheduler
from conftest import TIMEOUT, until

BUSY = "echo $$ > pids.new; (while :; do :; done) & echo $! >> pids.new; mv pids.new pids; while :; do :; done"
"""A shell script: two processes of a group that compute for ever."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_of_jobs, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(execution_of_jobs, "LOOK_SECONDS", 0.01)


def kind_of(script: str, stall_seconds: float | None = None) -> JobKind:
    def run(step: StepRun) -> int:
        return step.run_command(Command(["sh", "-c", script], step.folder, stall_seconds=stall_seconds)).status

    def steps(job: JobRecord) -> JobSteps:
        yield Step("command", "running a command", run, until=1.0)

    return JobKind("work", steps, retries=0)


@asynccontextmanager
async def running(store: JobStore, kind: JobKind, scheduler: Scheduler) -> AsyncIterator[None]:
    runner = JobRunner(store, [kind], must_yield=scheduler.must_yield, working=scheduler.working)
    async with anyio.create_task_group() as group:
        group.start_soon(runner.run)
        yield
        group.cancel_scope.cancel()


def pids_of(store: JobStore, job: str) -> list[int]:
    found = list(store.folder(job).rglob("pids"))
    return [int(each) for each in found[0].read_text().split()] if found else []


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty: the process has ended."""
    try:
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return found if found[0] != "Z" else []


def stopped(pids: list[int]) -> bool:
    return all(stat(pid)[:1] == ["T"] for pid in pids)


def ended(pids: list[int]) -> bool:
    return not any(map(stat, pids))


def ticks(pids: list[int]) -> int:
    """Processor time that the processes have used, in ticks."""
    return sum(int(stat(pid)[11]) + int(stat(pid)[12]) for pid in pids)


def until_now(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.parametrize("urgent", [Priority.LIVE, Priority.REQUEST])
async def test_a_busy_command_leaves_the_cores_to_urgent_work(store: JobStore, urgent: Priority) -> None:
    scheduler = Scheduler(shares={Priority.BULK: MinimumShare(3600, 1)})
    job = store.add(JobRequest("work")).id
    async with running(store, kind_of(BUSY), scheduler):
        await until(lambda: len(pids_of(store, job)) == 2)
        pids = pids_of(store, job)
        before = ticks(pids)
        await until(lambda: ticks(pids) > before)
        assert {int(stat(pid)[16]) for pid in pids} == {19}
        # Where the kernel groups processes by session, the niceness of the group counts.
        groups = [file for pid in pids if (file := Path(f"/proc/{pid}/autogroup")).exists()]
        assert all(file.read_text().endswith(" nice 19\n") for file in groups)
        for _ in range(3):
            with scheduler.working(urgent):
                await until(lambda: stopped(pids))
                used = ticks(pids)
                await anyio.sleep(0.3)
                assert ticks(pids) == used and stopped(pids)
            await until(lambda used=used: not stopped(pids) and ticks(pids) > used + 2)  # type: ignore[misc]
        # Also one that is stopped ends, and only the cancellation ends it.
        with scheduler.working(urgent):
            await until(lambda: stopped(pids))
            store.cancel(job)
            await until(lambda: ended(pids))
        await until(lambda: store.get(job).state == "cancelled")


@pytest.mark.anyio
async def test_a_stopped_runner_ends_a_stopped_command_at_once(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_of_jobs, "STOP_SECONDS", TIMEOUT)
    scheduler = Scheduler()
    job = store.add(JobRequest("work")).id
    with scheduler.working(Priority.REQUEST):
        async with running(store, kind_of(BUSY), scheduler):
            await until(lambda: store.get(job).state == "running")
            scheduler.end(Priority.REQUEST)
            await until(lambda: len(pids_of(store, job)) == 2)
            pids = pids_of(store, job)
            scheduler.begin(Priority.REQUEST)
            await until(lambda: stopped(pids))
            begun = time.monotonic()
        assert time.monotonic() - begun < runner_of_jobs.STOP_SECONDS
        assert ended(pids) and store.get(job).state == "queued"


@pytest.mark.anyio
async def test_a_command_that_urgent_work_stops_does_not_stall(store: JobStore) -> None:
    # It prints until it is stopped, so that a slow start of the test is no stall.
    script = "echo $$ > pids.new; mv pids.new pids; while [ ! -e go ]; do echo waits; sleep 0.05; done; echo ready"
    scheduler = Scheduler(shares={Priority.BULK: MinimumShare(3600, 1)})
    job = store.add(JobRequest("work")).id
    stall_seconds = 3.0
    async with running(store, kind_of(script, stall_seconds), scheduler):
        await until(lambda: bool(pids_of(store, job)))
        with scheduler.working(Priority.LIVE):
            await until(lambda: stopped(pids_of(store, job)))
            await anyio.sleep(stall_seconds * 1.2)
            next(store.folder(job).rglob("pids")).with_name("go").touch()
        await until(lambda: store.get(job).finished)
    assert (store.get(job).state, store.get(job).failure) == ("done", None)
    assert store.log(job).read().endswith(" ready\n")


@pytest.mark.anyio
async def test_a_command_that_is_silent_by_itself_still_stalls_beside_urgent_work(store: JobStore) -> None:
    scheduler = Scheduler(shares={Priority.BULK: MinimumShare(0.2, 0.5)})
    job = store.add(JobRequest("work")).id
    async with running(store, kind_of("sleep 600", stall_seconds=0.5), scheduler):
        with scheduler.working(Priority.LIVE):
            await until(lambda: store.get(job).finished)
    failure = store.get(job).failure
    assert failure and failure.code == "step_stalled"


@pytest.mark.anyio
async def test_a_command_gets_its_share_while_urgent_work_never_ends(store: JobStore) -> None:
    scheduler = Scheduler(shares={Priority.BULK: MinimumShare(0.3, 0.1), Priority.TRAINING: SHARES[Priority.TRAINING]})
    job = store.add(JobRequest("work")).id
    async with running(store, kind_of("for i in 1 2 3 4 5 6; do sleep 0.05; echo $i; done"), scheduler):
        with scheduler.working(Priority.LIVE):
            await until(lambda: store.get(job).state == "done")
            assert scheduler.readings()[Priority.BULK].yielded_seconds >= 0.3


@pytest.mark.anyio
async def test_a_command_of_a_request_is_not_lowered(store: JobStore) -> None:
    job = store.add(JobRequest("work", priority=Priority.REQUEST)).id
    async with running(store, kind_of("echo nice $(nice)"), Scheduler()):
        await until(lambda: store.get(job).finished)
    assert store.log(job).read().endswith(f" nice {os.nice(0)}\n")


def test_a_stopped_command_ends_with_its_killed_starter(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path)) as store:
        job = store.add(JobRequest(stopped_job.KIND)).id
        starter = subprocess.Popen([sys.executable, stopped_job.__file__, str(tmp_path)])
        try:
            until_now(lambda: len(pids_of(store, job)) == 2 and stopped(pids_of(store, job)))
            pids = pids_of(store, job)
        finally:
            starter.kill()
            starter.wait()
        until_now(lambda: ended(pids))


def test_a_stopped_command_ends_with_its_killed_supervisor(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path)) as store:
        job = store.add(JobRequest(stopped_job.KIND)).id
        starter = subprocess.Popen([sys.executable, stopped_job.__file__, str(tmp_path)])
        pids: list[int] = []
        try:
            until_now(lambda: len(pids_of(store, job)) == 2 and stopped(pids_of(store, job)))
            pids = pids_of(store, job)
            [supervisor] = psutil.Process(starter.pid).children()
            supervisor.kill()
            until_now(lambda: ended(pids))
        finally:
            starter.kill()
            starter.wait()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_stop_and_continue_keep_their_order(tmp_path: Path) -> None:
    """Hundreds of quick changes: in the end the command goes on."""
    gate = threading.Event()
    count = 0

    def checkpoint(stop: Callable[[], object]) -> None:
        nonlocal count
        if (tmp_path / "pids").exists() and count < 300:
            for _ in range(300):
                with stop():  # type: ignore[attr-defined]
                    count += 1
            gate.set()

    script = "echo $$ > pids.new; mv pids.new pids; while [ ! -e done ]; do sleep 0.01; done; echo went on"
    lines: list[str] = []

    def finish() -> None:
        gate.wait(TIMEOUT)
        (tmp_path / "done").touch()

    thread = threading.Thread(target=finish)
    thread.start()
    with (tmp_path / "lock").open("w") as lock:
        result = commands.run(Command(["sh", "-c", script], tmp_path), lock.fileno(), lines.append, checkpoint)
    thread.join(TIMEOUT)
    assert result.status == 0 and lines == ["went on"] and count == 300
