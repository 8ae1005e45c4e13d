"""A store that is damaged, locked, full or read-only: everybody is answered, and nothing is lost without a word."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chatapi.errors import NotFound, NotReady
from chatapi.settings import Settings
from chatapi.storage.history import RETRY_SECONDS, ConversationHistory, ConversationState, SavedExchange
from chatapi.storage.history.store import kind_of
from conftest import RunningServer, serving


class Pause:
    """Time between attempts."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def pause() -> Pause:
    return Pause()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def opened(folder: Path, pause: Pause) -> Callable[..., ConversationHistory]:
    def make(most: int = 100) -> ConversationHistory:
        return ConversationHistory(folder / "history.sqlite3", 3600, most, pause=pause)

    return make


def say(history: ConversationHistory, conversation: str, words: str) -> SavedExchange:
    try:
        before = history.recall(conversation)
    except NotFound:
        before = ConversationState(conversation, None, ())
    return history.add(before, words, "yes")


def asked(history: ConversationHistory, conversation: str) -> list[str]:
    return [exchange.asked for exchange in history.recall(conversation, everything=True).exchanges]


def codes(history: ConversationHistory) -> list[str]:
    return [each.code for each in history.problems]


def aside(folder: Path) -> list[Path]:
    return sorted(folder.glob("history.damaged-*.sqlite3"))


def garbage(file: Path) -> None:
    file.write_bytes(b"this is not a database, but long enough to look at" * 100)


def truncated(file: Path) -> None:
    with closing(sqlite3.connect(file)) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")
    os.truncate(file, file.stat().st_size - 5000)


def overwritten(file: Path) -> None:
    """A hole in the middle, as a card that wears out leaves it; the head is whole."""
    with closing(sqlite3.connect(file)) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * (file.stat().st_size - 4096))


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("CREATE TABLE conversations (title TEXT)")


def stricter(file: Path) -> None:
    """Columns that are there, and one more that wants a value."""
    file.unlink()
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("CREATE TABLE conversations (id TEXT, system TEXT, remembered_from INTEGER, used REAL, age REAL,"
                      " latest INTEGER, colour TEXT NOT NULL)")  # fmt: skip


def view(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("CREATE VIEW conversations AS SELECT 1 AS id")


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "something").write_text("in it")


DAMAGES = (garbage, truncated, overwritten, foreign, stricter, view, directory)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    damage: Callable[[Path], None], folder: Path, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        for number in range(20):
            say(history, f"c{number}", "one? " * 100)
    damage(folder / "history.sqlite3")
    with closing(opened()) as history:
        assert codes(history) == ["history_set_aside"]
        [kept] = aside(folder)
        assert kept.name in history.problems[0].message
        with pytest.raises(NotFound):
            history.recall("c0")
        assert say(history, "c0", "two?").kept
        assert asked(history, "c0") == ["two?"]
    with closing(opened()) as history:
        assert asked(history, "c0") == ["two?"]
        assert codes(history) == ["history_set_aside"], "the warning stays until the file is gone"
        assert len(aside(folder)) == 1
    shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    with closing(opened()) as history:
        assert not history.problems


def test_damage_that_is_met_while_running_costs_no_answer_and_no_word_of_the_conversation(
    folder: Path, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        say(history, "a", "one?")
        before = history.recall("a")
        with closing(sqlite3.connect(folder / "history.sqlite3")) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with (folder / "history.sqlite3").open("r+b") as file:
            file.write(b"\xff" * file.seek(0, os.SEEK_END))
            file.seek(0)
            file.write(b"\xff" * 16384)
        saved = history.add(before, "two?", "2")
        assert saved.kept and codes(history) == ["history_set_aside"]
        assert asked(history, "a") == ["one?", "two?"]
        history.remove("a")
        with pytest.raises(NotFound):
            history.recall("a")
    assert len(aside(folder)) == 1


def test_a_file_that_is_removed_while_running_takes_no_later_answer_with_it(
    folder: Path, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        say(history, "a", "one?")
        before = history.recall("a")
        for file in folder.iterdir():
            file.unlink()
        assert history.add(before, "two?", "2").kept
        assert "removed" in history.problems[0].message
    with closing(opened()) as history:
        assert asked(history, "a") == ["one?", "two?"]


@contextmanager
def locked(file: Path, how: str = "BEGIN EXCLUSIVE") -> Iterator[None]:
    """Another process holds the file."""
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "[db.execute(each) for each in sys.argv[2].split(';')]; print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(file), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(30)


def test_a_file_that_another_process_locks_is_waited_for_once_and_written_later(
    folder: Path, pause: Pause, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        say(history, "a", "one?")
        with locked(folder / "history.sqlite3"):
            begun = time.monotonic()
            for number in range(50):
                assert not say(history, f"c{number % 5}", f"{number}?").kept
            assert not say(history, "a", "two?").kept
            assert time.monotonic() - begun < 20, "each waited anew"
            assert asked(history, "a") == ["one?", "two?"]
            assert codes(history) == ["history_not_kept"] and "locked" in history.problems[0].message
            pause.seconds += RETRY_SECONDS
            assert not say(history, "a", "three?").kept
            with pytest.raises(NotReady) as refused:
                history.remove("a")
            assert refused.value.code == "history_locked" and refused.value.retry_after
        pause.seconds += RETRY_SECONDS
        history.maintain()
        assert not history.problems
        assert say(history, "a", "four?").kept
    with closing(opened()) as history:
        assert asked(history, "a") == ["one?", "two?", "three?", "four?"]
        assert asked(history, "c4") == [f"{number}?" for number in range(4, 50, 5)]


def test_a_file_that_is_locked_for_reading_too_says_later_and_not_never(
    folder: Path, pause: Pause, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        say(history, "a", "one?")
    with locked(folder / "history.sqlite3", "PRAGMA locking_mode = EXCLUSIVE;BEGIN EXCLUSIVE"):
        with closing(opened()) as history:
            assert codes(history) == ["history_not_kept"]
            with pytest.raises(NotReady) as refused:
                history.recall("a")
            assert refused.value.code == "history_locked"
            history.add(ConversationState("b", None, ()), "new?", "yes")
            assert asked(history, "b") == ["new?"]


def test_what_is_corrected_and_forgotten_in_memory_is_so_on_the_disk_later(
    folder: Path, pause: Pause, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history, closing(opened()) as other:
        for words in ("one?", "two?", "three?"):
            say(history, "a", words)
        one, two, _ = (each.number for each in history.recall("a").exchanges)
        with locked(folder / "history.sqlite3"):
            say(history, "a", "four?")
            say(history, "b", "mine?")
            four = history.recall("a").exchanges[-1].number
            history.amend("a", one, "heard half", "one, corrected?")
            history.amend("a", two, None)
            history.amend("a", four, "heard all")
            history.remove("b")
            with pytest.raises(NotFound):
                history.recall("b")
        other.add(other.recall("a"), "from elsewhere?", "yes")
        say(other, "c", "only there?")
        pause.seconds += RETRY_SECONDS
        history.maintain()
        assert not history.problems
        found = {each.asked: each.answered for each in other.recall("a", everything=True).exchanges}
        assert found == {
            "one, corrected?": "heard half", "three?": "yes", "four?": "heard all", "from elsewhere?": "yes",
        }  # fmt: skip
        assert asked(other, "c") == ["only there?"]
        with pytest.raises(NotFound):
            other.recall("b")
        numbers = [each.number for each in history.recall("a").exchanges]
        assert numbers == sorted(set(numbers))


def test_what_another_process_forgets_meanwhile_stays_forgotten(
    folder: Path, pause: Pause, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history, closing(opened()) as other:
        say(history, "a", "one?")
        with locked(folder / "history.sqlite3"):
            say(history, "a", "two?")
        other.remove("a")
        pause.seconds += RETRY_SECONDS
        history.maintain()
        with pytest.raises(NotFound):
            history.recall("a")


def test_a_process_that_ends_writes_what_it_had_in_memory(
    folder: Path, opened: Callable[..., ConversationHistory]
) -> None:
    history = opened()
    with locked(folder / "history.sqlite3"):
        say(history, "a", "one?")
    history.close()
    with closing(opened()) as again:
        assert asked(again, "a") == ["one?"]


def test_a_process_that_ends_and_cannot_write_says_what_is_lost(
    folder: Path, opened: Callable[..., ConversationHistory], caplog: pytest.LogCaptureFixture
) -> None:
    history = opened()
    with locked(folder / "history.sqlite3"):
        say(history, "a", "one?")
        history.close()
    assert "1 conversations were never written and are lost" in caplog.text


def test_what_is_kept_in_memory_is_bounded(
    folder: Path, pause: Pause, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened(most=3)) as history, locked(folder / "history.sqlite3"):
        for number in range(5):
            say(history, f"c{number}", "hello?")
        assert [number for number in range(5) if _is_known(history, f"c{number}")] == [2, 3, 4]
        for number in range(10):
            say(history, f"c{number}", "x" * (10 << 20))
        assert history._memory is not None
        assert history._memory._db.execute("PRAGMA page_count").fetchone()[0] * 4096 <= 64 << 20
        assert asked(history, "c9")


def _is_known(history: ConversationHistory, conversation: str) -> bool:
    try:
        return bool(history.recall(conversation))
    except NotFound:
        return False


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("file is not a database", "damaged"),
        ("database disk image is malformed", "damaged"),
        ("database is locked", "locked"),
        ("database or disk is full", "unwritable"),
        ("disk I/O error", "unwritable"),
        ("attempt to write a readonly database", "unwritable"),
        ("unable to open database file", "unwritable"),
    ],
)
def test_what_an_error_means_for_the_file(told: str, kind: str) -> None:
    assert kind_of(sqlite3.OperationalError(told)) == kind


def test_a_box_with_a_damaged_store_starts_answers_and_tells(
    fake_settings: Callable[..., Settings], data: Path
) -> None:
    garbage(data / "history.sqlite3")
    with serving(fake_settings()) as box:
        ready = box.client.get("/ready").json()
        assert ready["ready"] and [each["code"] for each in ready["warnings"]] == ["history_set_aside"]
        assert str(data) not in str(ready)
        health = box.client.get("/health").json()
        assert health["status"] == "ok" and "history.damaged-" in health["warnings"][0]["message"]
        assert "kept" not in box.client.post("/completion", json={"prompt": "hello"}).json()


def test_a_box_whose_store_is_locked_answers_and_tells_each_caller(fake_server: RunningServer) -> None:
    first = fake_server.client.post("/completion", json={"prompt": "hello"}).json()
    file = fake_server.appliance.settings.data / "history.sqlite3"
    with locked(file):
        asked_again = {"prompt": "and?", "conversation": first["conversation"]}
        second = fake_server.client.post("/completion", json=asked_again).json()
        assert second["kept"] is False and second["reply"]
        voice = fake_server.client.post("/completion", json=asked_again, headers={"Accept": "audio/wav"})
        assert voice.headers["x-chatapi-kept"] == "false"
        events = fake_server.client.post("/completion", json={**asked_again, "stream": True}).text
        assert '"kept": false' in events or '"kept":false' in events
        assert [each["code"] for each in fake_server.client.get("/ready").json()["warnings"]] == ["history_not_kept"]
        assert fake_server.client.get("/health").json()["status"] == "degraded"
        assert "chatapi_history_kept 0.0" in fake_server.client.get("/metrics").text
        assert len(fake_server.client.get(f"/conversations/{first['conversation']}").json()["messages"]) == 8
        refused = fake_server.client.delete(f"/conversations/{first['conversation']}")
        assert (refused.status_code, refused.json()["code"]) == (503, "history_locked")
        assert refused.headers["retry-after"]
    assert fake_server.client.delete(f"/conversations/{first['conversation']}").status_code == 204
    assert fake_server.client.get("/ready").json() == {"ready": True}


def test_the_set_aside_file_stays_private(folder: Path, opened: Callable[..., ConversationHistory]) -> None:
    with closing(opened()) as history:
        say(history, "a", "one?")
    garbage(folder / "history.sqlite3")
    with closing(opened()):
        assert not any(stat.S_IMODE(file.stat().st_mode) & 0o077 for file in folder.iterdir())
