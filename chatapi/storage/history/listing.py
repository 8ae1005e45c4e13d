"""The list of conversations, with their owners and titles, in the database of `store.py`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from chatapi.storage.history.records import ConversationSummary

SCHEMA = """CREATE TABLE IF NOT EXISTS labels (
    conversation TEXT PRIMARY KEY REFERENCES conversations(id) ON DELETE CASCADE,
    owner TEXT NOT NULL,
    title TEXT NOT NULL
) STRICT"""
"""A table of its own: older versions of chatapi use the same file. A conversation without a row has no owner."""
TITLE_CHARS = 80
"""Characters of the first message that stand for a title."""
NO_LABELS = "(SELECT '' AS conversation, '' AS owner, '' AS title WHERE 0)"
"""In place of the table in the file of an older version that cannot be written."""


@dataclass(frozen=True)
class ListFilter:
    """Which conversations are listed."""

    owner: str | None = None
    """Only those of this owner; None: all."""
    search: str = ""
    """Only those with this text in the title or in a message; upper and lower case are the same."""
    before: int = 0
    """Only those whose last exchange has a smaller number; 0: all."""
    most: int = 50
    hidden: Sequence[str] = ()
    """Starts of the ids of other documents that the history holds."""


def listed(db: sqlite3.Connection, since: float, chosen: ListFilter) -> list[ConversationSummary]:
    """The conversations used after the observed time `since`, the one used last at the start."""
    labels = "labels" if _has_labels(db) else NO_LABELS
    db.create_function("folded", 1, str.casefold, deterministic=True)
    hidden = "".join(" AND substr(c.id, 1, ?) <> ?" for _ in chosen.hidden)
    query = (
        "SELECT c.id, coalesce(nullif(l.title, ''),"  # noqa: S608 - the values are parameters
        " (SELECT substr(trim(asked), 1, ?) FROM exchanges"
        " WHERE conversation = c.id AND trim(asked) <> '' ORDER BY number LIMIT 1), '') AS shown, c.used, c.latest,"
        " (SELECT count(*) FROM exchanges WHERE conversation = c.id)"
        f" FROM conversations c LEFT JOIN {labels} l ON l.conversation = c.id"
        " WHERE c.age > ? AND (? IS NULL OR coalesce(l.owner, '') = ?)"
        " AND (? = 0 OR c.latest < ?)"
        " AND (? = '' OR instr(folded(shown), ?) OR EXISTS (SELECT 1 FROM exchanges WHERE conversation = c.id"
        " AND (instr(folded(asked), ?) OR instr(folded(answered), ?))))"
        f"{hidden} ORDER BY c.latest DESC LIMIT ?"
    )
    starts = (each for prefix in chosen.hidden for each in (len(prefix), prefix))
    search = chosen.search.casefold()
    values = (since, chosen.owner, chosen.owner, chosen.before, chosen.before, search, search, search, search)
    rows = db.execute(query, (TITLE_CHARS, *values, *starts, chosen.most))
    return [ConversationSummary(*row) for row in rows]


def set_owner(db: sqlite3.Connection, conversation: str, owner: str) -> None:
    """Inside a transaction: the owner of a new conversation; empty: none."""
    if owner:
        db.execute("INSERT INTO labels VALUES (?, ?, '') ON CONFLICT DO NOTHING", (conversation, owner))


def set_title(db: sqlite3.Connection, conversation: str, title: str) -> None:
    """The title of a conversation that exists; empty: the start of its first message."""
    insert = "INSERT INTO labels VALUES (?, '', ?) ON CONFLICT (conversation) DO UPDATE SET title = excluded.title"
    db.execute(insert, (conversation, title))


def label(db: sqlite3.Connection, conversation: str) -> tuple[str, str]:
    """The owner and the title of a conversation; empty: none."""
    row = db.execute("SELECT owner, title FROM labels WHERE conversation = ?", (conversation,)).fetchone()
    return (row[0], row[1]) if row else ("", "")


def _has_labels(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'labels'").fetchone() is not None
