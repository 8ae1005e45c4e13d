"""Conversations kept in SQLite, so that a restart loses nothing."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatapi.errors import StorageFault, Unknown
from chatapi.events import Call

SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY,
    system TEXT,
    remembered_from INTEGER NOT NULL DEFAULT 0,
    used REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS exchanges (
    number INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    asked TEXT NOT NULL,
    answered TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS of_conversation ON exchanges (conversation, number);
CREATE INDEX IF NOT EXISTS by_use ON conversations (used);
"""


@dataclass(frozen=True)
class Result:
    """A function that was called, and what it gave."""

    call: Call
    output: str


@dataclass(frozen=True)
class Exchange:
    """What one turn added to a conversation."""

    number: int
    """Grows with time, over all conversations."""
    asked: str
    answered: str
    results: tuple[Result, ...] = ()
    """What had been given before it was asked. Known while the conversation is at hand; words alone are kept."""


@dataclass(frozen=True)
class Recalled:
    """A conversation as it stands."""

    id: str
    system: str | None
    """What its model was told instead of the default; None: the default."""
    exchanges: tuple[Exchange, ...]
    """Oldest first; without those that no longer fit the model's context, unless all were asked for."""


class History:
    """The store. Belongs to one thread; several processes may use the same file.

    Raises StorageFault when the disk is full or the file cannot be used.
    """

    def __init__(self, file: Path, keep_seconds: float, most: int) -> None:
        self._keep_seconds = keep_seconds
        self._most = most
        with _translated(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(file, isolation_level=None, timeout=10)
        self._file = file
        try:
            with _translated(file):
                # A power cut may not lose what was answered, so every commit reaches the disk.
                self._db.executescript(
                    f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; {SCHEMA}"
                )
            self.expire()
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def new_id() -> str:
        """An id nobody can guess: whoever knows it can read the conversation."""
        return "c" + secrets.token_hex(12)

    def recall(self, conversation: str, everything: bool = False) -> Recalled:
        """Unknown (unknown_conversation) when it is not kept, or no longer."""
        with _translated(self._file):
            row = self._db.execute(
                "SELECT system, remembered_from FROM conversations WHERE id = ? AND used > ?",
                (conversation, time.time() - self._keep_seconds),
            ).fetchone()
            if row is None:
                raise Unknown(
                    f"there is no conversation {conversation!r}, or it has expired; leave it out to begin one",
                    code="unknown_conversation",
                )
            system, first = row
            exchanges = self._db.execute(
                "SELECT number, asked, answered FROM exchanges WHERE conversation = ? AND number >= ? ORDER BY number",
                (conversation, 0 if everything else first),
            )
            return Recalled(conversation, system, tuple(Exchange(*exchange) for exchange in exchanges))

    def add(self, before: Recalled, asked: str, answered: str) -> int:
        """Keep an exchange, in one transaction, and tell its number; begins the conversation when it is new.

        The first of `before.exchanges` is where the model's memory starts from now on.
        """
        now = time.time()
        with _translated(self._file), self._transaction():
            self._db.execute(
                "INSERT INTO conversations (id, system, used) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET system = excluded.system, used = excluded.used",
                (before.id, before.system, now),
            )
            number = self._db.execute(
                "INSERT INTO exchanges (conversation, asked, answered, at) VALUES (?, ?, ?, ?)",
                (before.id, asked, answered, now),
            ).lastrowid
            assert number is not None  # noqa: S101 - a row was inserted
            first = before.exchanges[0].number if before.exchanges else number
            self._db.execute("UPDATE conversations SET remembered_from = ? WHERE id = ?", (first, before.id))
            self._expire(now)
        return number

    def amend(self, number: int, answered: str | None, asked: str | None = None) -> None:
        """Change what was answered, for example to what was heard of it; None: the exchange never was.

        `asked` changes what was asked as well.
        """
        with _translated(self._file):
            if answered is None:
                self._db.execute("DELETE FROM exchanges WHERE number = ?", (number,))
            else:
                self._db.execute(
                    "UPDATE exchanges SET answered = ?, asked = coalesce(?, asked) WHERE number = ?",
                    (answered, asked, number),
                )

    def remove(self, conversation: str) -> None:
        """Forget it. Unknown (unknown_conversation) when it is not kept."""
        with _translated(self._file):
            found = self._db.execute("DELETE FROM conversations WHERE id = ?", (conversation,)).rowcount
        if not found:
            raise Unknown(f"there is no conversation {conversation!r}", code="unknown_conversation")

    def expire(self) -> None:
        """Forget what nobody went on with for too long, and the oldest beyond the number kept."""
        with _translated(self._file), self._transaction():
            self._expire(time.time())

    def close(self) -> None:
        self._db.close()

    def _expire(self, now: float) -> None:
        self._db.execute("DELETE FROM conversations WHERE used <= ?", (now - self._keep_seconds,))
        self._db.execute(
            "DELETE FROM conversations WHERE id IN (SELECT id FROM conversations ORDER BY used DESC LIMIT -1 OFFSET ?)",
            (self._most,),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    """What SQLite and the file system raise, as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageFault(
            f"conversations cannot be kept in {file}: {error}; is the disk full or read-only?"
        ) from error
    except OSError as error:
        raise StorageFault(f"conversations cannot be kept in {file}: {error.strerror}") from error
