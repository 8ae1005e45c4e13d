"""Conversations survive a restart, expire, and are forgotten when asked."""

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

WORDS = "the walrus and the carpenter"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def history(file: Path) -> Iterator[ConversationHistory]:
    with closing(ConversationHistory(file, 3600, 100)) as opened:
        yield opened


def begun(history: ConversationHistory, *pairs: tuple[str, str], system: str | None = None) -> str:
    conversation = ConversationHistory.new_id()
    conversation_state = ConversationState(conversation, system, ())
    for asked, answered in pairs:
        assert history.add(conversation_state, asked, answered).kept
        conversation_state = history.recall(conversation)
    return conversation


def asked(history: ConversationHistory, conversation: str) -> list[str]:
    return [exchange.asked for exchange in history.recall(conversation, everything=True).exchanges]


def test_what_was_said_comes_back_in_order(history: ConversationHistory) -> None:
    conversation = begun(history, ("one?", "1"), ("two?", "2"), system="Be brief.")
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


def test_an_unknown_conversation_is_refused_by_name(history: ConversationHistory) -> None:
    with pytest.raises(NotFound, match="'nobody'") as refused:
        history.recall("nobody")
    assert refused.value.code == "unknown_conversation"
    with pytest.raises(NotFound):
        history.remove("nobody")


def test_what_no_longer_fits_the_model_is_not_recalled_but_kept(history: ConversationHistory) -> None:
    conversation = begun(history, ("one?", "1"), ("two?", "2"), ("three?", "3"))
    conversation_state = history.recall(conversation)
    history.add(replace(conversation_state, exchanges=conversation_state.exchanges[2:]), "four?", "4")
    assert [e.asked for e in history.recall(conversation).exchanges] == ["three?", "four?"]
    assert asked(history, conversation) == ["one?", "two?", "three?", "four?"]


def test_a_corrected_answer_is_kept_and_a_retracted_one_is_not(history: ConversationHistory) -> None:
    conversation = begun(history, ("one?", "1"), ("two?", "2"))
    first, second = (each.number for each in history.recall(conversation).exchanges)
    history.amend(conversation, first, "only this was heard", "one, please?")
    history.amend(conversation, second, None)
    assert [(e.asked, e.answered) for e in history.recall(conversation).exchanges] == [
        ("one, please?", "only this was heard")
    ]


def test_beyond_the_number_kept_the_oldest_leaves(file: Path) -> None:
    with closing(ConversationHistory(file, 3600, 2)) as history:
        first, second, third = (begun(history, (name, "")) for name in "abc")
        with pytest.raises(NotFound):
            history.recall(first)
        assert history.recall(second) and history.recall(third)


def test_two_processes_may_use_the_same_file(history: ConversationHistory, file: Path) -> None:
    conversation = begun(history, ("one?", "1"))
    with closing(ConversationHistory(file, 3600, 100)) as other:
        other.add(other.recall(conversation), "two?", "2")
    assert [e.asked for e in history.recall(conversation).exchanges] == ["one?", "two?"]


def test_a_number_is_never_given_twice_and_corrects_its_own_conversation_alone(history: ConversationHistory) -> None:
    first = begun(history, ("one?", "1"))
    number = history.recall(first).exchanges[0].number
    history.remove(first)
    second = begun(history, ("two?", "2"))
    history.amend(first, history.recall(second).exchanges[0].number, "a late correction")
    assert history.recall(second).exchanges[0].number > number
    assert history.recall(second).exchanges[0].answered == "2"


def test_a_file_of_an_older_version_is_read_whole_whatever_its_times_say(file: Path) -> None:
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
        assert asked(history, "a") == ["one?"] and history.recall("b").system == "Be brief."
        assert history.add(history.recall("a"), "three?", "3").number == 3
        assert not history.problems
    # The older version comes back, as an update that fails makes it do, and then this one again.
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("INSERT INTO conversations (id, system, used) VALUES ('c', NULL, 5.0)")
        plain.execute("INSERT INTO exchanges (conversation, asked, answered, at) VALUES ('c', 'four?', '4', 5.0)")
        plain.execute("UPDATE observed SET seconds = 1e6")
        plain.execute("UPDATE conversations SET age = 1e6 WHERE id != 'c'")
    with closing(ConversationHistory(file, 3600, 100)) as history:
        assert asked(history, "c") == ["four?"] and asked(history, "a") == ["one?", "three?"]
        assert history.add(history.recall("c"), "five?", "5").number == 5


def found_in(folder: Path, words: str) -> list[str]:
    """Files of the folder that hold the words."""
    return [path.name for path in folder.iterdir() if words.encode() in path.read_bytes()]


def test_forgetting_leaves_no_words_in_any_file(history: ConversationHistory, file: Path, tmp_path: Path) -> None:
    conversation = begun(history, (WORDS * 500, WORDS), ("and?", WORDS))
    assert found_in(tmp_path, WORDS)
    history.remove(conversation)
    with pytest.raises(NotFound):
        history.recall(conversation)
    assert found_in(tmp_path, WORDS) == []
    with closing(sqlite3.connect(file)) as plain:
        assert plain.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_forgetting_while_another_process_reads_leaves_no_words_once_it_is_done(
    history: ConversationHistory, file: Path, tmp_path: Path
) -> None:
    conversation = begun(history, (WORDS, WORDS))
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM exchanges").fetchone() == (1,)
        history.remove(conversation)
        assert found_in(tmp_path, WORDS)
        other.rollback()
        history.maintain()
        assert found_in(tmp_path, WORDS) == []
        assert other.execute("SELECT count(*) FROM exchanges").fetchone() == (0,)


def test_retracted_and_surplus_words_leave_every_file_too(file: Path, tmp_path: Path) -> None:
    with closing(ConversationHistory(file, 3600, 1)) as history:
        conversation = begun(history, (WORDS, "1"))
        history.amend(conversation, history.recall(conversation).exchanges[0].number, None)
        assert found_in(tmp_path, WORDS) == []
        begun(history, (WORDS, "2"))
        begun(history, ("another", "3"))
        assert found_in(tmp_path, WORDS) == []


def test_words_that_an_older_version_deleted_leave_the_file(file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("PRAGMA secure_delete = OFF")
        plain.execute("CREATE TABLE conversations (id TEXT PRIMARY KEY, system TEXT, remembered_from INTEGER NOT NULL"
                      " DEFAULT 0, used REAL NOT NULL) STRICT")  # fmt: skip
        plain.execute("CREATE TABLE exchanges (number INTEGER PRIMARY KEY, conversation TEXT NOT NULL, asked TEXT NOT"
                      " NULL, answered TEXT NOT NULL, at REAL NOT NULL) STRICT")  # fmt: skip
        plain.execute("INSERT INTO conversations VALUES ('a', NULL, 1, 1.0)")
        plain.execute("INSERT INTO exchanges VALUES (1, 'a', ?, '', 1.0)", (WORDS,))
        plain.execute("DELETE FROM exchanges")
    assert found_in(tmp_path, WORDS)
    with closing(ConversationHistory(file, 3600, 100)):
        assert found_in(tmp_path, WORDS) == []


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(ConversationHistory(tmp_path / "data" / "history.sqlite3", 3600, 100)) as history:
            begun(history, ("one?", "1"))
            found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(before)
    assert found == {"history.sqlite3": 0o600, "history.sqlite3-wal": 0o600, "history.sqlite3-shm": 0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
