"""The file of conversations: whether it can be read and written, and what was set aside."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from chatapi.cli.check.finding import CheckContext, Finding
from chatapi.storage.history.store import kind_of
from chatapi.system import private_files


def conversations(scene: CheckContext) -> Iterator[Finding]:
    """It is opened for reading alone; at the start of a server it is not read through."""
    file = scene.settings.data / "history.sqlite3"
    aside = private_files.moved_aside(file)
    if aside:
        names = ", ".join(each.name for each in aside)
        told = f"{names} in {file.parent} was damaged and set aside, so that earlier conversations are missing"
        mend = f"`sqlite3 {aside[-1].name} .recover` may read it; else remove it"
        yield Finding("note", "conversations", f"{told}: {mend}")
    yield from _open_to_others(scene.settings.data, file)
    fault = _fault(file, scene.quick)
    if fault:
        yield fault


def _open_to_others(data: Path, file: Path) -> Iterator[Finding]:
    """What others may read though it is for its owner alone, where a server could not mend it at its start."""
    for path in (file, data / "keys.json"):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if stat.S_IMODE(mode) & private_files.OTHERS:
            yield Finding("note", "conversations", f"{path} may be read by others on this machine: chmod go= {path}")


def _fault(file: Path, quick: bool) -> Finding | None:
    if file.is_dir():
        told = f"{file} is a folder: chatapi sets it aside at its start, and begins a new file"
        return Finding("note", "conversations", told)
    if not file.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as opened:
            opened.execute("SELECT count(*) FROM conversations").fetchone()
            found = "ok" if quick else opened.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        kind, found = kind_of(error), str(error)
        if kind == "locked":
            told = f"{file} is locked by another program, so that nothing is kept: end that, `fuser -v {file}` names it"
            return Finding("note", "conversations", told)
        if kind == "unwritable":
            told = f"{file} cannot be opened ({found}), so that conversations are lost at each restart"
            return Finding("note", "conversations", f"{told}: sudo chown -R $(id -u) {file.parent}")
    if found != "ok":
        told = f"{file} is damaged ({found}): chatapi sets it aside at its start, and begins a new one"
        return Finding("note", "conversations", told)
    return None
