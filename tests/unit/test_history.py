"""Stored conversations: they survive a restart, are limited in number, and are erased on deletion."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from chatapi.errors import NotFound
from chatapi.storage.history import ConversationHistory, ConversationState

TEXT = "the walrus and the carpenter"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def history(file: Path) -> Iterator[ConversationHistory]:
    with closing(ConversationHistory(file, 3600, 100)) as opened:
        yield opened


def new_conversation(history: ConversationHistory, *pairs: tuple[str, str], system: str | None = None) -> str:
    conversation = ConversationHistory.new_id()
    conversation_state = ConversationState(conversation, system, ())
    for user_text, answer in pairs:
        assert history.add(conversation_state, user_text, answer).kept
        conversation_state = history.recall(conversation)
    return conversation


def user_texts(history: ConversationHistory, conversation: str) -> list[str]:
    return [exchange.asked for exchange in history.recall(conversation, everything=True).exchanges]


def test_turns_are_recalled_in_order(history: ConversationHistory) -> None:
    conversation = new_conversation(history, ("one?", "1"), ("two?", "2"), system="Be brief.")
    conversation_state = history.recall(conversation)
    assert [(e.asked, e.answered) for e in conversation_state.exchanges] == [("one?", "1"), ("two?", "2")]
    assert conversation_state.system == "Be brief."


def test_a_process_killed_after_an_answer_has_lost_nothing(file: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from chatapi.storage.history import *;"
        "h = ConversationHistory(Path(sys.argv[1]), 3600, 100);"
        "h.add(ConversationState('c1', None, ()), 'still there?', 'yes'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, file]).returncode == -9
    with closing(ConversationHistory(file, 3600, 100)) as history:
        assert history.recall("c1").exchanges[0].answered == "yes"


def test_every_commit_waits_for_the_disk(history: ConversationHistory) -> None:
    assert history._disk is not None
    assert history._disk._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert history._disk._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_unknown_conversation_is_rejected_by_name(history: ConversationHistory) -> None:
    with pytest.raises(NotFound, match="'unknown'") as raised:
        history.recall("unknown")
    assert raised.value.code == "unknown_conversation"
    with pytest.raises(NotFound):
        history.remove("unknown")


def test_turns_beyond_the_context_are_stored_but_not_recalled(history: ConversationHistory) -> None:
    conversation = new_conversation(history, ("one?", "1"), ("two?", "2"), ("three?", "3"))
    conversation_state = history.recall(conversation)
    history.add(replace(conversation_state, exchanges=conversation_state.exchanges[2:]), "four?", "4")
    assert [e.asked for e in history.recall(conversation).exchanges] == ["three?", "four?"]
    assert user_texts(history, conversation) == ["one?", "two?", "three?", "four?"]


def test_amended_answer_is_stored_and_a_retracted_one_is_removed(history: ConversationHistory) -> None:
    conversation = new_conversation(history, ("one?", "1"), ("two?", "2"))
    first, second = (each.number for each in history.recall(conversation).exchanges)
    history.amend(conversation, first, "only this was played", "one, please?")
    history.amend(conversation, second, None)
    assert [(e.asked, e.answered) for e in history.recall(conversation).exchanges] == [
        ("one, please?", "only this was played")
    ]


def test_oldest_conversation_is_removed_beyond_the_limit(file: Path) -> None:
    with closing(ConversationHistory(file, 3600, 2)) as history:
        first, second, third = (new_conversation(history, (name, "")) for name in "abc")
        with pytest.raises(NotFound):
            history.recall(first)
        assert history.recall(second) and history.recall(third)


def test_two_processes_may_use_the_same_file(history: ConversationHistory, file: Path) -> None:
    conversation = new_conversation(history, ("one?", "1"))
    with closing(ConversationHistory(file, 3600, 100)) as other:
        other.add(other.recall(conversation), "two?", "2")
    assert [e.asked for e in history.recall(conversation).exchanges] == ["one?", "two?"]


def test_turn_number_is_never_reused_and_amends_only_its_own_conversation(history: ConversationHistory) -> None:
    first = new_conversation(history, ("one?", "1"))
    number = history.recall(first).exchanges[0].number
    history.remove(first)
    second = new_conversation(history, ("two?", "2"))
    history.amend(first, history.recall(second).exchanges[0].number, "a late correction")
    assert history.recall(second).exchanges[0].number > number
    assert history.recall(second).exchanges[0].answered == "2"


def test_file_of_an_older_version_is_read_completely_whatever_its_times(file: Path) -> None:
    older = """
    CREATE TABLE conversations (id TEXT PRIMARY KEY, system TEXT, remembered_from INTEGER NOT NULL DEFAULT 0,
        used REAL NOT NULL) STRICT;
    CREATE TABLE exchanges (number INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations(id)
        ON DELETE CASCADE, asked TEXT NOT NULL, answered TEXT NOT NULL, at REAL NOT NULL) STRICT;
    CREATE INDEX by_use ON conversations (used);
    INSERT INTO conversations VALUES ('a', NULL, 1, 1.0), ('b', 'Be brief.', 2, 9e9);
    INSERT INTO exchanges VALUES (1, 'a', 'one?', '1', 1.0), (2, 'b', 'two?', '2', 9e9);
    """
    with closing(sqlite3.connect(file)) as plain:
        plain.executescript(older)
    with closing(ConversationHistory(file, 3600, 100)) as history:
        assert user_texts(history, "a") == ["one?"] and history.recall("b").system == "Be brief."
        assert history.add(history.recall("a"), "three?", "3").number == 3
        assert not history.problems
    # The older version runs again, as after a failed update, and then this version.
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("INSERT INTO conversations (id, system, used) VALUES ('c', NULL, 5.0)")
        plain.execute("INSERT INTO exchanges (conversation, asked, answered, at) VALUES ('c', 'four?', '4', 5.0)")
        plain.execute("UPDATE observed SET seconds = 1e6")
        plain.execute("UPDATE conversations SET age = 1e6 WHERE id != 'c'")
    with closing(ConversationHistory(file, 3600, 100)) as history:
        assert user_texts(history, "c") == ["four?"] and user_texts(history, "a") == ["one?", "three?"]
        assert history.add(history.recall("c"), "five?", "5").number == 5


def files_with(folder: Path, text: str) -> list[str]:
    """The files of the folder that contain the text."""
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


def test_deleted_conversation_leaves_no_text_in_any_file(
    history: ConversationHistory, file: Path, tmp_path: Path
) -> None:
    conversation = new_conversation(history, (TEXT * 500, TEXT), ("and?", TEXT))
    assert files_with(tmp_path, TEXT)
    history.remove(conversation)
    with pytest.raises(NotFound):
        history.recall(conversation)
    assert files_with(tmp_path, TEXT) == []
    with closing(sqlite3.connect(file)) as plain:
        assert plain.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_conversation_deleted_while_another_process_reads_leaves_no_text_afterwards(
    history: ConversationHistory, file: Path, tmp_path: Path
) -> None:
    conversation = new_conversation(history, (TEXT, TEXT))
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM exchanges").fetchone() == (1,)
        history.remove(conversation)
        assert files_with(tmp_path, TEXT)
        other.rollback()
        history.maintain()
        assert files_with(tmp_path, TEXT) == []
        assert other.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_retracted_and_surplus_turns_leave_no_text_in_any_file(file: Path, tmp_path: Path) -> None:
    with closing(ConversationHistory(file, 3600, 1)) as history:
        conversation = new_conversation(history, (TEXT, "1"))
        history.amend(conversation, history.recall(conversation).exchanges[0].number, None)
        assert files_with(tmp_path, TEXT) == []
        new_conversation(history, (TEXT, "2"))
        new_conversation(history, ("another", "3"))
        assert files_with(tmp_path, TEXT) == []


def test_text_that_an_older_version_deleted_is_erased(file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("PRAGMA secure_delete = OFF")
        plain.execute("CREATE TABLE conversations (id TEXT PRIMARY KEY, system TEXT, remembered_from INTEGER NOT NULL"
                      " DEFAULT 0, used REAL NOT NULL) STRICT")  # fmt: skip
        plain.execute("CREATE TABLE exchanges (number INTEGER PRIMARY KEY, conversation TEXT NOT NULL, asked TEXT NOT"
                      " NULL, answered TEXT NOT NULL, at REAL NOT NULL) STRICT")  # fmt: skip
        plain.execute("INSERT INTO conversations VALUES ('a', NULL, 1, 1.0)")
        plain.execute("INSERT INTO exchanges VALUES (1, 'a', ?, '', 1.0)", (TEXT,))
        plain.execute("DELETE FROM exchanges")
    assert files_with(tmp_path, TEXT)
    with closing(ConversationHistory(file, 3600, 100)):
        assert files_with(tmp_path, TEXT) == []


def test_files_are_readable_only_by_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(ConversationHistory(tmp_path / "data" / "history.sqlite3", 3600, 100)) as history:
            new_conversation(history, ("one?", "1"))
            found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(before)
    assert found == {"history.sqlite3": 0o600, "history.sqlite3-wal": 0o600, "history.sqlite3-shm": 0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
