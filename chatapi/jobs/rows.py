"""Rows of the jobs' database: reading a record, appending an event."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from chatapi.errors import NotFound
from chatapi.jobs.records import Artifact, EventType, JobEvent, JobFailure, JobRecord, JobState
from chatapi.runtime.admission import Priority

NAMES = (
    "id", "kind", "subject", "command", "parameters", "priority", "owner", "state", "wanted", "created", "started",
    "ended", "progress", "phrase", "seconds_left", "attempts", "failures", "code", "message", "artifacts", "events",
)  # fmt: skip
COLUMNS = ", ".join(NAMES)
"""The columns of `record`, in its order."""
CLASSES = (Priority.LIVE, Priority.REQUEST, Priority.BULK, Priority.TRAINING)
"""The classes of jobs."""
NO_FAILURE: Mapping[str, str] = {}
MESSAGE_CHARS = 4000
"""Largest length of an error's message, in characters; of a longer one the end is dropped."""


def record(row: tuple[Any, ...]) -> JobRecord:
    """The record of a row with COLUMNS. Columns that cannot be read have a default and are named in `damage`."""
    values = dict(zip(NAMES, row, strict=True))
    code, message = values.pop("code"), values.pop("message")
    damaged = []
    for name, (read, default) in READERS.items():
        try:
            values[name] = read(values[name])
        except (ValueError, TypeError, AttributeError, RecursionError):  # noqa: PERF203 - each by itself
            damaged.append(name)
            values[name] = default
    damage = f"its {' and '.join(damaged)} cannot be read" if damaged else ""
    return JobRecord(**values, failure=JobFailure(code, message) if code else None, damage=damage)


def event(job: str, row: tuple[Any, ...]) -> JobEvent:
    """The event of a row with number, at, type and data; data that cannot be read is empty."""
    number, at, kind, data = row
    try:
        return JobEvent(job, number, at, kind, _parameters(data))
    except (ValueError, RecursionError):
        return JobEvent(job, number, at, kind, {})


def _parameters(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - all that is wrong with JSON is one error
    return found


def class_of(number: int) -> Priority:
    """The class with this number; bulk for one that cannot be read."""
    return Priority(number) if number in CLASSES else Priority.BULK


def _class(number: int) -> Priority:
    """Raises ValueError."""
    found = Priority(number)
    if found not in CLASSES:
        raise ValueError(f"{found.name} is no class of jobs")
    return found


def _artifacts(text: str) -> tuple[Artifact, ...]:
    """Raises ValueError, TypeError, AttributeError."""
    return tuple(Artifact(**each) for each in json.loads(text))


READERS: Mapping[str, tuple[Callable[[Any], Any], Any]] = {
    "parameters": (_parameters, {}),
    "priority": (_class, Priority.BULK),
    "artifacts": (_artifacts, ()),
}
"""Columns that are not stored as they are: how each is read, and its default."""


def get(db: sqlite3.Connection, job: str) -> JobRecord:
    """The record of a job. Raises NotFound (unknown_job)."""
    row = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchone()  # noqa: S608 - constants
    if row is None:
        raise NotFound(f"there is no job {job!r}, or it has been deleted", code="unknown_job")
    return record(row)


def append_state(
    db: sqlite3.Connection, job: str, at: float, state: JobState, keep: int, failure: Mapping[str, str] = NO_FAILURE
) -> JobEvent:
    """Inside a transaction: append an event of a job's new state; `failure`: its code and message, if there is one."""
    attempts = db.execute("SELECT attempts FROM jobs WHERE id = ?", (job,)).fetchone()[0]
    return append_event(db, job, at, "state", {"state": state, "attempt": attempts, **failure}, keep)


def append_event(
    db: sqlite3.Connection, job: str, at: float, kind: EventType, data: Mapping[str, Any], keep: int
) -> JobEvent:
    """Inside a transaction: append an event to a job, and delete the oldest beyond `keep`."""
    db.execute("UPDATE jobs SET events = events + 1 WHERE id = ?", (job,))
    number, last, progress, left = db.execute(
        "SELECT number, events, progress, seconds_left FROM jobs WHERE id = ?", (job,)
    ).fetchone()
    whole = {**data, "progress": round(progress, 4), "seconds_left": left}
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", (number, last, at, kind, json.dumps(whole)))
    db.execute("DELETE FROM events WHERE job = ? AND number <= ?", (number, last - keep))
    return JobEvent(job, last, at, kind, whole)
