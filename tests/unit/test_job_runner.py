"""The runner of jobs beside a server: classes, retries, yielding, stuck steps, following, stopping."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from chatapi.errors import Busy, InternalError
from chatapi.jobs import (
    JobKind,
    JobRecord,
    JobRequest,
    JobRunner,
    JobSteps,
    JobStore,
    Step,
    StepRun,
    claims,
    database,
    execution,
    follow,
    runner,
)
from chatapi.runtime.admission import Priority
from conftest import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a fraction of a second."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(execution, "BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(execution, "LOOK_SECONDS", 0.01)


@asynccontextmanager
async def running(store: JobStore, *kinds: JobKind, **more: Any) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(JobRunner(store, kinds, **more).run)
        yield
        group.cancel_scope.cancel()


def work(name: str, *runs: Callable[[StepRun], Any], **more: Any) -> JobKind:
    def steps(job: JobRecord) -> JobSteps:
        for number, run in enumerate(runs):
            yield Step(f"step-{number}", f"step {number}", run, until=(number + 1) / len(runs))

    return JobKind(name, steps, **more)


def waiting(release: threading.Event) -> Callable[[StepRun], None]:
    """A step that comes to its checkpoints until it is released."""

    def run(step: StepRun) -> None:
        while not release.wait(0.005):
            step.checkpoint()

    return run


async def test_each_class_has_slots_of_its_own_and_the_oldest_job_is_first(store: JobStore) -> None:
    release, order = threading.Event(), []

    def run(step: StepRun) -> None:
        order.append(step.job.id)
        waiting(release)(step)

    bulk = [store.add(JobRequest("a", priority=Priority.BULK)).id for _ in range(3)]
    training = store.add(JobRequest("a", priority=Priority.TRAINING)).id
    async with running(store, work("a", run), slots={Priority.BULK: 2, Priority.TRAINING: 1}):
        await until(lambda: len(order) == 3)
        assert {job.id for job in store.find(("running",))} == {bulk[0], bulk[1], training}
        release.set()
        await until(lambda: len(store.find(("done",))) == 4)
    assert order[-1] == bulk[2]


async def test_a_job_of_a_command_stays_queued_and_one_of_an_unknown_kind_fails(store: JobStore) -> None:
    unknown, foreground = store.add(JobRequest("other")), store.add(JobRequest("a", command="chatapi a"))
    mine = store.add(JobRequest("a")).id
    async with running(store, work("a", lambda run: None)):
        await until(lambda: store.get(mine).state == "done")
    failure = store.get(unknown.id).failure
    assert failure and failure.code == "unknown_kind" and "no jobs of kind 'other' (it runs: a)" in failure.message
    assert store.get(foreground.id).state == "queued"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("parameters", "{"),
        ("parameters", "[]"),
        ("parameters", "[" * 100_000),
        ("parameters", b"\xff\xfe"),
        ("artifacts", '[{"name": 1}]'),
        ("artifacts", "7"),
        ("priority", 4),
        ("priority", -1),
        ("priority", 99),
    ],
)
@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_damaged_row_fails_its_job_and_blocks_no_other(
    store: JobStore, state: str, column: str, value: object
) -> None:
    damaged, others = store.add(JobRequest("a")).id, [store.add(JobRequest("a")).id for _ in range(2)]
    with closing(sqlite3.connect(store.database.file)) as db:
        placed = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
        db.execute(f"UPDATE jobs SET state = ?, {column} = {placed} WHERE id = ?", (state, value, damaged))
        db.commit()
    assert len(store.find()) == 3 and store.get(damaged).damage == f"its {column} cannot be read"
    async with running(store, work("a", lambda run: None)):
        await until(lambda: all(store.get(job).state == "done" for job in others))
    found = store.get(damaged)
    assert found.state == "failed" and found.failure and found.failure.code == "job_damaged"
    assert column in found.failure.message
    store.delete(damaged)


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_file_in_the_way_of_a_jobs_folder_fails_it_and_blocks_no_other(store: JobStore, state: str) -> None:
    damaged, other = store.add(JobRequest("a")).id, store.add(JobRequest("a")).id
    store.folder(damaged).parent.mkdir()
    store.folder(damaged).write_text("")
    with closing(sqlite3.connect(store.database.file)) as db:
        db.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, damaged))
        db.commit()
    async with running(store, work("a", lambda run: None)):
        await until(lambda: store.get(other).state == "done")
    failure = store.get(damaged).failure
    assert failure and failure.code == "job_damaged" and str(store.folder(damaged)) in failure.message


def two_steps(runs: list[str], release: threading.Event) -> JobKind:
    """A kind whose steps add their names to `runs`; the second one waits at its checkpoint for `release`."""

    def second(step: StepRun) -> None:
        runs.append("second")
        waiting(release)(step)

    return work("a", lambda run: runs.append("first"), second)


async def test_a_damaged_result_runs_its_step_again(store: JobStore) -> None:
    runs: list[str] = []
    release = threading.Event()
    kind = two_steps(runs, release)
    job = store.add(JobRequest("a")).id
    async with running(store, kind):
        await until(lambda: "second" in runs)
    with closing(sqlite3.connect(store.database.file)) as db:
        db.execute("UPDATE steps SET result = '{'")
        db.execute("UPDATE events SET data = '{' WHERE number = 1")
        db.commit()
    release.set()
    async with running(store, kind):
        await until(lambda: store.get(job).state == "done")
    assert runs == ["first", "second", "first", "second"]
    assert store.events(job)[0].data == {}


async def test_a_job_that_comes_to_no_checkpoint_is_stopped_in_time_and_did_not_crash(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STOP_SECONDS", 0.1)
    release, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def stuck(run: StepRun) -> None:
        begun.set()
        release.wait(60)
        ended.set()

    job = store.add(JobRequest("a")).id
    async with running(store, work("a", stuck)):
        await until(begun.is_set)
    assert not ended.is_set() and (store.get(job).state, store.get(job).failures) == ("queued", 0)
    # As long as its thread runs, nobody else may run it.
    assert claims.claim_next(store, Priority.BULK) is None
    release.set()
    await until(lambda: (held := claims.claim_next(store, Priority.BULK)) is not None and not held.release())


async def test_an_error_that_can_be_retried_is_retried_and_then_explained(store: JobStore) -> None:
    tries: list[float] = []

    def run(step: StepRun) -> None:
        tries.append(time.monotonic())
        raise Busy("the queue is full", retry_after=0.01)

    job = store.add(JobRequest("a")).id
    async with running(store, work("a", lambda run: None, run, retries=2)):
        await until(lambda: store.get(job).finished)
    found = store.get(job)
    assert found.failure and (found.state, found.failure.code, found.attempts) == ("failed", "busy", 3)
    # The second wait is twice the first.
    assert tries[1] - tries[0] >= 0.05 and tries[2] - tries[1] >= 0.1
    told = [event.data for event in store.events(job) if event.type == "state"]
    assert [each["state"] for each in told] == ["queued", "running"] + ["queued", "running"] * 2 + ["failed"]
    assert told[2]["message"] == "the queue is full"
    assert sum(event.data.get("step") == "step-0" for event in store.events(job)) == 2


async def test_an_error_of_the_job_is_not_retried(store: JobStore) -> None:
    def run(step: StepRun) -> None:
        raise InternalError("broken", code="broken")

    job = store.add(JobRequest("a")).id
    async with running(store, work("a", run)):
        await until(lambda: store.get(job).finished)
    assert store.get(job).attempts == 1


async def test_a_running_job_is_paused_resumed_and_cancelled(store: JobStore) -> None:
    release, begun = threading.Event(), []

    def run(step: StepRun) -> None:
        begun.append(step.job.attempts)
        waiting(release)(step)

    job = store.add(JobRequest("a")).id
    async with running(store, work("a", run)):
        await until(lambda: len(begun) == 1)
        assert store.pause(job).wanted == "pause"
        await until(lambda: store.get(job).state == "paused")
        store.resume(job)
        await until(lambda: len(begun) == 2)
        assert store.cancel(job).state == "running"
        await until(lambda: store.get(job).state == "cancelled")
    assert begun == [1, 2]


async def test_a_stopped_runner_queues_its_jobs_and_the_next_one_goes_on(store: JobStore) -> None:
    runs: list[str] = []
    release = threading.Event()
    kind = two_steps(runs, release)
    job = store.add(JobRequest("a")).id
    async with running(store, kind):
        await until(lambda: "second" in runs)
    assert (store.get(job).state, store.get(job).failures) == ("queued", 0)
    release.set()
    async with running(store, kind):
        await until(lambda: store.get(job).state == "done")
    assert runs == ["first", "second", "second"]


async def test_work_waits_at_its_checkpoint_while_more_urgent_work_runs(store: JobStore) -> None:
    busy = threading.Event()
    busy.set()
    asked: list[Priority] = []

    def must_yield(priority: Priority) -> bool:
        asked.append(priority)
        return priority > Priority.REQUEST and busy.is_set()

    urgent, bulk = (store.add(JobRequest("a", priority=each)).id for each in (Priority.REQUEST, Priority.BULK))
    async with running(store, work("a", lambda run: run.checkpoint()), must_yield=must_yield):
        await until(lambda: store.get(urgent).state == "done" and asked.count(Priority.BULK) > 2)
        assert store.get(bulk).state == "running"
        busy.clear()
        await until(lambda: store.get(bulk).state == "done")


async def test_a_waiting_job_can_be_cancelled(store: JobStore) -> None:
    job = store.add(JobRequest("a")).id
    async with running(store, work("a", lambda run: None), must_yield=lambda _: True):
        await until(lambda: store.get(job).state == "running")
        store.cancel(job)
        await until(lambda: store.get(job).state == "cancelled")


async def test_a_stuck_step_fails_its_job_and_keeps_its_slot_until_it_ends(store: JobStore) -> None:
    release = threading.Event()
    stuck = store.add(JobRequest("a")).id
    kinds = work("a", lambda run: release.wait(60), stall_seconds=0.2), work("b", lambda run: None)
    async with running(store, *kinds):
        await until(lambda: store.get(stuck).state == "failed")
        failure = store.get(stuck).failure
        assert failure and failure.code == "step_stalled" and "step step-0 came to no checkpoint" in failure.message
        second = store.add(JobRequest("b")).id
        await anyio.sleep(0.1)
        assert store.get(second).state == "queued"
        release.set()
        await until(lambda: store.get(second).state == "done")
    assert store.get(stuck).state == "failed"


async def test_events_are_followed_from_any_number_until_the_job_has_finished(store: JobStore) -> None:
    job = store.add(JobRequest("a")).id
    found: dict[int, list[int]] = {}

    async def read(after: int) -> None:
        found[after] = [event.number async for event in follow(store, job, after)]

    async with anyio.create_task_group() as readers:
        readers.start_soon(read, 0)
        readers.start_soon(read, 4)
        async with running(store, work("a", *[lambda run: run.advance(0.5)] * 5)):
            await until(lambda: store.get(job).finished)
    last = store.get(job).events
    assert found == {0: list(range(1, last + 1)), 4: list(range(5, last + 1))}
    await read(last)
    assert found[last] == []


async def test_a_store_that_cannot_be_used_for_a_while_stops_nothing(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.05)
    job = store.add(JobRequest("a")).id
    with closing(JobStore(store.database.file.parent)) as impatient:
        with closing(sqlite3.connect(store.database.file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with running(impatient, work("a", lambda run: None)):
                await anyio.sleep(0.2)
                assert store.get(job).state == "queued"
                other.execute("ROLLBACK")
                await until(lambda: store.get(job).state == "done")
