"""What the SQLite files of the data directory have in common: the check at opening, transactions, and damaged files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatapi.system import private_files


def check(db: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where the file is damaged."""
    found = db.execute("PRAGMA quick_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {found and found[0]}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is committed when the context ends, and rolled back by an exception."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def set_aside(file: Path) -> Path:
    """Rename a damaged file with what SQLite has beside it; returns its new path. Raises OSError."""
    target = private_files.move_aside(file)
    for end in ("-wal", "-shm"):
        part = file.with_name(file.name + end)
        if part.exists():
            part.replace(target.with_name(target.name + end))
    return target
