"""The jobs of a server in one process: adding them, kinds, slots, faults, and what the metrics count."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest

from chatapi.jobs import JobKind, JobRecord, JobRequest, JobSteps, JobStore, Step, StepRun, new_id, runner
from chatapi.jobs import service as job_service
from chatapi.jobs.service import JobService
from chatapi.jobs.store import ORPHAN_SECONDS
from chatapi.observability.metrics import Metrics
from chatapi.runtime.scheduler import Scheduler
from chatapi.settings.tables import JobSettings
from conftest import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.02)


class Held:
    """A kind of job whose step waits until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0
        self.kind = JobKind("held", self._steps)

    def _steps(self, job: JobRecord) -> JobSteps:
        yield Step("wait", "waiting", self._run, until=1.0)

    def _run(self, step: StepRun) -> None:
        self.running += 1
        while not self.release.wait(0.005):
            step.checkpoint()


@asynccontextmanager
async def serving(service: JobService) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(service.run)
        yield
        group.cancel_scope.cancel()


async def test_an_added_job_runs_and_the_setting_bounds_how_many_do(tmp_path: Path) -> None:
    held, service = Held(), JobService(tmp_path, Scheduler(), JobSettings(concurrent=2))
    service.offer(held.kind)
    metrics = Metrics()
    metrics.jobs.source = service.counts
    async with serving(service):
        jobs = [await service.add(JobRequest("held")) for _ in range(3)]
        await until(lambda: held.running == 2)
        assert 'chatapi_jobs{kind="held",state="running"} 2.0' in metrics.page().decode()
        assert 'chatapi_jobs{kind="held",state="queued"} 1.0' in metrics.page().decode()
        held.release.set()
        await until(lambda: service.counts() == {("done", "held"): 3})
    assert held.running == 3 and {job.state for job in jobs} == {"queued"}
    assert service.counts() == {}


def test_a_kind_is_offered_once(tmp_path: Path) -> None:
    service = JobService(tmp_path, Scheduler())
    service.offer(Held().kind)
    with pytest.raises(ValueError, match="a kind of job 'held' already"):
        service.offer(Held().kind)


async def test_a_job_of_no_kind_is_not_added(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no kind of job 'other'"):
        await JobService(tmp_path, Scheduler()).add(JobRequest("other"))
    assert not JobStore.exists(tmp_path)


async def test_a_fault_of_the_runner_ends_no_server_and_jobs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults, recover = [RuntimeError("a fault"), RuntimeError("another")], runner.recover

    def faulty(store: JobStore) -> list[str]:
        if faults:
            raise faults.pop()
        return recover(store)

    monkeypatch.setattr(runner, "recover", faulty)
    held, service = Held(), JobService(tmp_path, Scheduler())
    held.release.set()
    service.offer(held.kind)
    job = await service.add(JobRequest("held"))
    async with serving(service):
        with closing(JobStore(tmp_path)) as store:
            await until(lambda: store.get(job.id).state == "done")
    assert caplog.text.count("jobs stopped; they are started again") == 2


async def test_kinds_in_metrics_are_bounded_and_never_content() -> None:
    metrics = Metrics()
    counts = {("done", f"kind{number:03}"): number + 1 for number in range(100)}
    metrics.jobs.source = lambda: {**counts, ("queued", "what a user wrote"): 1, ("a state", "kind099"): 1}
    lines = [line for line in metrics.page().decode().splitlines() if line.startswith("chatapi_jobs{")]
    assert len(lines) <= 36 and 'chatapi_jobs{kind="kind099",state="done"} 100.0' in lines
    assert "user" not in str(lines) and 'chatapi_jobs{kind="other",state="queued"} 1.0' in lines
    assert 'chatapi_jobs{kind="kind099",state="other"} 1.0' in lines


async def test_folders_of_abandoned_uploads_are_deleted_while_the_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_service, "ORPHAN_CHECK_SECONDS", 0.02)
    held, service = Held(), JobService(tmp_path, Scheduler())
    service.offer(held.kind)
    jobs = tmp_path / "jobs"
    async with serving(service):
        added = await service.add(JobRequest("held"))
        await until(lambda: held.running == 1)
        old, new = jobs / new_id(), jobs / new_id()
        for folder, age in ((old, ORPHAN_SECONDS + 60), (new, 0.0), (jobs / added.id, ORPHAN_SECONDS + 60)):
            folder.mkdir(exist_ok=True)
            (folder / "source").write_bytes(b"x")
            for each in (*folder.iterdir(), folder):
                os.utime(each, (time.time() - age,) * 2)
        # What is no folder of a job must not end the deletion.
        (jobs / "note.txt").write_text("x")
        await until(lambda: not old.exists())
        assert new.exists() and (jobs / added.id / "source").exists()
        held.release.set()
