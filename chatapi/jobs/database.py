"""The SQLite file of the jobs: opening, migration, transactions, and the time that passed."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatapi.errors import NotReady, StorageError
from chatapi.storage import sqlite_files
from chatapi.storage.clock import Clock, ObservedClock, now
from chatapi.storage.sqlite_errors import kind_of
from chatapi.system import private_files

log = logging.getLogger(__name__)

OUTBOX = 1000
"""Number of the latest state changes of all jobs that are kept for their readers (`outbox`)."""
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        command TEXT NOT NULL,
        parameters TEXT NOT NULL,
        priority INTEGER NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        wanted TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        started REAL,
        ended REAL,
        due REAL NOT NULL DEFAULT 0,
        ended_observed REAL,
        progress REAL NOT NULL DEFAULT 0,
        phrase TEXT NOT NULL DEFAULT '',
        seconds_left REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        code TEXT NOT NULL DEFAULT '',
        message TEXT NOT NULL DEFAULT '',
        artifacts TEXT NOT NULL DEFAULT '[]',
        events INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        "CREATE INDEX by_state ON jobs (state, priority, number)",
        "CREATE UNIQUE INDEX by_subject ON jobs (kind, subject)"
        " WHERE subject != '' AND state IN ('queued', 'running', 'paused')",
        """CREATE TABLE steps (
        job INTEGER NOT NULL REFERENCES jobs(number) ON DELETE CASCADE,
        name TEXT NOT NULL,
        key TEXT NOT NULL,
        result TEXT NOT NULL,
        PRIMARY KEY (job, name)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE events (
        job INTEGER NOT NULL REFERENCES jobs(number) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        at REAL NOT NULL,
        type TEXT NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (job, number)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE observed (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seconds REAL NOT NULL,
        boot TEXT NOT NULL,
        up REAL NOT NULL,
        wall REAL NOT NULL,
        off REAL NOT NULL
        ) STRICT""",
        "CREATE TABLE removed (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    ),
    (
        """CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        number INTEGER NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL
        ) STRICT""",
        f"""CREATE TRIGGER announced AFTER INSERT ON events WHEN NEW.type = 'state' BEGIN
        INSERT INTO outbox (job, kind, subject, number, at, data)
        SELECT id, kind, subject, NEW.number, NEW.at, NEW.data FROM jobs WHERE number = NEW.job;
        DELETE FROM outbox WHERE sequence <= (SELECT max(sequence) FROM outbox) - {OUTBOX};
        END""",  # noqa: S608 - a constant
        """CREATE TABLE readers (
        name TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID""",
    ),
)
"""Statements that make each version of the schema from the one before; the file's user_version is their number.

`due` and `ended_observed`, which a command's interrupted job has too, are observed times, in seconds; `created`,
`started` and `ended` are wall-clock times for people, and no decision uses them. `removed` holds deleted jobs whose
folder is still to be deleted. A reader's `due` is an observed time too.
"""
WAIT_SECONDS = 5.0
"""Longest wait for locks of other processes, in seconds."""


class JobDatabase:
    """The connection to the file. For any thread of one process; several processes may use the same file."""

    def __init__(self, file: Path, kept_seconds: float, clock: Clock = now) -> None:
        """`kept_seconds`: time that finished jobs are kept; it bounds what a jump of the wall clock adds.

        Raises StorageError, NotReady (jobs_locked).
        """
        self.file = file
        self._kept, self._clock, self._lock = kept_seconds, clock, threading.RLock()
        with self.translated():
            try:
                self._db = self._opened()
            except (sqlite3.DatabaseError, IsADirectoryError) as error:
                if kind_of(error) != "damaged":
                    raise
                self._set_aside(error)
                self._db = self._opened()
            self._opened_as = _identity(file)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def replaced(self) -> bool:
        """Whether the file was renamed, deleted or replaced since it was opened."""
        try:
            return _identity(self.file) != self._opened_as
        except OSError:
            return True

    @property
    def wall(self) -> float:
        """The wall clock, in seconds since 1970."""
        return self._clock().wall

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries. Raises StorageError, NotReady (jobs_locked)."""
        with self._lock, self.translated():
            yield self._db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction, which is on the disk when the context ends.

        Raises StorageError, NotReady (jobs_locked).
        """
        with self._lock, self.translated(), sqlite_files.transaction(self._db):
            yield self._db

    def observed(self) -> float:
        """The observed time, in seconds: what passed since the file was created, whatever the wall clock says."""
        return self._observed().seconds

    def observe(self) -> float:
        """Inside a transaction: the observed time, in seconds; stored, for the time after the next boot."""
        seen = self._observed()
        row = (seen.seconds, seen.boot, seen.up, seen.wall, seen.off)
        self._db.execute("UPDATE observed SET seconds = ?, boot = ?, up = ?, wall = ?, off = ?", row)
        return seen.seconds

    def _observed(self) -> ObservedClock:
        seen = ObservedClock(*self._db.execute("SELECT seconds, boot, up, wall, off FROM observed").fetchone())
        return seen.at(self._clock(), self._kept)

    def _opened(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError, StorageError."""
        private_files.folder(self.file.parent)
        if self.file.is_dir():
            raise IsADirectoryError(f"{self.file} is a directory")
        private_files.touch(self.file)
        db = sqlite3.connect(self.file, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)
        # Text that is not UTF-8 damages the job that has it, and no query.
        db.text_factory = lambda text: text.decode(errors="replace")
        try:
            # A power cut must not lose a finished step, so every commit reaches the disk.
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                db.execute(f"PRAGMA {pragma}").fetchall()
            sqlite_files.check(db)
            with sqlite_files.transaction(db):
                self._migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Inside a transaction: bring the file to this version's schema."""
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StorageError(
                f"{self.file} has version {version} of the schema and this chatapi knows {len(MIGRATIONS)}; use the "
                "newer chatapi that wrote it, or move the file away"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        if version < len(MIGRATIONS):
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        if db.execute("SELECT 1 FROM observed").fetchone() is None:
            start = ObservedClock.since(self._clock())
            row = (start.seconds, start.boot, start.up, start.wall, start.off)
            db.execute("INSERT INTO observed VALUES (1, ?, ?, ?, ?, ?)", row)

    def _set_aside(self, error: Exception) -> None:
        """Rename the damaged file. Raises OSError."""
        target = sqlite_files.set_aside(self.file)
        log.error(
            "%s was damaged (%s): renamed to %s, and a new one was created; unfinished jobs are to be started again",
            self.file,
            error,
            target.name,
        )

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate errors of SQLite and the file system inside the context to StorageError or NotReady."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            if kind_of(error) == "locked":
                raise NotReady(
                    f"{self.file} is locked by another process; try again when it has ended", code="jobs_locked"
                ) from error
            raise StorageError(
                f"jobs cannot be stored in {self.file}: {reason}; is the disk full or read-only?"
            ) from error


def _identity(file: Path) -> tuple[int, int]:
    """Device and inode. Raises OSError."""
    found = file.stat()
    return found.st_dev, found.st_ino
