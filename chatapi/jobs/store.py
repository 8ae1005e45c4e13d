"""The jobs of a data directory, as clients see them: adding, listing, following, pausing, cancelling, retrying."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatapi.errors import Busy, TooLarge, WrongMode
from chatapi.jobs import rows
from chatapi.jobs.database import JobDatabase
from chatapi.jobs.job_log import JobLog
from chatapi.jobs.records import FINISHED, JobEvent, JobLimits, JobRecord, JobState
from chatapi.runtime.admission import Priority
from chatapi.storage.clock import Clock, now
from chatapi.storage.layout import DataDirectory

log = logging.getLogger(__name__)

UNFINISHED: tuple[JobState, ...] = ("queued", "running", "paused")
DEFAULTS = JobLimits()
ORPHAN_SECONDS = 2 * 86_400.0
"""Age from which a folder without a job is deleted, in seconds: longer than an upload takes."""
BUSY_SECONDS = 30.0
"""Retry-After when too many jobs are unfinished, in seconds."""


@dataclass(frozen=True)
class JobRequest:
    """A job to be added."""

    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON; every client that may list jobs sees it, so it holds no secrets."""
    priority: Priority = Priority.BULK
    subject: str = ""
    """What the job is about; only one unfinished job of a kind has it; empty: any number has none."""
    command: str = ""
    """Command line that runs and resumes the job in the foreground; empty: a runner does."""
    owner: str = ""
    """Id of the API key, or the name of one that is in no file; empty: none."""
    id: str = ""
    """A result of `new_id`, whose folder may have files of the job already; empty: a new one."""
    limited: bool = False
    """Whether the owner may have no more unfinished jobs than `JobLimits.per_owner`."""


def _age(folder: Path) -> float:
    """Seconds since something was written in a folder; 0: it is none, or is being deleted."""
    try:
        return time.time() - max(each.stat().st_mtime for each in (folder, *folder.iterdir()))
    except OSError:
        return 0.0


def new_id() -> str:
    """The id of a job that is added later."""
    return "j" + secrets.token_hex(12)


class JobStore:
    """The jobs of one data directory. For any thread; several processes may use the same data directory.

    What a method has returned is on the disk. Every method may raise StorageError, and NotReady (jobs_locked).
    """

    def __init__(self, data: Path, limits: JobLimits = DEFAULTS, clock: Clock = now) -> None:
        self.limits = limits
        self.database = JobDatabase(self.file(data), limits.finished_seconds, clock)
        self._folders = DataDirectory(data).jobs

    @staticmethod
    def file(data: Path) -> Path:
        """The database of a data directory; it need not exist."""
        return DataDirectory(data).jobs_database

    @staticmethod
    def exists(data: Path) -> bool:
        """Whether a job was ever added in this data directory."""
        return JobStore.file(data).exists()

    def close(self) -> None:
        self.database.close()

    def add(self, request: JobRequest) -> JobRecord:
        """Add a job to the queue. Raises TooLarge; Busy when too many are unfinished; WrongMode (job_exists) when an
        unfinished job of this kind has the same subject."""
        parameters = self._encoded(request)
        self.delete_old()
        with self.database.transaction() as db:
            found = self._unfinished(db, request)
            if found is not None:
                raise WrongMode(
                    f"there is a {found.kind} job of {found.subject} already: {found.id} is {found.state}",
                    code="job_exists",
                    details={"job": found.id},
                )
            return self._insert(db, request, parameters)

    def add_or_reopen(self, request: JobRequest) -> JobRecord:
        """The newest job of the same kind and subject that is not done, queued again with these parameters; a new one
        if there is none. A running job is returned as it is. Raises TooLarge, Busy."""
        parameters = self._encoded(request)
        self.delete_old()
        with self.database.transaction() as db:
            row = db.execute(
                f"SELECT {rows.COLUMNS} FROM jobs WHERE kind = ? AND subject = ? AND subject != '' AND state != 'done'"  # noqa: S608
                " ORDER BY state IN ('queued', 'running', 'paused') DESC, number DESC LIMIT 1",
                (request.kind, request.subject),
            ).fetchone()
            if row is None:
                return self._insert(db, request, parameters)
            found = rows.record(row)
            if found.state == "running":
                return found
            update = "UPDATE jobs SET parameters = ?, command = ?, priority = ? WHERE id = ?"
            db.execute(update, (parameters, request.command, int(request.priority), found.id))
            return rows.get(db, found.id) if found.state == "queued" else self._queue(db, found)

    def get(self, job: str) -> JobRecord:
        """Raises NotFound (unknown_job)."""
        with self.database.reading() as db:
            return rows.get(db, job)

    def find(
        self, states: Sequence[JobState] = (*UNFINISHED, *FINISHED), kind: str = "", most: int = 1000, before: str = "",
        owner: str | None = None,
    ) -> list[JobRecord]:  # fmt: skip
        """The newest jobs in these states, the newest first; `kind` empty: of any kind; `before`: id of a job, only
        those older than it; `owner` None: of any. Raises NotFound (unknown_job) when there is no such job."""
        marks = ", ".join("?" * len(states))
        with self.database.reading() as db:
            if before:
                rows.get(db, before)
            found = db.execute(
                f"SELECT {rows.COLUMNS} FROM jobs WHERE state IN ({marks}) AND (? = '' OR kind = ?)"  # noqa: S608
                " AND (? = '' OR number < (SELECT number FROM jobs WHERE id = ?)) AND (? IS NULL OR owner = ?)"
                " ORDER BY number DESC LIMIT ?",
                (*states, kind, kind, before, before, owner, owner, most),
            ).fetchall()
        return [rows.record(row) for row in found]

    def in_foreground(self) -> dict[str, Priority]:
        """The running jobs that commands run, and their classes."""
        query = "SELECT id, priority FROM jobs WHERE state = 'running' AND command != ''"
        with self.database.reading() as db:
            return {job: rows.class_of(number) for job, number in db.execute(query)}

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of jobs by state and kind."""
        with self.database.reading() as db:
            found = db.execute("SELECT state, kind, count(*) FROM jobs GROUP BY state, kind").fetchall()
        return {(state, kind): count for state, kind, count in found}

    def events(self, job: str, after: int = 0, most: int = 1000) -> list[JobEvent]:
        """The job's events behind a number, in order. The oldest are deleted; their numbers are missing then.

        Raises NotFound (unknown_job).
        """
        with self.database.reading() as db:
            rows.get(db, job)
            found = db.execute(
                "SELECT number, at, type, data FROM events WHERE job = (SELECT number FROM jobs WHERE id = ?)"
                " AND number > ? ORDER BY number LIMIT ?",
                (job, after, most),
            ).fetchall()
        return [rows.event(job, row) for row in found]

    def cancel(self, job: str) -> JobRecord:
        """Cancel an unfinished job; a running one stops at its next checkpoint. Raises NotFound, WrongMode."""
        return self._ask(job, "cancel", "cancelled")

    def pause(self, job: str) -> JobRecord:
        """Pause a queued or running job; a running one stops at its next checkpoint, and its step starts over when it
        is resumed. Raises NotFound, WrongMode."""
        return self._ask(job, "pause", "paused")

    def resume(self, job: str) -> JobRecord:
        """Queue a paused job. Raises NotFound, WrongMode."""
        with self.database.transaction() as db:
            found = rows.get(db, job)
            if found.state == "running" and found.wanted == "pause":
                db.execute("UPDATE jobs SET wanted = '' WHERE id = ?", (job,))
                return rows.get(db, job)
            self._require(found, "resumed", ("paused",))
            return self._queue(db, found)

    def retry(self, job: str) -> JobRecord:
        """Queue a failed or cancelled job; its finished steps are kept. Raises NotFound, WrongMode, Busy."""
        with self.database.transaction() as db:
            found = rows.get(db, job)
            self._require(found, "retried", ("failed", "cancelled"))
            return self._queue(db, found)

    def check_room(self, owner: str | None = None) -> None:
        """Raises Busy (too_many_jobs) where one more job would be rejected. `owner`: whose jobs are limited too."""
        with self.database.reading() as db:
            self._require_room(db, owner)

    def delete(self, job: str) -> None:
        """Delete a job that has ended, with its folder. Raises NotFound, WrongMode."""
        with self.database.transaction() as db:
            self._require(rows.get(db, job), "deleted", FINISHED)
            db.execute("INSERT OR IGNORE INTO removed VALUES (?)", (job,))
            db.execute("DELETE FROM jobs WHERE id = ?", (job,))
        self._delete_folders([job])

    def folder(self, job: str) -> Path:
        """The job's own folder; it need not exist."""
        return self._folders / job

    def log(self, job: str) -> JobLog:
        """The job's log."""
        return JobLog(self.folder(job) / "log", self.limits.log_bytes)

    def delete_old(self) -> None:
        """Delete finished jobs beyond their age or their largest number, and jobs of that age that a command left
        interrupted, with their folders."""
        old = (
            "SELECT id FROM removed UNION SELECT id FROM jobs WHERE ended_observed <= ? UNION SELECT id FROM"
            " (SELECT id FROM jobs WHERE ended_observed IS NOT NULL AND state != 'paused' ORDER BY ended_observed DESC,"
            " number DESC LIMIT -1 OFFSET ?)"
        )
        with self.database.reading() as db:
            bounds = (self.database.observed() - self.limits.finished_seconds, self.limits.finished)
            # Most often there is none, and nothing is written.
            if not db.execute(old, bounds).fetchall():
                return
        with self.database.transaction() as db:
            db.execute(f"INSERT OR IGNORE INTO removed {old}", bounds)
            db.execute("DELETE FROM jobs WHERE id IN (SELECT id FROM removed)")
            gone = [row[0] for row in db.execute("SELECT id FROM removed")]
        self._delete_folders(gone)

    def delete_orphans(self) -> None:
        """Delete folders without a job in which nothing was written for ORPHAN_SECONDS: their job was never added."""
        try:
            found = [each for each in self._folders.iterdir() if _age(each) > ORPHAN_SECONDS]
        except OSError:
            return
        with self.database.reading() as db:
            known = {row[0] for row in db.execute("SELECT id FROM jobs")}
        for each in found:
            if each.name not in known:
                shutil.rmtree(each, ignore_errors=True)

    def _delete_folders(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            try:
                shutil.rmtree(self.folder(job))
            except FileNotFoundError:
                pass
            except OSError as error:
                # It is tried again the next time.
                log.warning("the folder of a deleted job cannot be deleted: %s", error)
                continue
            with self.database.transaction() as db:
                db.execute("DELETE FROM removed WHERE id = ?", (job,))

    # Inside transactions

    def _encoded(self, request: JobRequest) -> str:
        text = json.dumps(request.parameters)
        if len(text) > self.limits.parameter_bytes:
            raise TooLarge(
                f"the parameters have {len(text)} bytes as JSON and at most {self.limits.parameter_bytes} are accepted"
            )
        return text

    def _insert(self, db: sqlite3.Connection, request: JobRequest, parameters: str) -> JobRecord:
        self._require_room(db, request.owner if request.limited else None)
        job = request.id or new_id()
        db.execute(
            "INSERT INTO jobs (id, kind, subject, command, parameters, priority, owner, state, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
            (job, request.kind, request.subject, request.command, parameters, int(request.priority), request.owner,
             self.database.wall),
        )  # fmt: skip
        self._append_state(db, job, "queued")
        return rows.get(db, job)

    def _require_room(self, db: sqlite3.Connection, owner: str | None = None) -> None:
        # An interrupted job of a command waits for its user, and nothing waits for it.
        query = (
            "SELECT count(*), count(*) FILTER (WHERE owner = ?) FROM jobs"
            " WHERE state IN ('queued', 'running') OR (state = 'paused' AND command = '')"
        )
        count, own = db.execute(query, (owner,)).fetchone()
        limits = self.limits
        for number, most, whose in ((count, limits.unfinished, ""), (own, limits.per_owner, " of this key")):
            if number >= most:
                message = f"{number} jobs{whose} are unfinished and at most {most} may be; wait for one, or cancel one"
                raise Busy(message, retry_after=BUSY_SECONDS, code="too_many_jobs")

    def _unfinished(self, db: sqlite3.Connection, request: JobRequest) -> JobRecord | None:
        row = db.execute(
            f"SELECT {rows.COLUMNS} FROM jobs WHERE kind = ? AND subject = ? AND subject != ''"  # noqa: S608
            " AND state IN ('queued', 'running', 'paused')",
            (request.kind, request.subject),
        ).fetchone()
        return None if row is None else rows.record(row)

    def _ask(self, job: str, wanted: str, state: JobState) -> JobRecord:
        with self.database.transaction() as db:
            found = rows.get(db, job)
            self._require(found, state, ("queued", "running") if state == "paused" else UNFINISHED)
            if found.state == "running":
                db.execute("UPDATE jobs SET wanted = ? WHERE id = ?", (wanted, job))
            else:
                kept = state in FINISHED or found.command
                ended = (self.database.wall if state in FINISHED else None, self.database.observe() if kept else None)
                update = "UPDATE jobs SET state = ?, ended = ?, ended_observed = ?, seconds_left = NULL WHERE id = ?"
                db.execute(update, (state, *ended, job))
                self._append_state(db, job, state)
            return rows.get(db, job)

    def _queue(self, db: sqlite3.Connection, found: JobRecord) -> JobRecord:
        """Queue a job that is paused or finished, without its failure."""
        if found.finished:
            self._require_room(db)
            other = self._unfinished(db, JobRequest(found.kind, subject=found.subject))
            if other is not None:
                raise WrongMode(
                    f"there is a newer {other.kind} job of {other.subject}: {other.id} is {other.state}",
                    code="job_exists",
                )
        db.execute(
            "UPDATE jobs SET state = 'queued', wanted = '', ended = NULL, ended_observed = NULL, due = 0, failures = 0,"
            " code = '', message = '' WHERE id = ?",
            (found.id,),
        )
        self._append_state(db, found.id, "queued")
        return rows.get(db, found.id)

    def _require(self, found: JobRecord, what: str, states: Sequence[JobState]) -> None:
        if found.state not in states:
            raise WrongMode(f"job {found.id} is {found.state}; only a job that is {' or '.join(states)} can be {what}")

    def _append_state(self, db: sqlite3.Connection, job: str, state: JobState) -> None:
        rows.append_state(db, job, self.database.wall, state, self.limits.events)
