"""The list of the state changes of all jobs, in order, and the places of those who read it.

A trigger of the database adds to the list in the transaction of the change itself, whatever process makes it. The list
keeps the latest OUTBOX changes, also those of deleted jobs. A reader has a name and a place, which it moves once it has
dealt with a change: after a kill it meets the same change again, and loses none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatapi.jobs import rows
from chatapi.jobs.database import JobDatabase


@dataclass(frozen=True)
class StateChange:
    """A change of a job's state."""

    sequence: int
    """Its place in the list; 1 for the first, and so on."""
    job: str
    kind: str
    subject: str
    number: int
    """Number of the job's event."""
    at: float
    """Wall clock, in seconds since 1970."""
    data: Mapping[str, Any]
    """Data of the event; see `JobEvent`."""

    @property
    def name(self) -> str:
        """The name of the event, such as job.done."""
        return f"job.{self.data.get('state', 'unknown')}"


@dataclass(frozen=True)
class NextChange:
    """The change that a reader has to deal with."""

    change: StateChange
    attempts: int
    """How often the reader has failed at it."""
    seconds: float
    """Time until it is to be tried again, in seconds; 0: now."""


class OutboxReader:
    """One reader's place in the list. For any thread. Every method may raise StorageError, NotReady (jobs_locked)."""

    def __init__(self, database: JobDatabase, name: str) -> None:
        self._database, self._name = database, name

    def begin(self, first: bool = False) -> None:
        """Start behind the latest change, or at the first one that is kept, or go on where the reader was. Readers of
        the same family, whose name has the same part before the colon, are forgotten."""
        family = self._name.partition(":")[0]
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO readers (name, sequence) VALUES (?, (SELECT coalesce(max(seq), 0)"
                " FROM sqlite_sequence WHERE name = 'outbox' AND NOT ?))",
                (self._name, first),
            )
            others = "DELETE FROM readers WHERE name != ? AND substr(name, 1, ?) = ?"
            db.execute(others, (self._name, len(family) + 1, f"{family}:"))

    def next(self) -> NextChange | None:
        """The first change behind the reader's place; None: there is none."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT outbox.sequence, job, kind, subject, number, at, data, attempts, due FROM outbox, readers"
                " WHERE name = ? AND outbox.sequence > readers.sequence ORDER BY outbox.sequence LIMIT 1",
                (self._name,),
            ).fetchone()
            if row is None:
                return None
            observed = self._database.observed()
        sequence, job, kind, subject, number, at, data, attempts, due = row
        event = rows.event(job, (number, at, "state", data))
        change = StateChange(sequence, job, kind, subject, number, at, event.data)
        return NextChange(change, attempts, max(0.0, due - observed))

    def pass_by(self, change: StateChange) -> None:
        """Move the reader behind a change."""
        with self._database.transaction() as db:
            update = "UPDATE readers SET sequence = ?, attempts = 0, due = 0 WHERE name = ?"
            db.execute(update, (change.sequence, self._name))

    def postpone(self, seconds: float) -> None:
        """Count a failed attempt; the next is due in this time, in seconds."""
        with self._database.transaction() as db:
            update = "UPDATE readers SET attempts = attempts + 1, due = ? WHERE name = ?"
            db.execute(update, (self._database.observe() + seconds, self._name))

    def pending(self) -> int:
        """Number of changes behind the reader's place."""
        query = "SELECT count(*) FROM outbox, readers WHERE name = ? AND outbox.sequence > readers.sequence"
        with self._database.reading() as db:
            return int(db.execute(query, (self._name,)).fetchone()[0])
