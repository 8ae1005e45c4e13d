"""Jobs of a real server process: kills and restarts, damaged jobs, cores for requests, metrics, and the shutdown."""

from __future__ import annotations

import base64
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import foreground_job
import job_server
from chatapi.jobs import JobRequest, JobStore
from chatapi.runtime.admission import Priority
from conftest import FAKE_ENGINES, TIMEOUT
from paths import ROOT
from webhook_receiver import receiving

pytestmark = pytest.mark.slow

UNIT = (ROOT / "systemd/chatapi.service").read_text()
[SYSTEMD_SECONDS] = map(int, re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE))


@dataclass
class Served:
    process: subprocess.Popen[str]
    client: httpx.Client
    log: Path

    def stop(self) -> float:
        """Seconds from SIGTERM to the end."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) in (0, -signal.SIGTERM)
        return time.monotonic() - begun

    def metric(self, name: str) -> float:
        """The value of a metric with its labels; 0: there is none."""
        lines = dict(line.rsplit(" ", 1) for line in self.client.get("/metrics").text.splitlines() if line[0] != "#")
        return float(lines.get(name, 0))


@contextmanager
def serving(data: Path, *more: str, script: str = job_server.__file__) -> Iterator[Served]:
    """A server with fake engines, once it is ready; `script` runs the command."""
    chosen = (*FAKE_ENGINES, f"data={data}", "server.port=0", "wyoming.enabled=false", "log.format=json", *more)
    words = [word for each in chosen for word in ("--set", each)]
    log = data / "server.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, script, *words, "serve"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        while (line := process.stdout.readline()) and "ready after" not in line:
            pass
        assert line, log.read_text()
        with httpx.Client(base_url=line.split()[-1], timeout=TIMEOUT) as client:
            yield Served(process, client, log)
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    """The store, used beside the server by another process."""
    with closing(JobStore(tmp_path)) as opened:
        yield opened


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def pids_of(store: JobStore, job: str) -> list[int]:
    found = list(store.folder(job).rglob("pids"))
    return [int(each) for each in found[0].read_text().split()] if found else []


def states(pids: list[int]) -> set[str]:
    """States of the processes that have not ended, as in /proc/PID/stat."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "Z"

    return set(map(state, pids)) - {"Z"}


def runs(data: Path) -> Counter[str]:
    file = data / job_server.RUNS
    return Counter(file.read_text().split()) if file.exists() else Counter()


@pytest.mark.slow
def test_a_killed_server_finishes_its_job_when_it_starts_again(tmp_path: Path, store: JobStore) -> None:
    job = store.add(JobRequest("many")).id
    kills = 3
    for kill in range(kills):
        with serving(tmp_path) as server:
            wait_until(lambda kill=kill: len(runs(tmp_path)) >= 4 + 8 * kill)  # type: ignore[misc]
            server.process.kill()
            server.process.wait(TIMEOUT)
        assert store.get(job).state == "running"
    with serving(tmp_path) as server:
        wait_until(lambda: store.get(job).finished)
        assert server.client.get(f"/jobs/{job}").json()["state"] == "done"
        count = runs(tmp_path)
        assert set(count) == {str(number) for number in range(job_server.STEPS)}
        # A kill interrupts one step.
        assert count.total() <= job_server.STEPS + kills
        assert server.metric('chatapi_jobs{kind="many",state="done"}') == 1


def test_a_server_without_jobs_has_no_store_and_finds_one_that_another_process_makes(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert not JobStore.exists(tmp_path)
        with closing(JobStore(tmp_path)) as store:
            job = store.add(JobRequest("many")).id
            wait_until(lambda: store.get(job).state == "running")
        # As a process does that finds it damaged.
        for file in list(tmp_path.glob("jobs.sqlite3*")):
            file.rename(tmp_path / f"old-{file.name}")
        with closing(JobStore(tmp_path)) as store:
            job = store.add(JobRequest("many")).id
            wait_until(lambda: store.get(job).state == "done")
        assert "was replaced" in server.log.read_text()


def test_damaged_and_unknown_jobs_fail_and_the_queue_goes_on(tmp_path: Path, store: JobStore) -> None:
    damaged, unknown, job = (store.add(JobRequest(kind)).id for kind in ("many", "nothing", "many"))
    with closing(sqlite3.connect(store.database.file)) as db:
        db.execute("UPDATE jobs SET parameters = 'x' WHERE id = ?", (damaged,))
        db.commit()
    with serving(tmp_path) as server:
        wait_until(lambda: store.get(job).state == "done")
        found = {each["id"]: each for each in server.client.get("/jobs").json()["jobs"]}
        codes = {each: found[each]["failure"]["code"] for each in (damaged, unknown)}
        assert codes == {damaged: "job_damaged", unknown: "unknown_kind"}
        assert server.client.get("/health").json()["status"] == "ok"
        assert server.client.get(f"/jobs/{damaged}").json()["state"] == "failed"


@pytest.mark.slow
def test_a_request_gets_the_cores_and_metrics_tell_it(tmp_path: Path, store: JobStore) -> None:
    job = store.add(JobRequest("busy")).id
    waits = 'chatapi_work_waits{class="bulk",for="request"}'
    yielded = 'chatapi_work_yielded_seconds_total{class="bulk"}'
    with serving(tmp_path, "fake.delay=0.3") as server:
        wait_until(lambda: len(pids_of(store, job)) == 2)
        pids = pids_of(store, job)
        wait_until(lambda: states(pids) == {"R"})
        assert server.metric(waits) == 0
        assert server.metric('chatapi_jobs{kind="busy",state="running"}') == 1
        replies: list[httpx.Response] = []
        # Some seconds of the fake language model.
        request = {"prompt": "one two three four five six seven eight"}
        thread = threading.Thread(target=lambda: replies.append(server.client.post("/completion", json=request)))
        thread.start()
        wait_until(lambda: states(pids) == {"T"})
        assert server.metric(waits) == 1
        assert not replies, "the request ended before its effect was seen"
        thread.join(TIMEOUT)
        assert replies[0].status_code == 200
        wait_until(lambda: states(pids) == {"R"})
        assert server.metric(waits) == 0 and server.metric(yielded) > 0
        seconds = server.stop()
        assert states(pids) == set()
    assert seconds < SYSTEMD_SECONDS
    assert (store.get(job).state, store.get(job).failures) == ("queued", 0)


@pytest.mark.slow
def test_a_job_in_the_foreground_yields_to_a_request_and_goes_on_without_the_server(
    tmp_path: Path, store: JobStore
) -> None:
    command = subprocess.Popen([sys.executable, foreground_job.__file__, str(tmp_path)])
    try:
        wait_until(lambda: bool(store.find(("running",))))
        [job] = [each.id for each in store.find(("running",))]
        wait_until(lambda: len(pids_of(store, job)) == 2)
        pids = pids_of(store, job)
        with serving(tmp_path, "fake.delay=0.3") as server:
            wait_until(lambda: (store.folder(job) / "yield").exists() and states(pids) == {"R"})
            for end in (lambda thread: thread.join(TIMEOUT), lambda _: server.process.kill()):
                thread = threading.Thread(target=completed, args=(server,))
                thread.start()
                wait_until(lambda: states(pids) == {"T"})
                end(thread)
                wait_until(lambda: states(pids) == {"R"})
                thread.join(TIMEOUT)
        command.send_signal(signal.SIGINT)
        assert command.wait(TIMEOUT) == 130
        assert store.get(job).state == "paused" and states(pids) == set()
    finally:
        command.kill()
        command.wait(TIMEOUT)


def completed(server: Served) -> None:
    """Some seconds of the fake language model; the server may end meanwhile."""
    with suppress(httpx.TransportError):
        server.client.post("/completion", json={"prompt": "one two three four five six seven eight"})


@pytest.mark.slow
def test_first_job_of_a_box_has_webhooks_however_fast_it_ends(tmp_path: Path) -> None:
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    with receiving() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hush"
        chosen = (f"webhook.url={url}", f"webhook.secret={secret}", "webhook.private=true")
        with serving(tmp_path, *chosen) as server:
            with closing(JobStore(tmp_path)) as store:
                job = cancelled(store)
            wait_until(lambda: server.metric('chatapi_webhooks_total{result="delivered"}') == 1)
        assert [each.id for each in receiver.received] == [f"{job}.2"]


def test_webhooks_are_sent_again_after_a_kill(tmp_path: Path, store: JobStore) -> None:
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    with receiving() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hush"
        chosen = (f"webhook.url={url}", f"webhook.secret={secret}", "webhook.private=true")
        with serving(tmp_path, *chosen) as server:
            wait_until(lambda: server.metric("chatapi_webhooks_pending") == 0)
            receiver.hang = threading.Event()
            first = cancelled(store)
            wait_until(lambda: len(receiver.received) == 1)
            # The receiver has it, and the server does not know.
            server.process.kill()
            server.process.wait(TIMEOUT)
        receiver.hang.set()
        receiver.statuses = [500]
        second = cancelled(store)
        with serving(tmp_path, *chosen) as server:
            wait_until(lambda: server.metric('chatapi_webhooks_total{result="delivered"}') == 2)
            assert server.metric("chatapi_webhooks_pending") == 0
            assert server.metric('chatapi_webhooks_total{result="failed"}') in (0, 1)
            settings = server.client.get("/settings").text
            text = server.log.read_text() + settings
            assert "hush" not in text and secret not in text
        ids = [each.id for each in receiver.received]
        assert list(dict.fromkeys(ids)) == [f"{first}.2", f"{second}.2"] and ids[:2] == [f"{first}.2"] * 2


def cancelled(store: JobStore) -> str:
    """The id of a cancelled job."""
    job = store.add(JobRequest("many", command="chatapi many")).id
    store.cancel(job)
    return job


@pytest.mark.slow
def test_a_shutdown_ends_in_time_whatever_jobs_do(tmp_path: Path, store: JobStore) -> None:
    stubborn, stuck = (
        store.add(JobRequest("stubborn")).id,
        store.add(JobRequest("stuck", priority=Priority.TRAINING)).id,
    )
    with serving(tmp_path) as server:
        wait_until(lambda: len(pids_of(store, stubborn)) == 2 and store.get(stuck).state == "running")
        pids = pids_of(store, stubborn)
        assert server.stop() < SYSTEMD_SECONDS - 5
    # An orderly stop is no crash. The supervisor ends the command, also without the server.
    assert [(store.get(job).state, store.get(job).failures) for job in (stubborn, stuck)] == [("queued", 0)] * 2
    wait_until(lambda: states(pids) == set())
