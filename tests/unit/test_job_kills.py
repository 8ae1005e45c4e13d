"""A job survives 50 SIGKILLs of its process: no finished step is lost or run again, and the store opens each time."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

import killed_job
from chatapi.jobs import JobRequest, JobStore
from chatapi.runtime.admission import Priority

KILLS = 50
SEED = 15


def started(data: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, killed_job.__file__, str(data), str(seconds)])


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def runs(data: Path) -> Counter[str]:
    """Step -> how often it was started."""
    file = data / killed_job.RUNS
    return Counter(file.read_text().split()) if file.exists() else Counter()


def finished(data: Path) -> dict[str, str]:
    """Finished step -> its token, by the store itself."""
    with closing(sqlite3.connect(JobStore.file(data))) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = dict(db.execute("SELECT name, result FROM steps").fetchall())
    return {name: json.loads(text)["result"] for name, text in found.items()}


@pytest.mark.slow
def test_fifty_kills_lose_no_finished_step_and_run_none_twice(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with closing(JobStore(tmp_path)) as store:
        # Commands of bulk work are nice: on a busy machine none would finish between two kills.
        job = store.add(JobRequest(killed_job.KIND, priority=Priority.REQUEST)).id
    known: dict[str, str] = {}
    attempts = []
    for _ in range(KILLS):
        before = runs(tmp_path)
        process = started(tmp_path, 0.02)
        if chance.random() < 0.8:
            until(lambda before=before: runs(tmp_path) != before)
        time.sleep(chance.uniform(0, 0.8))
        process.kill()
        assert process.wait() == -9
        with closing(JobStore(tmp_path)) as store:
            record = store.get(job)
            assert record.state in ("queued", "running") and record.failure is None
            attempts.append(record.attempts)
            folder = store.folder(job) / "work"
        after, now = runs(tmp_path), finished(tmp_path)
        assert {name: now.get(name) for name in known} == known, "a finished step was lost or made anew"
        assert all(after[name] == before[name] for name in known), "a finished step was run again"
        assert all((folder / name / killed_job.TOKEN).read_text() == token for name, token in now.items())
        known = now
    # Most of the kills came while steps ran, the others while the process started or recovered the job.
    assert attempts[-1] > KILLS / 2 and 0 < len(known) < killed_job.STEPS
    assert started(tmp_path, 0).wait(300) == 0
    assert_complete(tmp_path, job, known)


def assert_complete(data: Path, job: str, known: dict[str, str]) -> None:
    with closing(JobStore(data)) as store:
        record, events = store.get(job), store.events(job)
    assert (record.state, record.progress, record.failure) == ("done", 1.0, None)
    assert [each.number for each in events] == list(range(events[0].number, record.events + 1))
    [artifact] = record.artifacts
    content = Path(artifact.location).read_bytes()
    assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    tokens = content.decode().split("\n")
    assert len(set(tokens)) == killed_job.STEPS
    assert {killed_job.name(number): token for number, token in enumerate(tokens)}.items() >= known.items()
    count = runs(data)
    # A kill interrupts one step at most, which then runs again.
    assert sum(count.values()) <= killed_job.STEPS + KILLS and len(count) == killed_job.STEPS
    # The commands of the killed processes ended with them; each ran in a folder of the job.
    folders = [str(each.info["cwd"]) for each in psutil.process_iter(["cwd"])]
    assert not [folder for folder in folders if folder.startswith(f"{data}/jobs/")]
