"""Kinds of errors of an SQLite file."""

from __future__ import annotations

import sqlite3
from typing import Literal

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
    """Classify an error of SQLite or the file system. Python 3.10 has SQLite's code only as text."""
    text = str(error)
    if isinstance(error, sqlite3.DatabaseError):
        if any(words in text for words in _DAMAGED):
            return "damaged"
        if any(words in text for words in _LOCKED):
            return "locked"
    return "damaged" if isinstance(error, IsADirectoryError) else "unwritable"
