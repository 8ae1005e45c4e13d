"""Checks the stored conversations: access to the file, and renamed damaged files."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from chatapi.cli.check.finding import CheckContext, Finding
from chatapi.storage.layout import DataDirectory
from chatapi.storage.sqlite_errors import kind_of
from chatapi.system import private_files


def conversations(context: CheckContext) -> Iterator[Finding]:
    """The history file, opened read-only; at the start of a server its content is not checked."""
    file = DataDirectory(context.settings.data).history
    damaged = private_files.moved_aside(file)
    if damaged:
        names = ", ".join(each.name for each in damaged)
        message = f"{names} in {file.parent} was damaged and renamed, so earlier conversations are missing"
        remedy = f"`sqlite3 {damaged[-1].name} .recover` may read it; else remove it"
        yield Finding("note", "conversations", f"{message}: {remedy}")
    yield from _readable_by_others(context.settings.data, file)
    problem = _problem(file, context.quick)
    if problem:
        yield problem


def _readable_by_others(data: Path, file: Path) -> Iterator[Finding]:
    """Private files that other users may read, and whose permissions the server could not change."""
    for path in (file, DataDirectory(data).keys):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if stat.S_IMODE(mode) & private_files.OTHERS:
            yield Finding("note", "conversations", f"other users of this machine may read {path}: chmod go= {path}")


def _problem(file: Path, quick: bool) -> Finding | None:
    if file.is_dir():
        message = f"{file} is a folder: chatapi renames it at its start, and creates a new file"
        return Finding("note", "conversations", message)
    if not file.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as opened:
            opened.execute("SELECT count(*) FROM conversations").fetchone()
            found = "ok" if quick else opened.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        kind, found = kind_of(error), str(error)
        if kind == "locked":
            message = f"{file} is locked by another program, so nothing is stored: end it, `fuser -v {file}` names it"
            return Finding("note", "conversations", message)
        if kind == "unwritable":
            message = f"{file} cannot be opened ({found}), so conversations are lost at each restart"
            return Finding("note", "conversations", f"{message}: sudo chown -R $(id -u) {file.parent}")
    if found != "ok":
        message = f"{file} is damaged ({found}): chatapi renames it at its start, and creates a new one"
        return Finding("note", "conversations", message)
    return None
