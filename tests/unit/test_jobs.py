"""The store of jobs, its bounds and faults, and the command that changes it."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chatapi.cli import main
from chatapi.errors import Busy, NotFound, NotReady, StorageError, TooLarge, WrongMode
from chatapi.jobs import JobKind, JobLimits, JobRecord, JobRequest, JobSteps, JobStore, Step, StepRun, database, run_job
from chatapi.jobs.outbox import OutboxReader
from chatapi.runtime.admission import Priority
from chatapi.storage.clock import Moment

REQUEST = JobRequest("transcription", {"file": "a.wav"}, Priority.BULK, owner="kitchen")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path)) as opened:
        yield opened


def nothing(job: JobRecord) -> JobSteps:
    yield Step("only", "working", lambda run: None, until=1.0)


def failing(job: JobRecord) -> JobSteps:
    def run(run: StepRun) -> None:
        raise StorageError("the disk of nowhere is full")

    yield Step("only", "working", run, until=1.0)


def done(store: JobStore, subject: str, kind: str = "compile") -> JobRecord:
    return run_job(store, JobKind(kind, nothing), JobRequest(kind, subject=subject, command="chatapi x"))


def states(store: JobStore, job: str) -> list[str]:
    return [event.data["state"] for event in store.events(job) if event.type == "state"]


def test_an_accepted_job_is_complete_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from chatapi.jobs import *;"
        "print(JobStore(Path(sys.argv[1])).add(JobRequest('transcription', {'file': 'a.wav'}, owner='kitchen')).id,"
        " flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL
    with closing(JobStore(tmp_path)) as store:
        job = store.get(run.stdout.strip())
    assert (job.kind, job.parameters, job.owner, job.state) == ("transcription", {"file": "a.wav"}, "kitchen", "queued")
    assert (job.priority, job.progress, job.attempts, job.started) == (Priority.BULK, 0.0, 0, None)


def test_a_power_cut_while_the_log_is_written_loses_no_earlier_job(tmp_path: Path) -> None:
    """The write-ahead log is cut at any length, as a disk leaves it that had not written the rest."""
    whole = tmp_path / "whole"
    with closing(JobStore(whole)) as store:
        jobs = [store.add(REQUEST).id for _ in range(10)]
        database_file, log_file = (JobStore.file(whole).with_name(f"jobs.sqlite3{end}") for end in ("", "-wal"))
        files = database_file.read_bytes(), log_file.read_bytes()
    counts = []
    for cut in range(0, len(files[1]) + 1, max(1, len(files[1]) // 25)):
        data = tmp_path / str(cut)
        data.mkdir()
        JobStore.file(data).write_bytes(files[0])
        (data / "jobs.sqlite3-wal").write_bytes(files[1][:cut])
        with closing(JobStore(data)) as store:
            found = [job.id for job in reversed(store.find())]
            assert found == jobs[: len(found)] and all(states(store, job) == ["queued"] for job in found)
            counts.append(len(found))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] >= 9


def test_every_commit_waits_for_the_disk_and_files_are_private(store: JobStore, tmp_path: Path) -> None:
    with store.database.reading() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    job = done(store, "a")
    files = [*tmp_path.glob("jobs.*"), tmp_path / "jobs", store.folder(job.id)]
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in files} == {0}


def test_requests_change_the_state_and_are_told_as_events(store: JobStore) -> None:
    job = store.add(REQUEST).id
    assert store.pause(job).state == "paused"
    assert store.resume(job).state == "queued"
    assert store.cancel(job).state == "cancelled"
    assert store.get(job).ended is not None
    assert store.retry(job).state == "queued" and store.get(job).ended is None
    assert states(store, job) == ["queued", "paused", "queued", "cancelled", "queued"]
    assert [event.number for event in store.events(job, after=3)] == [4, 5]


@pytest.mark.parametrize(("action", "state"), [("resume", "queued"), ("retry", "queued"), ("pause", "cancelled")])
def test_a_request_that_does_not_fit_the_state_is_rejected(store: JobStore, action: str, state: str) -> None:
    job = store.add(REQUEST).id
    if state == "cancelled":
        store.cancel(job)
    with pytest.raises(WrongMode, match=f"is {state}; only a job that is"):
        getattr(store, action)(job)
    with pytest.raises(NotFound, match="there is no job 'j0'"):
        getattr(store, action)("j0")


def test_jobs_are_listed_by_state_and_kind_the_newest_first(store: JobStore) -> None:
    first, second = store.add(REQUEST).id, store.add(replace(REQUEST, kind="training")).id
    store.cancel(first)
    assert [job.id for job in store.find()] == [second, first]
    assert [job.id for job in store.find(("cancelled",))] == [first]
    assert [job.id for job in store.find(kind="training")] == [second]


def test_only_one_unfinished_job_of_a_kind_has_a_subject(store: JobStore) -> None:
    first = store.add(replace(REQUEST, subject="a")).id
    with pytest.raises(WrongMode, match=f"{first} is queued") as rejected:
        store.add(replace(REQUEST, subject="a"))
    assert rejected.value.code == "job_exists"
    store.add(replace(REQUEST, subject="a", kind="training"))
    store.cancel(first)
    store.add(replace(REQUEST, subject="a"))
    with pytest.raises(WrongMode, match="there is a newer transcription job of a"):
        store.retry(first)


def test_bounds_of_jobs_and_parameters_hold(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, JobLimits(unfinished=2, parameter_bytes=100))) as store:
        with pytest.raises(TooLarge, match="at most 100 are accepted"):
            store.add(JobRequest("k", {"text": "x" * 100}))
        first = store.add(REQUEST).id
        store.pause(store.add(REQUEST).id)
        with pytest.raises(Busy, match="2 jobs are unfinished and at most 2 may be") as rejected:
            store.add(REQUEST)
        assert rejected.value.retry_after
        store.cancel(first)
        store.add(REQUEST)
        with pytest.raises(Busy):
            store.retry(first)


def interrupted(store: JobStore, subject: str) -> JobRecord:
    def interrupt(job: JobRecord) -> JobSteps:
        def run(run: StepRun) -> None:
            raise KeyboardInterrupt

        yield Step("only", "working", run, until=1.0)

    with pytest.raises(KeyboardInterrupt):
        run_job(store, JobKind("compile", interrupt), JobRequest("compile", subject=subject, command="chatapi x"))
    [found] = (job for job in store.find(("paused",)) if job.subject == subject)
    return found


def test_interrupted_jobs_of_commands_take_no_room_and_leave_when_nobody_resumes_them(tmp_path: Path) -> None:
    moment = Moment("boot", 100.0, 1e9)
    limits = JobLimits(unfinished=1, finished=1, finished_seconds=3000)
    with closing(JobStore(tmp_path, limits, lambda: moment)) as store:
        left, resumed = interrupted(store, "a"), interrupted(store, "b")
        waiting = store.pause(store.add(REQUEST).id)
        store.cancel(waiting.id)
        assert done(store, "c").state == "done"
        assert {job.id for job in store.find(("paused",))} == {left.id, resumed.id}
        moment = replace(moment, up=2000.0)
        store.resume(resumed.id)
        store.pause(resumed.id)
        moment = replace(moment, up=4000.0)
        assert store.pause(store.add(REQUEST).id).state == "paused"
        assert [job.subject for job in store.find(("paused",))] == ["", "b"]
        assert not store.folder(left.id).exists() and store.get(resumed.id).ended is None
        # A job that a client of a server paused stays.
        moment = replace(moment, up=9000.0)
        store.delete_old()
        assert [job.subject for job in store.find(("paused",))] == [""]


def test_the_latest_events_are_kept_and_their_numbers_go_on(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, JobLimits(events=4))) as store:
        job = store.add(REQUEST).id
        for _ in range(5):
            store.pause(job)
            store.resume(job)
        assert [event.number for event in store.events(job)] == [8, 9, 10, 11]
        assert store.get(job).events == 11


def test_finished_jobs_beyond_the_number_kept_leave_with_their_folders(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, JobLimits(finished=2))) as store:
        jobs = [done(store, name) for name in "abc"]
        assert store.folder(jobs[0].id).exists()
        unfinished = store.add(REQUEST)
        assert {job.id for job in store.find()} == {jobs[1].id, jobs[2].id, unfinished.id}
        assert [store.folder(job.id).exists() for job in jobs] == [False, True, True]


def test_finished_jobs_leave_by_the_time_that_passed_whatever_the_clock_says(tmp_path: Path) -> None:
    moment = Moment("boot", 100.0, 1e9)
    with closing(JobStore(tmp_path, JobLimits(finished_seconds=3000), lambda: moment)) as store:
        job = done(store, "a")
        # The network sets the clock 50 years ahead: at most a thirtieth of the time kept passes by that.
        moment = Moment("boot", 200.0, 1e9 + 50 * 365 * 86_400)
        store.delete_old()
        assert store.get(job.id)
        moment = replace(moment, up=4000.0)
        store.delete_old()
        with pytest.raises(NotFound):
            store.get(job.id)


def test_a_folder_whose_deletion_was_interrupted_is_deleted_later(store: JobStore) -> None:
    job = done(store, "a")
    with store.database.transaction() as db:
        db.execute("INSERT INTO removed VALUES (?)", (job.id,))
        db.execute("DELETE FROM jobs")
    store.delete_old()
    assert not store.folder(job.id).exists()
    with store.database.reading() as db:
        assert db.execute("SELECT count(*) FROM removed").fetchone() == (0,)


def test_a_failed_job_is_explained_and_goes_on_when_it_is_run_again(store: JobStore) -> None:
    request = JobRequest("compile", subject="a", command="chatapi x")
    with pytest.raises(StorageError, match="nowhere is full"):
        run_job(store, JobKind("compile", failing), request)
    [job] = store.find(("failed",))
    assert job.failure and (job.failure.code, job.failure.message) == ("storage_fault", "the disk of nowhere is full")
    assert store.events(job.id)[-1].data["code"] == "storage_fault"
    again = done(store, "a")
    assert (again.id, again.state, again.failure, again.attempts) == (job.id, "done", None, 2)
    assert done(store, "a").id != job.id


def test_an_older_schema_is_migrated_and_a_newer_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(JobStore(tmp_path)) as store:
        job = store.add(REQUEST).id
    later = (*database.MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN later TEXT NOT NULL DEFAULT 'new'",))
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", later)
        with closing(JobStore(tmp_path)) as store:
            assert store.get(job).kind == "transcription"
            with store.database.reading() as db:
                assert db.execute("SELECT later FROM jobs").fetchone() == ("new",)
    known = len(database.MIGRATIONS)
    with pytest.raises(StorageError, match=f"has version {known + 1} of the schema and this chatapi knows {known}"):
        JobStore(tmp_path)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(JobStore(tmp_path)) as store:
        job = store.add(REQUEST).id
    broken = (*database.MIGRATIONS, ("CREATE TABLE more (a)", "ALTER TABLE nothing ADD COLUMN a"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", broken)
        with pytest.raises(StorageError):
            JobStore(tmp_path)
    with closing(JobStore(tmp_path)) as store:
        assert store.get(job).state == "queued"


def test_jobs_of_the_first_schema_are_kept_and_their_changes_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        with closing(JobStore(tmp_path)) as store:
            job = store.add(REQUEST).id
    with closing(JobStore(tmp_path)) as store:
        reader = OutboxReader(store.database, "test:a")
        reader.begin()
        store.cancel(job)
        found = reader.next()
        assert found is not None and (found.change.job, found.change.name) == (job, "job.cancelled")


def test_a_damaged_file_is_set_aside_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    JobStore.file(tmp_path).write_bytes(b"no database " * 1000)
    with closing(JobStore(tmp_path)) as store:
        store.add(REQUEST)
    [kept] = tmp_path.glob("jobs.damaged-*.sqlite3")
    assert kept.read_bytes().startswith(b"no database")
    assert command(tmp_path, capsys, "list")[0] == 0


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_locked_file_is_an_error_that_can_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.05)
    with closing(JobStore(tmp_path)) as store, locked(store.database.file):
        with pytest.raises(NotReady, match="is locked by another process") as rejected:
            store.add(REQUEST)
        assert rejected.value.code == "jobs_locked"
        # Readers do not wait for a writer.
        assert store.find() == []


def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageError, match="jobs cannot be stored in"):
        JobStore(tmp_path / "data")


# The command


def command(data: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Status and output of `chatapi jobs`."""
    with pytest.raises(SystemExit) as ended:
        main(["jobs", *arguments, "--set", f"data={data}"])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_lists_shows_and_changes_jobs(
    store: JobStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = store.add(REQUEST).id
    status, out, _ = command(tmp_path, capsys)
    assert status == 0 and job in out and "transcription" in out and "queued" in out
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        assert command(tmp_path, capsys, action, job[:12]) == (0, "", f"{job} is {state}\n")
        assert store.get(job).state == state
    shown = json.loads(command(tmp_path, capsys, "show", job, "--json")[1])
    assert (shown["id"], shown["priority"], shown["parameters"]) == (job, "bulk", {"file": "a.wav"})
    assert [event["data"]["state"] for event in shown["latest_events"]] == states(store, job)
    assert "owner: kitchen" in command(tmp_path, capsys, "show", job)[1]
    assert json.loads(command(tmp_path, capsys, "list", "--json")[1])[0]["id"] == job


def test_the_command_names_the_command_of_a_job_in_the_foreground(
    store: JobStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StorageError):
        run_job(store, JobKind("compile", failing), JobRequest("compile", subject="a", command="chatapi compile a"))
    job = store.find()[0].id
    status, _, err = command(tmp_path, capsys, "retry", job)
    assert status == 2 and "resume it with: chatapi compile a" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show",), "every other action names one"),
        (("list", "j0"), "`jobs list` names no job"),
        (("log", "j0", "--json"), "--json is only used by"),
        (("show", "j0"), "there is no job 'j0'"),
        (("cancel", ""), "there is no job ''"),
    ],
)
def test_the_command_rejects_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    status, _, err = command(tmp_path, capsys, *arguments)
    assert status == 2 and complaint in err
    assert list(tmp_path.iterdir()) == []
