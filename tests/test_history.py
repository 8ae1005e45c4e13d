"""Conversations survive a restart, expire, and are forgotten when asked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from chatapi.errors import StorageFault, Unknown
from chatapi.history import History, Recalled


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def history(file: Path) -> Iterator[History]:
    with closing(History(file, 3600, 100)) as opened:
        yield opened


def begun(history: History, *pairs: tuple[str, str], system: str | None = None) -> str:
    conversation = History.new_id()
    recalled = Recalled(conversation, system, ())
    for asked, answered in pairs:
        history.add(recalled, asked, answered)
        recalled = history.recall(conversation)
    return conversation


def test_what_was_said_comes_back_in_order(history: History) -> None:
    conversation = begun(history, ("one?", "1"), ("two?", "2"), system="Be brief.")
    recalled = history.recall(conversation)
    assert [(e.asked, e.answered) for e in recalled.exchanges] == [("one?", "1"), ("two?", "2")]
    assert recalled.system == "Be brief."


def test_a_process_killed_after_an_answer_has_lost_nothing(file: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from chatapi.history import *;"
        "h = History(Path(sys.argv[1]), 3600, 100);"
        "h.add(Recalled('c1', None, ()), 'still there?', 'yes'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, file]).returncode == -9
    with closing(History(file, 3600, 100)) as history:
        assert history.recall("c1").exchanges[0].answered == "yes"


def test_an_unknown_conversation_is_refused_by_name(history: History) -> None:
    with pytest.raises(Unknown, match="'nobody'") as refused:
        history.recall("nobody")
    assert refused.value.code == "unknown_conversation"
    with pytest.raises(Unknown):
        history.remove("nobody")


def test_what_no_longer_fits_the_model_is_not_recalled_but_kept(history: History) -> None:
    conversation = begun(history, ("one?", "1"), ("two?", "2"), ("three?", "3"))
    recalled = history.recall(conversation)
    history.add(replace(recalled, exchanges=recalled.exchanges[2:]), "four?", "4")
    assert [e.asked for e in history.recall(conversation).exchanges] == ["three?", "four?"]
    assert [e.asked for e in history.recall(conversation, everything=True).exchanges] == [
        "one?", "two?", "three?", "four?",
    ]  # fmt: skip


def test_forgetting_takes_the_words_with_it(history: History, file: Path) -> None:
    conversation = begun(history, ("a secret?", "hush"))
    history.remove(conversation)
    with pytest.raises(Unknown):
        history.recall(conversation)
    with closing(sqlite3.connect(file)) as plain:
        assert plain.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_a_conversation_nobody_went_on_with_expires(file: Path) -> None:
    with closing(History(file, 3600, 100)) as history:
        conversation = begun(history, ("one?", "1"))
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("UPDATE conversations SET used = used - 3700")
    with closing(History(file, 3600, 100)) as history, pytest.raises(Unknown):
        history.recall(conversation)


def test_beyond_the_number_kept_the_oldest_leaves(file: Path) -> None:
    with closing(History(file, 3600, 2)) as history:
        first, second, third = (begun(history, (name, "")) for name in "abc")
        with pytest.raises(Unknown):
            history.recall(first)
        assert history.recall(second) and history.recall(third)


def test_a_full_disk_is_said_and_nothing_half_written(file: Path) -> None:
    with closing(History(file, 3600, 100)) as history:
        conversation = begun(history, ("one?", "1"))
        pages = history._db.execute("PRAGMA page_count").fetchone()[0]
        history._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFault, match="full"):
            history.add(history.recall(conversation), "x" * 100_000, "y")
        assert [e.asked for e in history.recall(conversation).exchanges] == ["one?"]


def test_a_file_that_is_no_database_is_said(file: Path) -> None:
    file.write_bytes(b"this is not a database, but long enough to look at" * 100)
    with pytest.raises(StorageFault, match="not a database"):
        History(file, 3600, 100)


def test_two_processes_may_use_the_same_file(history: History, file: Path) -> None:
    conversation = begun(history, ("one?", "1"))
    with closing(History(file, 3600, 100)) as other:
        other.add(other.recall(conversation), "two?", "2")
    assert [e.asked for e in history.recall(conversation).exchanges] == ["one?", "two?"]
