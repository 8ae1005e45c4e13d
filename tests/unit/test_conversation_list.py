"""The list of stored conversations: order, pages, owners, titles and search, on the disk and in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatapi.errors import NotFound
from chatapi.storage.history import ConversationHistory, ConversationState, ListFilter


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def history(file: Path) -> Iterator[ConversationHistory]:
    with closing(ConversationHistory(file, 3600, 100)) as opened:
        yield opened


def add(history: ConversationHistory, conversation: str, asked: str, answered: str = "yes", owner: str = "") -> None:
    history.add(ConversationState(conversation, None, ()), asked, answered, owner)


EVERYTHING = ListFilter()


def ids(history: ConversationHistory, chosen: ListFilter = EVERYTHING) -> list[str]:
    return [each.id for each in history.listed(chosen)]


def test_the_conversation_used_last_comes_first(history: ConversationHistory) -> None:
    for conversation in ("a", "b", "c", "a"):
        add(history, conversation, f"about {conversation}?")
    found = history.listed(ListFilter())
    assert [(each.id, each.title, each.exchanges) for each in found] == [
        ("a", "about a?", 2), ("c", "about c?", 1), ("b", "about b?", 1),
    ]  # fmt: skip


def test_pages_follow_one_another(history: ConversationHistory) -> None:
    for number in range(7):
        add(history, f"c{number}", "?")
    first = history.listed(ListFilter(most=3))
    second = history.listed(ListFilter(most=3, before=first[-1].latest))
    assert [each.id for each in (*first, *second)] == ["c6", "c5", "c4", "c3", "c2", "c1"]


def test_an_owner_sees_its_own(history: ConversationHistory) -> None:
    add(history, "mine", "?", owner="k1")
    add(history, "yours", "?", owner="k2")
    add(history, "the box's", "?")
    add(history, "mine", "again?", owner="k2")
    assert ids(history, ListFilter(owner="k1")) == ["mine"]
    assert ids(history, ListFilter(owner="k2")) == ["yours"]
    assert set(ids(history)) == {"mine", "yours", "the box's"}


@pytest.mark.parametrize(
    ("search", "found"), [("WALRUS", True), ("straße", True), ("Carpenter", True), ("oyster", False)]
)
def test_search_finds_text_in_any_case(history: ConversationHistory, search: str, found: bool) -> None:
    add(history, "a", "Where is the walrus?", "In the STRASSE.")
    history.rename("a", "The carpenter")
    add(history, "b", "?")
    assert ids(history, ListFilter(search=search)) == (["a"] if found else [])


def test_wildcards_of_sql_are_plain_text(history: ConversationHistory) -> None:
    add(history, "a", "100 % of it")
    add(history, "b", "none of it")
    assert ids(history, ListFilter(search="%")) == ["a"]


def test_a_title_is_kept_and_can_be_taken_back(file: Path) -> None:
    with closing(ConversationHistory(file, 3600, 100)) as history:
        add(history, "a", "  " + "long " * 40, owner="k1")
        history.rename("a", "Holidays")
    with closing(ConversationHistory(file, 3600, 100)) as history:
        assert history.listed(ListFilter(owner="k1"))[0].title == "Holidays"
        history.rename("a", "")
        assert history.listed(ListFilter())[0].title == ("long " * 16).strip() + " "
        with pytest.raises(NotFound):
            history.rename("b", "Nothing")


def test_what_is_deleted_leaves_no_title(file: Path, history: ConversationHistory) -> None:
    add(history, "a", "?")
    history.rename("a", "A secret of mine")
    history.remove("a")
    assert not ids(history)
    assert b"A secret of mine" not in b"".join(each.read_bytes() for each in file.parent.iterdir())


def test_other_documents_are_hidden(history: ConversationHistory) -> None:
    for name in ("resp_1", "conv_1", "c1"):
        add(history, name, "?")
    assert ids(history, ListFilter(hidden=("resp_", "conv_"))) == ["c1"]


def test_expired_conversations_are_not_listed(file: Path) -> None:
    with closing(ConversationHistory(file, 0.0, 100)) as history:
        add(history, "a", "?")
        assert not ids(history)


def test_a_locked_disk_lists_both_places_and_keeps_owners_and_titles(file: Path, history: ConversationHistory) -> None:
    add(history, "old", "?", owner="k1")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        add(history, "new", "?", owner="k1")
        assert not history.kept
        history.rename("new", "In memory")
        other.execute("ROLLBACK")
    assert ids(history, ListFilter(owner="k1")) == ["new", "old"]
    history.close()
    with closing(ConversationHistory(file, 3600, 100)) as again:
        assert [(each.id, each.title) for each in again.listed(ListFilter(owner="k1"))] == [
            ("new", "In memory"), ("old", "?"),
        ]  # fmt: skip


def test_a_file_of_an_older_version_is_listed(file: Path) -> None:
    with closing(ConversationHistory(file, 3600, 100)) as history:
        add(history, "a", "?")
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE labels")
    with closing(ConversationHistory(file, 3600, 100)) as history:
        assert ids(history) == ["a"]
        history.rename("a", "Now it has one")
        assert history.listed(ListFilter())[0].title == "Now it has one"
