"""The database of stream monitoring: one SQLite file, so that what belongs together is stored in one transaction."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatapi.errors import NotReady, StorageError
from chatapi.storage import sqlite_files
from chatapi.storage.sqlite_errors import kind_of
from chatapi.system import private_files

WAIT_SECONDS = 10.0
"""Longest wait for another process, in seconds."""
NAMESPACE = uuid.UUID("6f1f7a54-2f0e-5c5b-9a57-1d3b5b0c8a11")
"""Of the ids of detections: the same detection has the same id, however often it is made."""
FIRST = (
    """CREATE TABLE stretches (
    place TEXT NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL,
    CHECK (start < end)
    ) STRICT""",
    "CREATE INDEX by_end ON stretches (place, end)",
    """CREATE TABLE detections (
    place TEXT NOT NULL, start INTEGER NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, confidence REAL NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (place, start, model)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX to_store ON detections (stored, start)",
    "CREATE TABLE positions (place TEXT PRIMARY KEY, at INTEGER NOT NULL, folder TEXT NOT NULL) STRICT, WITHOUT ROWID",
)
SECOND = (
    "ALTER TABLE detections ADD COLUMN id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE detections ADD COLUMN seconds REAL NOT NULL DEFAULT 0",
    "ALTER TABLE detections ADD COLUMN state TEXT NOT NULL DEFAULT 'unreviewed'",
    "ALTER TABLE detections ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE detections ADD COLUMN comments TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE detections ADD COLUMN moderator TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE detections ADD COLUMN moderated INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE detections ADD COLUMN record_due INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE detections ADD COLUMN mute TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE detections ADD COLUMN fingerprints BLOB",
    "CREATE INDEX by_time ON detections (start)",
    "CREATE INDEX by_place ON detections (place, start)",
    "CREATE INDEX by_id ON detections (id)",
    "CREATE INDEX records_due ON detections (record_due) WHERE record_due = 1",
    """CREATE TABLE mutes (
    id TEXT PRIMARY KEY, place TEXT NOT NULL, detection TEXT NOT NULL, name TEXT NOT NULL, created INTEGER NOT NULL,
    moderator TEXT NOT NULL, fingerprints BLOB NOT NULL, muted INTEGER NOT NULL DEFAULT 0,
    last INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE monitors (
    place TEXT PRIMARY KEY, config TEXT NOT NULL, created INTEGER NOT NULL, creator TEXT NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0, ended INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE alerts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, text TEXT NOT NULL, created INTEGER NOT NULL
    ) STRICT""",
)
VERSIONS = (FIRST, SECOND)
"""What brings a database from each version to the next."""


def ms(seconds: float) -> int:
    """Whole milliseconds, as times are stored."""
    return round(seconds * 1000)


def detection_id(place: str, start: int, model: str) -> str:
    """The id of a detection; `start` in milliseconds since 1970."""
    return str(uuid.uuid5(NAMESPACE, f"{place} {start} {model}"))


class MonitoringDatabase:
    """The file. For any thread of one process; several processes may use it at once. All methods block."""

    def __init__(self, file: Path) -> None:
        """Raises StorageError, NotReady (ledger_locked)."""
        self.file, self._lock = file, threading.RLock()
        with self.translated():
            private_files.folder(file.parent)
            private_files.touch(file)
            self.db = sqlite3.connect(file, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self.db.execute(f"PRAGMA {pragma}").fetchall()
            with self.transaction():
                self._migrate()

    def close(self) -> None:
        with self._lock:
            self.db.close()

    def _migrate(self) -> None:
        version = int(self.db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(VERSIONS):
            raise StorageError(f"{self.file} was written by a newer chatapi; use that one, or move the file away")
        for statement in (each for added in VERSIONS[version:] for each in added):
            self.db.execute(statement)
        if version < len(VERSIONS):
            for place, start, model in self.db.execute("SELECT place, start, model FROM detections").fetchall():
                where = (detection_id(place, start, model), place, start, model)
                self.db.execute("UPDATE detections SET id = ? WHERE place = ? AND start = ? AND model = ?", where)
            self.db.execute(f"PRAGMA user_version = {len(VERSIONS)}")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction. Raises StorageError, NotReady (ledger_locked)."""
        with self.translated(), self.transaction():
            yield self.db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection. Raises StorageError, NotReady (ledger_locked)."""
        with self.translated():
            yield self.db

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock, sqlite_files.transaction(self.db):
            yield

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise SQLite's errors as StorageError, and NotReady where another process has the file."""
        try:
            with self._lock:
                yield
        except (sqlite3.Error, OSError) as error:
            if kind_of(error) == "locked":
                raise NotReady(f"{self.file} is locked by another process", code="ledger_locked") from error
            raise StorageError(f"the coverage ledger {self.file} cannot be used: {error}") from error
