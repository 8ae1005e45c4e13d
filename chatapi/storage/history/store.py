"""A SQLite database of conversations; its methods raise SQLite's errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from chatapi.storage.clock import Clock, ObservedClock
from chatapi.storage.history import listing
from chatapi.storage.history.records import ConversationState, ConversationSummary, Exchange, StoredConversation
from chatapi.storage.sqlite_errors import kind_of
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
    listing.SCHEMA,
)
"""`used` and `at` are wall-clock times, for people and for older versions of chatapi; no decision uses them. `age` is
the observed time of the last use, `latest` the number of the last exchange."""
INDEXES = (
    "CREATE INDEX IF NOT EXISTS of_conversation ON exchanges (conversation, number)",
    "CREATE INDEX IF NOT EXISTS by_age ON conversations (age)",
    "CREATE INDEX IF NOT EXISTS by_latest ON conversations (latest)",
    "DROP INDEX IF EXISTS by_use",
)
ADDED = ("age REAL NOT NULL DEFAULT 0", "latest INTEGER NOT NULL DEFAULT 0")
"""Columns of conversations that older versions did not have."""
LARGEST_IN_MEMORY = 64 << 20
"""Largest size of a store in memory, in bytes."""
SHORT = 0.1
"""Longest wait for other processes by work that can be done later, in seconds."""


class HistoryStore:
    """A database of conversations. Belongs to one thread; several processes may use the same file."""

    def __init__(
        self, file: Path | None, keep_seconds: float, most: int, clock: Clock, wait: float = 1.0, number: int = 0
    ) -> None:
        """`file`: None stores everything in memory, up to LARGEST_IN_MEMORY. `keep_seconds`: time that a conversation
        is kept; `most`: largest number of conversations. `wait`: longest wait for locks of other processes, in seconds.
        Exchange numbers start after `number`. Raises sqlite3.Error, OSError."""
        self.file = file
        self.unswept = False
        """Whether deleted text may still be in the write-ahead log."""
        self._keep, self._most, self._clock, self._wait = keep_seconds, most, clock, wait
        if file is not None:
            _create_private(file)
        self._db = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=wait)
        try:
            self._open(number)
        except BaseException:
            self._db.close()
            raise
        self.inode = os.stat(file).st_ino if file is not None else 0  # noqa: PTH116 - as it was opened

    @classmethod
    def reading(cls, file: Path, keep_seconds: float, most: int, clock: Clock, locked: bool) -> HistoryStore:
        """A read-only store, for a disk that cannot be written. Raises sqlite3.Error, OSError."""
        store = cls.__new__(cls)
        store.file, store.unswept, store.inode = file, False, file.stat().st_ino
        store._keep, store._most, store._clock, store._wait = keep_seconds, most, clock, SHORT
        try:
            store._connect_read_only("mode=ro")
        except sqlite3.Error:
            # Reading without locks may see a mixture of two states while others write, and a database without its
            # write-ahead log may be incomplete.
            logs = [file.with_name(f"{file.name}-{end}") for end in ("wal", "shm")]
            if locked or any(log.exists() and log.stat().st_size for log in logs):
                raise
            store._connect_read_only("immutable=1")
        return store

    def _connect_read_only(self, mode: str) -> None:
        assert self.file is not None  # noqa: S101 - a store in memory is writable
        uri = f"{self.file.absolute().as_uri()}?{mode}"
        self._db = sqlite3.connect(uri, isolation_level=None, timeout=SHORT, uri=True)
        try:
            self._db.execute("SELECT age, latest FROM conversations LIMIT 1").fetchone()
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    # Exchanges

    def recall(self, conversation: str, everything: bool) -> ConversationState | None:
        """The state of a conversation; None: it does not exist or has expired."""
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

    def add(self, before: ConversationState, asked: str, answered: str, restore: bool = False, owner: str = "") -> int:
        """Store an exchange, in one transaction, and return its number; creates the conversation when it is new.

        `restore`: store the exchanges of `before` as well when the conversation is new here. `owner`: of a new one.
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
            if new:
                listing.set_owner(self._db, before.id, owner)
            if new and restore:
                rows = ((each.number, before.id, each.asked, each.answered, wall) for each in before.exchanges)
                self._db.executemany("INSERT OR IGNORE INTO exchanges VALUES (?, ?, ?, ?, ?)", rows)
            self._db.execute("INSERT INTO exchanges VALUES (?, ?, ?, ?, ?)", (number, before.id, asked, answered, wall))
            first = before.exchanges[0].number if before.exchanges else number
            self._db.execute("UPDATE conversations SET remembered_from = ? WHERE id = ?", (first, before.id))
            self._expire(observed)
        self.sweep()
        return number

    def amend(self, conversation: str, number: int, answered: str | None, asked: str | None) -> None:
        """Change an exchange; `answered` None deletes it. The number of another conversation changes nothing."""
        if answered is None:
            self.unswept = True
            delete = "DELETE FROM exchanges WHERE number = ? AND conversation = ?"
            self._db.execute(delete, (number, conversation))
            self.sweep()
        else:
            self._db.execute(
                "UPDATE exchanges SET answered = ?, asked = coalesce(?, asked) WHERE number = ? AND conversation = ?",
                (answered, asked, number, conversation),
            )

    def remove(self, conversation: str) -> bool:
        """Delete a conversation. Returns whether it existed."""
        found = self._db.execute("DELETE FROM conversations WHERE id = ?", (conversation,)).rowcount > 0
        self.unswept |= found
        self.sweep()
        return found

    def listed(self, chosen: listing.ListFilter) -> list[ConversationSummary]:
        """The conversations that have not expired, the one used last at the start."""
        return listing.listed(self._db, self._observed().seconds - self._keep, chosen)

    def rename(self, conversation: str, title: str) -> bool:
        """Set the title of a conversation. Returns whether it exists."""
        found = self._has(conversation)
        if found:
            listing.set_title(self._db, conversation, title)
        return found

    def expire(self) -> None:
        """Delete expired conversations, and the oldest beyond the largest number; store the observed time."""
        with self._transaction():
            self._expire(self._observe())
        self.sweep()

    def sweep(self) -> None:
        """Truncate the write-ahead log if deleted text may be in it; later, if another process is reading."""
        if not self.unswept or self.file is None:
            return
        self._db.execute(f"PRAGMA busy_timeout = {SHORT * 1000:.0f}")
        try:
            # All data is stored by now; a failure here only leaves the log untruncated.
            with suppress(sqlite3.Error):
                self.unswept = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {self._wait * 1000:.0f}")

    # Whole conversations, from one store to another

    def ids(self) -> Sequence[str]:
        """The ids of all conversations, the one used last at the end."""
        return [row[0] for row in self._db.execute("SELECT id FROM conversations ORDER BY latest")]

    def whole(self, conversation: str) -> StoredConversation | None:
        """The whole conversation; None if it does not exist."""
        row = self._db.execute(
            "SELECT id, system, remembered_from, used, age FROM conversations WHERE id = ?", (conversation,)
        ).fetchone()
        if row is None:
            return None
        exchanges = self._db.execute(
            "SELECT number, asked, answered, at FROM exchanges WHERE conversation = ? ORDER BY number", (conversation,)
        )
        key, system, first, used, age = row
        idle = self._observed().seconds - age
        return StoredConversation(
            key, system, first, used, idle, tuple(exchanges), *listing.label(self._db, conversation)
        )

    def put(self, wholes: Sequence[StoredConversation], dropped: Sequence[tuple[str, int]] = ()) -> None:
        """Store whole conversations from another store and delete the `dropped` exchanges, in one transaction."""
        with self._transaction():
            observed = self._observe()
            for conversation, number in dropped:
                delete = "DELETE FROM exchanges WHERE number = ? AND conversation = ?"
                self._db.execute(delete, (number, conversation))
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
        listing.set_owner(self._db, whole.id, whole.owner)
        if whole.title:
            listing.set_title(self._db, whole.id, whole.title)
        for number, asked, answered, at in whole.exchanges:
            done = self._db.execute(
                "INSERT INTO exchanges VALUES (?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE"
                " SET asked = excluded.asked, answered = excluded.answered WHERE conversation = excluded.conversation",
                (number, whole.id, asked, answered, at),
            )
            if not done.rowcount:
                # Another process has used the same number meanwhile.
                row = (self._next(), whole.id, asked, answered, at)
                self._db.execute("INSERT INTO exchanges VALUES (?, ?, ?, ?, ?)", row)

    def sequence(self) -> int:
        """The last exchange number in use."""
        return int(self._db.execute("SELECT sequence FROM observed").fetchone()[0])

    def has(self, conversation: str) -> bool:
        """Whether the conversation exists."""
        return self._has(conversation)

    # Inside

    def _open(self, number: int) -> None:
        if self.file is None:
            self._db.execute(f"PRAGMA max_page_count = {LARGEST_IN_MEMORY // 4096}")
        # A power cut must not lose an answer, so every commit reaches the disk. Deleted text is overwritten.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        check = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if check is None or check[0] != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {check and check[0]}")
        with self._transaction():
            older = self._migrate(number)
            self._check_tables()
            self._expire(self._observe())
        if older:
            self._vacuum()
        self.sweep()

    def _migrate(self, number: int) -> bool:
        """Create or upgrade the tables. Returns whether an older version created them."""
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
            start = ObservedClock.since(self._clock())
            row = (start.seconds, start.boot, start.up, start.wall, start.off, number)
            self._db.execute("INSERT INTO observed VALUES (1, ?, ?, ?, ?, ?, ?)", row)
        self._set_missing_ages()
        return older

    def _check_tables(self) -> None:
        """Inside a transaction: add an exchange and roll it back, to check tables that another program created."""
        self._db.execute("SAVEPOINT trial")
        try:
            self._db.execute("INSERT INTO conversations VALUES ('', NULL, 0, 0, 0, 0)")
            self._db.execute("INSERT INTO exchanges VALUES (-1, '', '', '', 0)")
            self._db.execute("INSERT INTO labels VALUES ('', '', '')")
        except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
            if kind_of(error) != "unwritable" or "values" in str(error) or isinstance(error, sqlite3.IntegrityError):
                raise sqlite3.DatabaseError(f"malformed tables: {error}") from error
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO trial")
                self._db.execute("RELEASE trial")

    def _set_missing_ages(self) -> None:
        """Mark conversations without an age, from an older version, as used now."""
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
        """Overwrite text that an older version deleted without overwriting; on a full disk it stays in free pages."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("VACUUM")
            self.unswept = True

    def _observed(self) -> ObservedClock:
        row = self._db.execute("SELECT seconds, boot, up, wall, off FROM observed").fetchone()
        return ObservedClock(*row).at(self._clock(), self._keep)

    def _observe(self) -> ObservedClock:
        """Inside a transaction: store the observed time."""
        seen = self._observed()
        row = (seen.seconds, seen.boot, seen.up, seen.wall, seen.off)
        self._db.execute("UPDATE observed SET seconds = ?, boot = ?, up = ?, wall = ?, off = ?", row)
        return seen

    def _next(self, behind: int = 0) -> int:
        """Inside a transaction: a new exchange number, greater than `behind`."""
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


def _create_private(file: Path) -> None:
    """Create the file for its owner alone; SQLite's logs get the same mode and owner. Raises OSError."""
    private_files.folder(file.parent)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory")
    private_files.touch(file)
