"""The SQLite file of the samples and of the versions: opening, migration, transactions."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatapi.errors import NotReady, StorageError
from chatapi.storage import sqlite_files
from chatapi.storage.layout import DataDirectory
from chatapi.storage.sqlite_errors import kind_of
from chatapi.system import private_files

log = logging.getLogger(__name__)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE samples (
        id TEXT PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        label TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        owner TEXT NOT NULL,
        interface TEXT NOT NULL,
        submitted REAL NOT NULL,
        seconds REAL NOT NULL,
        level_db REAL NOT NULL,
        clipped REAL NOT NULL,
        speech_seconds REAL NOT NULL,
        trimmed INTEGER NOT NULL,
        held_out INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX by_label ON samples (label, state, submitted)",
        "CREATE INDEX by_owner ON samples (owner, submitted)",
        """CREATE TABLE embeddings (
        sample TEXT NOT NULL REFERENCES samples(id) ON DELETE CASCADE,
        features TEXT NOT NULL,
        rows BLOB NOT NULL,
        PRIMARY KEY (sample, features)
        ) STRICT""",
        """CREATE TABLE versions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL UNIQUE,
        parent INTEGER NOT NULL,
        owner TEXT NOT NULL,
        created REAL NOT NULL,
        features TEXT NOT NULL,
        labels TEXT NOT NULL,
        samples INTEGER NOT NULL,
        figures TEXT NOT NULL,
        verdict TEXT NOT NULL,
        file TEXT NOT NULL,
        sha256 TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE activations (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        version INTEGER NOT NULL,
        at REAL NOT NULL,
        cause TEXT NOT NULL,
        unknown_share REAL
        ) STRICT""",
    ),
)
"""Statements that make each version of the schema from the one before; the file's user_version is their number.

`rows` of an embedding is a little-endian float32 matrix. The version of the last activation is the active one; without
activations, and as version 0, the model itself is. `unknown_share` is that of the version before, at its end."""
WAIT_SECONDS = 5.0
"""Longest wait for locks of other processes, in seconds."""


class CommandDatabase:
    """The connection to the file. For any thread of one process; several processes may use the same file."""

    def __init__(self, data: Path) -> None:
        """Opens nothing yet."""
        self.file = DataDirectory(data).command_database
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """Whether anything was ever stored."""
        return self.file.exists()

    def close(self) -> None:
        """A later use opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries. Raises StorageError, NotReady (commands_locked)."""
        with self._lock, self._translated():
            yield self._connection()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction, which is on the disk when the context ends.

        Raises StorageError, NotReady (commands_locked).
        """
        with self._lock, self._translated():
            db = self._connection()
            with sqlite_files.transaction(db):
                yield db

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._db = self._opened()
            except sqlite3.DatabaseError as error:
                if kind_of(error) != "damaged":
                    raise
                self._set_aside(error)
                self._db = self._opened()
        return self._db

    def _opened(self) -> sqlite3.Connection:
        private_files.folder(self.file.parent)
        private_files.touch(self.file)
        db = sqlite3.connect(self.file, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)
        try:
            # An accepted sample must survive a power cut, so every commit reaches the disk.
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                db.execute(f"PRAGMA {pragma}").fetchall()
            sqlite_files.check(db)
            self._migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StorageError(
                f"{self.file} has version {version} of the schema and this chatapi knows {len(MIGRATIONS)}; use the "
                "newer chatapi that wrote it, or move the file away"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")

    def _set_aside(self, error: Exception) -> None:
        """Rename the damaged file. Raises OSError."""
        target = sqlite_files.set_aside(self.file)
        log.error("%s was damaged (%s): renamed to %s, and a new one was created", self.file, error, target.name)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            if kind_of(error) == "locked":
                message = f"{self.file} is locked by another process; try again when it has ended"
                raise NotReady(message, code="commands_locked") from error
            message = f"commands cannot be stored in {self.file}: {reason}; is the disk full or read-only?"
            raise StorageError(message) from error
