"""One SQLite database of conversations; raises what SQLite raises."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

from chatapi.storage.history.clock import Clock, ObservedClock
from chatapi.storage.history.records import ConversationState, Exchange, StoredConversation
from chatapi.system import private_files

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY,
    system TEXT,
    remembered_from INTEGER NOT NULL DEFAULT 0,
    used REAL NOT NULL,
    age REAL NOT NULL DEFAULT 0,
    latest INTEGER NOT NULL DEFAULT 0
) STRICT""",
    """CREATE TABLE IF NOT EXISTS exchanges (
    number INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    asked TEXT NOT NULL,
    answered TEXT NOT NULL,
    at REAL NOT NULL
) STRICT""",
    """CREATE TABLE IF NOT EXISTS observed (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seconds REAL NOT NULL,
    boot TEXT NOT NULL,
    up REAL NOT NULL,
    wall REAL NOT NULL,
    off REAL NOT NULL,
    sequence INTEGER NOT NULL
) STRICT""",
)
"""`used` and `at` are wall-clock times, for people and for older versions of chatapi; nothing is decided by them. `age`
is the observed time of the last use, `latest` the sequence number of the last exchange."""
INDEXES = (
    "CREATE INDEX IF NOT EXISTS of_conversation ON exchanges (conversation, number)",
    "CREATE INDEX IF NOT EXISTS by_age ON conversations (age)",
    "CREATE INDEX IF NOT EXISTS by_latest ON conversations (latest)",
    "DROP INDEX IF EXISTS by_use",
)
ADDED = ("age REAL NOT NULL DEFAULT 0", "latest INTEGER NOT NULL DEFAULT 0")
"""Columns that conversations did not have at first."""
LARGEST_SPARE = 64 << 20
"""Bytes of a store in memory."""
SHORT = 0.1
"""Seconds that what can be done later waits for other processes."""

Kind = Literal["damaged", "locked", "unwritable"]

_DAMAGED = (
    "not a database",
    "malformed",
    "unsupported file format",
    "no such column",
    "no such table",
    "no column named",
    "datatype mismatch",
    "may not be indexed",
    "column to a view",
)
_LOCKED = ("is locked", "busy")


def kind_of(error: Exception) -> Kind:
    """What an error of SQLite or the file system means for the file. Python 3.10 tells SQLite's code only as text."""
    told = str(error)
    if isinstance(error, sqlite3.DatabaseError):
        if any(words in told for words in _DAMAGED):
            return "damaged"
        if any(words in told for words in _LOCKED):
            return "locked"
    return "damaged" if isinstance(error, IsADirectoryError) else "unwritable"


class HistoryStore:
    """Belongs to one thread; several processes may use the same file."""

    def __init__(
        self, file: Path | None, keep_seconds: float, most: int, clock: Clock, wait: float = 1.0, number: int = 0
    ) -> None:
        """`file`: None keeps everything in memory, within bounds. `wait`: seconds for other processes' locks.
        Numbers begin behind `number`. Raises sqlite3.Error, OSError."""
        self.file = file
        self.unswept = False
        """Whether deleted words may still stand in the write-ahead log."""
        self._keep, self._most, self._clock, self._wait = keep_seconds, most, clock, wait
        if file is not None:
            _made_private(file)
        self._db = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=wait)
        try:
            self._open(number)
        except BaseException:
            self._db.close()
            raise
        self.inode = os.stat(file).st_ino if file is not None else 0  # noqa: PTH116 - as it was opened

    @classmethod
    def reading(cls, file: Path, keep_seconds: float, most: int, clock: Clock, locked: bool) -> HistoryStore:
        """A store that is only read, where nothing can be written. Raises sqlite3.Error, OSError."""
        made = cls.__new__(cls)
        made.file, made.unswept, made.inode = file, False, file.stat().st_ino
        made._keep, made._most, made._clock, made._wait = keep_seconds, most, clock, SHORT
        try:
            made._read_by("mode=ro")
        except sqlite3.Error:
            # What others write may be half of two states for whoever asks for no lock, and so is a database without its
            # write-ahead log.
            logs = [file.with_name(f"{file.name}-{end}") for end in ("wal", "shm")]
            if locked or any(log.exists() and log.stat().st_size for log in logs):
                raise
            made._read_by("immutable=1")
        return made

    def _read_by(self, mode: str) -> None:
        assert self.file is not None  # noqa: S101 - memory is always written
        place = f"{self.file.absolute().as_uri()}?{mode}"
        self._db = sqlite3.connect(place, isolation_level=None, timeout=SHORT, uri=True)
        try:
            self._db.execute("SELECT age, latest FROM conversations LIMIT 1").fetchone()
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    # What is kept

    def recall(self, conversation: str, everything: bool) -> ConversationState | None:
        """None where it is not kept, or no longer."""
        row = self._db.execute(
            "SELECT system, remembered_from FROM conversations WHERE id = ? AND age > ?",
            (conversation, self._observed().seconds - self._keep),
        ).fetchone()
        if row is None:
            return None
        exchanges = self._db.execute(
            "SELECT number, asked, answered FROM exchanges WHERE conversation = ? AND number >= ? ORDER BY number",
            (conversation, 0 if everything else row[1]),
        )
        return ConversationState(conversation, row[0], tuple(Exchange(*exchange) for exchange in exchanges))

    def add(self, before: ConversationState, asked: str, answered: str, again: bool = False) -> int:
        """Keep an exchange, in one transaction, and tell its number; begins the conversation when it is new.

        `again`: where the conversation is new here, what is known of it is kept again.
        """
        with self._transaction():
            observed = self._observe()
            wall = self._clock().wall
            new = not self._has(before.id)
            number = self._next(max((exchange.number for exchange in before.exchanges), default=0))
            self._db.execute(
                "INSERT INTO conversations (id, system, used, age, latest) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id)"
                " DO UPDATE SET system = excluded.system, used = excluded.used, age = excluded.age,"
                " latest = excluded.latest",
                (before.id, before.system, wall, observed.seconds, number),
            )
            if new and again:
                rows = ((each.number, before.id, each.asked, each.answered, wall) for each in before.exchanges)
                self._db.executemany("INSERT OR IGNORE INTO exchanges VALUES (?, ?, ?, ?, ?)", rows)
            self._db.execute("INSERT INTO exchanges VALUES (?, ?, ?, ?, ?)", (number, before.id, asked, answered, wall))
            first = before.exchanges[0].number if before.exchanges else number
            self._db.execute("UPDATE conversations SET remembered_from = ? WHERE id = ?", (first, before.id))
            self._expire(observed)
        self.sweep()
        return number

    def amend(self, conversation: str, number: int, answered: str | None, asked: str | None) -> None:
        """`answered`: None deletes the exchange. A number of another conversation changes nothing."""
        if answered is None:
            self.unswept = True
            gone = "DELETE FROM exchanges WHERE number = ? AND conversation = ?"
            self._db.execute(gone, (number, conversation))
            self.sweep()
        else:
            self._db.execute(
                "UPDATE exchanges SET answered = ?, asked = coalesce(?, asked) WHERE number = ? AND conversation = ?",
                (answered, asked, number, conversation),
            )

    def remove(self, conversation: str) -> bool:
        """Whether it was there."""
        found = self._db.execute("DELETE FROM conversations WHERE id = ?", (conversation,)).rowcount > 0
        self.unswept |= found
        self.sweep()
        return found

    def expire(self) -> None:
        """Forget what is too old, and the oldest beyond the number kept; note how much time has passed."""
        with self._transaction():
            self._expire(self._observe())
        self.sweep()

    def sweep(self) -> None:
        """Empty the write-ahead log where deleted words may stand in it; done later while another process reads."""
        if not self.unswept or self.file is None:
            return
        self._db.execute(f"PRAGMA busy_timeout = {SHORT * 1000:.0f}")
        try:
            # What was to be kept is kept by now, whatever becomes of the log.
            with suppress(sqlite3.Error):
                self.unswept = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {self._wait * 1000:.0f}")

    # Whole conversations, from one store to another

    def ids(self) -> Sequence[str]:
        """Every conversation, the one used last at the end."""
        return [row[0] for row in self._db.execute("SELECT id FROM conversations ORDER BY latest")]

    def whole(self, conversation: str) -> StoredConversation | None:
        """All that is kept of it; None where it is not."""
        row = self._db.execute(
            "SELECT id, system, remembered_from, used, age FROM conversations WHERE id = ?", (conversation,)
        ).fetchone()
        if row is None:
            return None
        exchanges = self._db.execute(
            "SELECT number, asked, answered, at FROM exchanges WHERE conversation = ? ORDER BY number", (conversation,)
        )
        key, system, first, used, age = row
        return StoredConversation(key, system, first, used, self._observed().seconds - age, tuple(exchanges))

    def put(self, wholes: Sequence[StoredConversation], dropped: Sequence[tuple[str, int]] = ()) -> None:
        """Keep these as they are elsewhere, in one transaction, without those exchanges of theirs that were dropped."""
        with self._transaction():
            observed = self._observe()
            for conversation, number in dropped:
                gone = "DELETE FROM exchanges WHERE number = ? AND conversation = ?"
                self._db.execute(gone, (number, conversation))
                self.unswept = True
            for whole in wholes:
                self._put(whole, observed)
            self._expire(observed)
        self.sweep()

    def _put(self, whole: StoredConversation, observed: ObservedClock) -> None:
        latest = self._next(max((each[0] for each in whole.exchanges), default=0) - 1)
        self._db.execute(
            "INSERT INTO conversations (id, system, remembered_from, used, age, latest) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET system = excluded.system, remembered_from = excluded.remembered_from,"
            " used = excluded.used, age = max(age, excluded.age), latest = max(latest, excluded.latest)",
            (whole.id, whole.system, whole.remembered_from, whole.used, observed.seconds - whole.idle, latest),
        )
        for number, asked, answered, at in whole.exchanges:
            done = self._db.execute(
                "INSERT INTO exchanges VALUES (?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE"
                " SET asked = excluded.asked, answered = excluded.answered WHERE conversation = excluded.conversation",
                (number, whole.id, asked, answered, at),
            )
            if not done.rowcount:
                # Another process has given the same number meanwhile.
                row = (self._next(), whole.id, asked, answered, at)
                self._db.execute("INSERT INTO exchanges VALUES (?, ?, ?, ?, ?)", row)

    def sequence(self) -> int:
        """The last number that was given."""
        return int(self._db.execute("SELECT sequence FROM observed").fetchone()[0])

    def has(self, conversation: str) -> bool:
        return self._has(conversation)

    # Inside

    def _open(self, number: int) -> None:
        if self.file is None:
            self._db.execute(f"PRAGMA max_page_count = {LARGEST_SPARE // 4096}")
        # A power cut may not lose what was answered, so every commit reaches the disk; what is deleted is overwritten.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        told = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if told is None or told[0] != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {told and told[0]}")
        with self._transaction():
            older = self._migrate(number)
            self._try()
            self._expire(self._observe())
        if older:
            self._vacuum()
        self.sweep()

    def _migrate(self, number: int) -> bool:
        """Bring the tables to what they are now; whether an older version had made them."""
        for statement in SCHEMA:
            self._db.execute(statement)
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(conversations)")}
        older = False
        for column in ADDED:
            if column.partition(" ")[0] not in columns:
                self._db.execute(f"ALTER TABLE conversations ADD COLUMN {column}")
                older = True
        for statement in INDEXES:
            self._db.execute(statement)
        if self._db.execute("SELECT 1 FROM observed").fetchone() is None:
            made = ObservedClock.since(self._clock())
            row = (made.seconds, made.boot, made.up, made.wall, made.off, number)
            self._db.execute("INSERT INTO observed VALUES (1, ?, ?, ?, ?, ?, ?)", row)
        self._adopt()
        return older

    def _try(self) -> None:
        """Inside a transaction: add an exchange and take it back, to see that tables another program made fit."""
        self._db.execute("SAVEPOINT trial")
        try:
            self._db.execute("INSERT INTO conversations VALUES ('', NULL, 0, 0, 0, 0)")
            self._db.execute("INSERT INTO exchanges VALUES (-1, '', '', '', 0)")
        except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
            if kind_of(error) != "unwritable" or "values" in str(error) or isinstance(error, sqlite3.IntegrityError):
                raise sqlite3.DatabaseError(f"malformed tables: {error}") from error
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO trial")
                self._db.execute("RELEASE trial")

    def _adopt(self) -> None:
        """What an older version has written knows no age: it counts as used now."""
        latest = "(SELECT max(number) FROM exchanges WHERE conversation = conversations.id)"
        self._db.execute(
            f"UPDATE conversations SET age = ?, latest = coalesce({latest}, 0)"  # noqa: S608 - a constant
            f" WHERE latest < coalesce({latest}, 0)",
            (self._observed().seconds,),
        )
        self._db.execute(
            "UPDATE observed SET sequence = max(sequence, coalesce((SELECT max(number) FROM exchanges), 0))"
        )

    def _vacuum(self) -> None:
        """What was deleted before deleting meant overwriting still stands in free pages; a full disk keeps it there."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("VACUUM")
            self.unswept = True

    def _observed(self) -> ObservedClock:
        row = self._db.execute("SELECT seconds, boot, up, wall, off FROM observed").fetchone()
        return ObservedClock(*row).at(self._clock(), self._keep)

    def _observe(self) -> ObservedClock:
        """Inside a transaction: note how much time has passed."""
        seen = self._observed()
        row = (seen.seconds, seen.boot, seen.up, seen.wall, seen.off)
        self._db.execute("UPDATE observed SET seconds = ?, boot = ?, up = ?, wall = ?, off = ?", row)
        return seen

    def _next(self, behind: int = 0) -> int:
        """Inside a transaction: a number that no exchange ever had, greater than `behind`."""
        self._db.execute("UPDATE observed SET sequence = max(sequence, ?) + 1", (behind,))
        return self.sequence()

    def _has(self, conversation: str) -> bool:
        return self._db.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone() is not None

    def _expire(self, observed: ObservedClock) -> None:
        old = self._db.execute("DELETE FROM conversations WHERE age <= ?", (observed.seconds - self._keep,)).rowcount
        beyond = self._db.execute(
            "DELETE FROM conversations"
            " WHERE id IN (SELECT id FROM conversations ORDER BY latest DESC LIMIT -1 OFFSET ?)",
            (self._most,),
        ).rowcount
        self.unswept |= old + beyond > 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
                cursor.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        cursor.execute("ROLLBACK")
                raise


def _made_private(file: Path) -> None:
    """SQLite gives its logs the mode and the owner of their database. Raises OSError."""
    private_files.folder(file.parent)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory")
    private_files.touch(file)
