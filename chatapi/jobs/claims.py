"""Claims: which process runs a job, and what it stores while it does.

A claim is a lock (flock) on a file in the job's folder. The kernel releases it when the process and the commands it
started have ended, however they end, so a running job without a lock was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chatapi.errors import StorageError, TooLarge, WrongMode
from chatapi.jobs import rows
from chatapi.jobs.records import FINISHED, Artifact, EventType, JobEvent, JobFailure, JobRecord, JobState
from chatapi.jobs.store import JobStore
from chatapi.observability.redaction import redacted
from chatapi.runtime.admission import Priority
from chatapi.system import private_files

log = logging.getLogger(__name__)

MAX_CRASHES = 10
"""How often in a row a process may end without finishing a step before the job fails."""
MISSING: Any = object()
"""Stands for the result of a step that is not finished."""


class ClaimLost(BaseException):
    """The job is no longer this claim's: it was declared stuck, or its row is gone."""


class FolderDamaged(StorageError):
    """The job's folder cannot be used, and the job has failed."""


class Claim:
    """The right to run one job. For the thread that runs it."""

    def __init__(self, store: JobStore, job: JobRecord, lock: int) -> None:
        """`lock`: descriptor of the locked file; the claim closes it."""
        self.job, self.lock = job, lock
        self._store, self._database = store, store.database
        self._open = True

    @property
    def folder(self) -> Path:
        """The job's own folder."""
        return self._store.folder(self.job.id)

    def wanted(self) -> str:
        """What the job was asked for: pause, cancel, or nothing. Raises ClaimLost."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT wanted FROM jobs WHERE id = ? AND state = 'running' AND attempts = ?",
                (self.job.id, self.job.attempts),
            ).fetchone()
        if row is None or not self._open:
            raise ClaimLost
        return str(row[0])

    def result(self, key: str) -> Any:
        """The stored result of a finished step; MISSING: it is not finished, or its result cannot be read."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT result FROM steps WHERE job = (SELECT number FROM jobs WHERE id = ?) AND key = ?",
                (self.job.id, key),
            ).fetchone()
        try:
            return MISSING if row is None else json.loads(row[0])
        except (ValueError, RecursionError):
            return MISSING

    def forget(self, name: str) -> None:
        """Make a finished step run again."""
        with self._transaction() as db:
            self._forget(db, name)

    def begin_step(self, name: str, data: Mapping[str, Any], progress: float, seconds_left: float | None) -> JobEvent:
        """Store that a step starts; a finished one of the same name and other inputs is forgotten."""
        with self._transaction() as db:
            self._forget(db, name)
            self._advance(db, progress, seconds_left, str(data["description"]))
            return self._append(db, "step", data)

    def finish_step(
        self, name: str, key: str, result: Any, data: Mapping[str, Any], progress: tuple[float, float | None]
    ) -> JobEvent:
        """Store a step's result, so that it is not run again; `progress`: of the job, 0 to 1, and the seconds left.

        Raises TooLarge.
        """
        text, limits = json.dumps(result), self._store.limits
        if len(text) > limits.result_bytes:
            raise TooLarge(f"step {name} has a result of {len(text)} bytes; at most {limits.result_bytes} are kept")
        with self._transaction() as db:
            number, count = db.execute(
                "SELECT number, (SELECT count(*) FROM steps WHERE job = number) FROM jobs WHERE id = ?", (self.job.id,)
            ).fetchone()
            if count >= limits.steps:
                raise TooLarge(f"job {self.job.id} has {count} finished steps; at most {limits.steps} are kept")
            db.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)", (number, name, key, text))
            db.execute("UPDATE jobs SET failures = 0 WHERE id = ?", (self.job.id,))
            self._advance(db, *progress, str(data["description"]))
            return self._append(db, "step", data)

    def progress(self, data: Mapping[str, Any], progress: float, seconds_left: float | None) -> JobEvent:
        """Store the progress inside a step."""
        with self._transaction() as db:
            self._advance(db, progress, seconds_left, str(data["phrase"]))
            return self._append(db, "progress", data)

    def add_artifact(self, artifact: Artifact) -> None:
        """Store an artifact; one of the same name is replaced. Raises TooLarge."""
        with self._transaction() as db:
            row = db.execute("SELECT artifacts FROM jobs WHERE id = ?", (self.job.id,)).fetchone()
            kept = [each for each in json.loads(row[0]) if each["name"] != artifact.name]
            if len(kept) >= self._store.limits.artifacts:
                raise TooLarge(f"job {self.job.id} has {len(kept)} artifacts; no more are kept")
            text = json.dumps([*kept, asdict(artifact)])
            db.execute("UPDATE jobs SET artifacts = ? WHERE id = ?", (text, self.job.id))

    def end(self, state: JobState, failure: JobFailure | None = None, delay: float | None = None) -> JobEvent:
        """Store how the attempt ended. `delay`: seconds after which a queued job is tried again, because of `failure`;
        None: it was not its fault. Raises ClaimLost."""
        with self._transaction() as db:
            return _store_end(self._store, db, self.job.id, state, failure, delay)

    def release(self) -> None:
        """Let others claim the job."""
        if self._open:
            self._open = False
            os.close(self.lock)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Raises ClaimLost."""
        with self._database.transaction() as db:
            found = db.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND state = 'running' AND attempts = ?",
                (self.job.id, self.job.attempts),
            ).fetchone()
            if found is None or not self._open:
                raise ClaimLost
            yield db

    def _forget(self, db: sqlite3.Connection, name: str) -> None:
        delete = "DELETE FROM steps WHERE job = (SELECT number FROM jobs WHERE id = ?) AND name = ?"
        db.execute(delete, (self.job.id, name))

    def _advance(self, db: sqlite3.Connection, progress: float, seconds_left: float | None, phrase: str) -> None:
        update = "UPDATE jobs SET progress = ?, seconds_left = ?, phrase = ? WHERE id = ?"
        db.execute(update, (progress, seconds_left, phrase, self.job.id))

    def _append(self, db: sqlite3.Connection, kind: EventType, data: Mapping[str, Any]) -> JobEvent:
        keep = self._store.limits.events
        return rows.append_event(db, self.job.id, self._database.wall, kind, data, keep)


def claim(store: JobStore, job: str) -> Claim:
    """Claim a queued job. Raises WrongMode when another process runs it or it is not queued, StorageError when its
    folder or its row is damaged; then the job has failed."""
    found = _claimed(store, job)
    if found is None:
        raise WrongMode(f"job {job} is {store.get(job).state} and cannot be started now", code="job_not_queued")
    if found.job.damage:
        failure = _fail_damaged(found)
        raise StorageError(failure.message, code=failure.code)
    return found


def claim_next(store: JobStore, priority: Priority) -> Claim | None:
    """Claim the oldest queued job of this class that is due; None: there is none. A damaged job before it fails."""
    for job in _due(store, priority):
        try:
            found = _claimed(store, job)
        except FolderDamaged:
            # The failure is stored.
            continue
        if found is not None and found.job.damage:
            _fail_damaged(found)
        elif found is not None:
            return found
    return None


def _due(store: JobStore, priority: Priority) -> list[str]:
    """The queued jobs of a class that are due, the oldest first; those whose class cannot be read are bulk work."""
    marks = ", ".join("?" * len(rows.CLASSES))
    with store.database.reading() as db:
        found = db.execute(
            "SELECT id FROM jobs WHERE state = 'queued' AND command = '' AND due <= ?"  # noqa: S608 - constants
            f" AND (priority = ? OR (? AND priority NOT IN ({marks}))) ORDER BY number",
            (store.database.observed(), int(priority), priority is Priority.BULK, *map(int, rows.CLASSES)),
        ).fetchall()
    return [row[0] for row in found]


def _fail_damaged(held: Claim) -> JobFailure:
    failure = JobFailure("job_damaged", f"job {held.job.id} is stored damaged: {held.job.damage}; add it again")
    try:
        held.end("failed", failure)
    finally:
        held.release()
    log.error("a job failed: %s", failure.message)
    return failure


def recover(store: JobStore) -> list[str]:
    """Queue the running jobs whose process has ended; one that a command runs is paused, and one whose folder is
    damaged fails. Returns their ids."""
    with store.database.reading() as db:
        running = [row[0] for row in db.execute("SELECT id FROM jobs WHERE state = 'running' ORDER BY number")]
    return [job for job in running if _recovered(store, job)]


def _recovered(store: JobStore, job: str) -> bool:
    """Whether the process of a running job has ended; then the job is queued, paused or failed."""
    try:
        lock = _lock(store, job)
    except FolderDamaged:
        return True
    if lock is None:
        return False
    try:
        with store.database.transaction() as db:
            query = "SELECT failures, wanted, command FROM jobs WHERE id = ? AND state = 'running'"
            row = db.execute(query, (job,)).fetchone()
            if row is not None:
                _store_interruption(store, db, job, row)
            return row is not None
    finally:
        os.close(lock)


def _claimed(store: JobStore, job: str) -> Claim | None:
    lock = _lock(store, job)
    if lock is None:
        return None
    try:
        with store.database.transaction() as db:
            update = (
                "UPDATE jobs SET state = 'running', wanted = '', started = ?, attempts = attempts + 1, code = '',"
                " message = '', seconds_left = NULL WHERE id = ? AND state = 'queued'"
            )
            if db.execute(update, (store.database.wall, job)).rowcount:
                rows.append_state(db, job, store.database.wall, "running", store.limits.events)
                return Claim(store, rows.get(db, job), lock)
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _lock(store: JobStore, job: str) -> int | None:
    """The descriptor of the job's locked file; None: another process has the lock. Raises StorageError; FolderDamaged,
    after the job was stored as failed."""
    folder = store.folder(job)
    with store.database.translated():
        try:
            for each in (folder.parent, folder):
                _create_folder(each)
            private_files.touch(folder / "lock")
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except (NotADirectoryError, IsADirectoryError) as error:
            if not folder.parent.is_dir():
                raise
            raise _folder_damaged(store, job, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _folder_damaged(store: JobStore, job: str, error: OSError) -> FolderDamaged:
    """Store that a job failed because of its folder, and return the error."""
    message = f"{error.filename or store.folder(job)} is in the way of the folder of job {job}: {error.strerror}"
    with store.database.transaction() as db:
        if db.execute("SELECT 1 FROM jobs WHERE id = ? AND state IN ('queued', 'running')", (job,)).fetchone():
            _store_end(store, db, job, "failed", JobFailure("job_damaged", message))
    log.error("a job failed: %s", message)
    return FolderDamaged(message, code="job_damaged")


def _create_folder(folder: Path) -> None:
    """Create a folder for the owner of the data directory alone. Raises OSError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            private_files.give_to_owner(descriptor, folder.parent)
        finally:
            os.close(descriptor)


def _store_interruption(store: JobStore, db: sqlite3.Connection, job: str, row: tuple[int, str, str]) -> None:
    failures, wanted, command = row
    message = f"the process that ran it ended {failures + 1} times without finishing a step"
    failure = JobFailure("job_crashed", message)
    if wanted == "cancel":
        _store_end(store, db, job, "cancelled")
    elif failures + 1 >= MAX_CRASHES:
        _store_end(store, db, job, "failed", failure)
    else:
        db.execute("UPDATE jobs SET failures = failures + 1 WHERE id = ?", (job,))
        _store_end(store, db, job, "paused" if command or wanted == "pause" else "queued")


def _store_end(
    store: JobStore, db: sqlite3.Connection, job: str, state: JobState, failure: JobFailure | None = None,
    delay: float | None = None,
) -> JobEvent:  # fmt: skip
    """Inside a transaction: store how an attempt ended."""
    database, finished = store.database, state in FINISHED
    observed, message = database.observe(), redacted(failure.message)[: rows.MESSAGE_CHARS] if failure else ""
    db.execute(
        "UPDATE jobs SET state = ?, wanted = '', code = ?, message = ?, seconds_left = NULL, ended = ?,"
        " ended_observed = iif(? OR (? = 'paused' AND command != ''), ?, NULL), due = ?, failures = failures + ?,"
        " progress = iif(? = 'done', 1, progress) WHERE id = ?",
        (state, failure.code if failure else "", message, database.wall if finished else None,
         finished, state, observed, observed + (delay or 0), delay is not None, state, job),
    )  # fmt: skip
    if state == "done":
        db.execute("DELETE FROM steps WHERE job = (SELECT number FROM jobs WHERE id = ?)", (job,))
    failed = {"code": failure.code, "message": message} if failure else {}
    return rows.append_state(db, job, database.wall, state, store.limits.events, failed)
