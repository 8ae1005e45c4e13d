"""The routes of jobs on a real server, with real jobs that a runner of another event loop runs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from chatapi.interfaces.http import job_routes
from chatapi.jobs import Command, JobKind, JobRecord, JobRequest, JobRunner, JobSteps, JobStore, Step, StepRun
from chatapi.runtime.admission import Priority
from conftest import TIMEOUT, RunningServer
from secured_server import SecuredServer, secured

__all__ = ["secured"]

CHANGES = ("pause", "resume", "cancel", "retry")


def counting(run: StepRun, number: int) -> int:
    script = f"import time; print('counted {number}', flush=True); time.sleep(0.2)"
    run.run_command(Command([sys.executable, "-c", script], run.folder, output=run.log)).require("counting")
    return number


def counted(job: JobRecord) -> JobSteps:
    for number in range(3):
        yield Step(f"count-{number}", "counting", partial(counting, number=number), until=1.0)


def sleeping(run: StepRun) -> None:
    script = "sleep 300 & echo $! > pids.new; echo $$ >> pids.new; mv pids.new pids; wait"
    run.run_command(Command(["sh", "-c", script], run.folder)).require("sleeping")


def slept(job: JobRecord) -> JobSteps:
    yield Step("sleep", "sleeping", sleeping, until=1.0)


@contextmanager
def running(data: Path) -> Iterator[JobStore]:
    """Runs the jobs of a data directory as another process would: with a store of its own."""
    stop = threading.Event()

    async def run() -> None:
        with closing(JobStore(data)) as own:
            runner = JobRunner(own, [JobKind("count", counted), JobKind("sleep", slept)])
            async with anyio.create_task_group() as group:
                group.start_soon(runner.run)
                while not stop.is_set():
                    await anyio.sleep(0.05)
                group.cancel_scope.cancel()

    thread = threading.Thread(target=lambda: anyio.run(run))
    with closing(JobStore(data)) as store:
        thread.start()
        try:
            yield store
        finally:
            stop.set()
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def events_of(server: RunningServer, job: str, after: int | None = None) -> list[dict[str, Any]]:
    """The server-sent events until the stream ends."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    response = server.client.get(f"/jobs/{job}/events", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        event: dict[str, Any] = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append({**event, "data": json.loads(event["data"])})
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def problem_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_events_follow_a_job_to_its_end_and_resume(fake_server: RunningServer) -> None:
    data, client = fake_server.appliance.settings.data, fake_server.client
    with running(data) as store:
        job = store.add(JobRequest("count", priority=Priority.BULK)).id
        events = events_of(fake_server, job)
        numbers = [int(each["id"]) for each in events[:-1]]
        assert numbers == list(range(1, len(numbers) + 1))
        states = [each["data"]["state"] for each in events if each["event"] == "state"]
        assert states == ["queued", "running", "done"]
        assert events[-1]["event"] == "end" and events[-1]["data"]["state"] == "done"
        assert events_of(fake_server, job, after=numbers[2]) == events[3:]
        assert [each["event"] for each in events_of(fake_server, job, after=numbers[-1])] == ["end"]
    found = client.get(f"/jobs/{job}").json()
    assert found["state"] == "done" and found["progress"] == 1 and found["failure"] is None
    assert [(each["name"], each["state"]) for each in found["steps"]] == [(f"count-{n}", "finished") for n in range(3)]
    log = client.get(f"/jobs/{job}/log")
    assert log.headers["Content-Type"].startswith("text/plain") and "counted 2" in log.text
    last = client.get(f"/jobs/{job}/log", params={"limit_bytes": len(log.content) - 1})
    assert last.text == log.text.split("\n", 1)[1]
    assert problem_of(client.get(f"/jobs/{job}/events", headers={"Last-Event-ID": "x"})) == (422, "invalid_value")


def test_cancel_ends_the_process_group(fake_server: RunningServer) -> None:
    data, client = fake_server.appliance.settings.data, fake_server.client
    with running(data) as store:
        job = store.add(JobRequest("sleep", priority=Priority.BULK)).id
        folder = store.folder(job)
        wait_until(lambda: any(folder.rglob("pids")))
        pids = [int(each) for each in next(folder.rglob("pids")).read_text().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        assert problem_of(client.delete(f"/jobs/{job}")) == (409, "conflict")
        assert client.post(f"/jobs/{job}/cancel").json()["wanted"] == "cancel"
        assert events_of(fake_server, job)[-1]["data"]["state"] == "cancelled"
        wait_until(lambda: not any(alive(pid) for pid in pids))
        assert client.delete(f"/jobs/{job}").status_code == 204
        assert not folder.exists()
    assert problem_of(client.get(f"/jobs/{job}")) == (404, "unknown_job")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_pages_filters_and_states(fake_server: RunningServer) -> None:
    data, client = fake_server.appliance.settings.data, fake_server.client
    assert client.get("/jobs").json() == {"jobs": [], "next": None}
    assert not JobStore.exists(data)
    with closing(JobStore(data)) as store:
        added = [store.add(JobRequest("count" if number % 2 else "sleep")).id for number in range(5)][::-1]
        found, before = [], ""
        while True:
            page = client.get("/jobs", params={"limit": 2, "before": before}).json()
            found += [each["id"] for each in page["jobs"]]
            assert len(page["jobs"]) <= 2
            if page["next"] is None:
                break
            before = page["next"]
        assert found == added
        assert [each["id"] for each in client.get("/jobs", params={"kind": "count"}).json()["jobs"]] == added[1::2]
        assert client.post(f"/jobs/{added[0]}/pause").json()["state"] == "paused"
        assert [each["id"] for each in client.get("/jobs?state=paused").json()["jobs"]] == [added[0]]
        assert problem_of(client.post(f"/jobs/{added[0]}/retry")) == (409, "conflict")
        assert client.post(f"/jobs/{added[0]}/resume").json()["state"] == "queued"
        assert client.post(f"/jobs/{added[0]}/cancel").json()["state"] == "cancelled"
        assert client.post(f"/jobs/{added[0]}/retry").json()["state"] == "queued"
        foreground = store.add(JobRequest("compile", command="chatapi compile x")).id
        client.post(f"/jobs/{foreground}/pause")
        assert problem_of(client.post(f"/jobs/{foreground}/resume")) == (409, "job_in_foreground")
    assert problem_of(client.get("/jobs?before=j0")) == (404, "unknown_job")
    for query in ("limit=0", "limit=201", "state=lost"):
        assert problem_of(client.get(f"/jobs?{query}")) == (422, "invalid_value")


def test_head_of_events_without_an_end_is_answered(fake_server: RunningServer) -> None:
    with closing(JobStore(fake_server.appliance.settings.data)) as store:
        job = store.add(JobRequest("sleep", priority=Priority.BULK)).id
    head = fake_server.client.head(f"/jobs/{job}/events")
    assert head.status_code == 200 and head.headers["Content-Type"].startswith("text/event-stream")
    assert fake_server.client.head("/jobs/unknown/events").status_code == 404


def test_followers_are_bounded(fake_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_routes, "FOLLOWERS", 1)
    client = fake_server.client
    with closing(JobStore(fake_server.appliance.settings.data)) as store:
        job = store.add(JobRequest("count")).id
        with client.stream("GET", f"/jobs/{job}/events") as first:
            # Kept: the end of the iterator would close the stream.
            lines = first.iter_lines()
            assert next(lines) == "id: 1"
            refused = client.get(f"/jobs/{job}/events")
            assert problem_of(refused) == (503, "too_many_followers") and refused.headers["Retry-After"] == "5"
        store.cancel(job)
        # The place is free once the server has seen the disconnect.
        wait_until(lambda: client.get(f"/jobs/{job}/events").status_code == 200)


OF_TRAININGS = {("GET", ""), ("GET", "/j0"), ("GET", "/j0/events"), ("POST", "/j0/cancel")}
"""What a key with the scope train may do with its jobs."""


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/j0"), ("GET", "/j0/log"), ("GET", "/j0/events"), ("DELETE", "/j0")]
    + [("POST", f"/j0/{action}") for action in CHANGES],
)
def test_every_route_needs_a_scope(secured: SecuredServer, method: str, path: str) -> None:
    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return secured.server.client.request(method, f"/jobs{path}", headers=headers).status_code

    assert status("") == 401 and status("wrong" + os.urandom(4).hex()) == 401
    for scope, key in secured.keys.items():
        may = {"operate", "all"} if path.endswith("log") else {"operate", "all", "talk", "transcribe", "voices"}
        if (method, path) in OF_TRAININGS:
            may |= {"train"}
        assert status(key) == (403 if scope not in may else 404 if path else 200), scope
