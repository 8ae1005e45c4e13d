"""A damaged or locked store: every client is answered, and losses are reported."""

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
from chatapi.storage.history import ConversationHistory, ConversationState, SavedExchange
from chatapi.storage.history.conversation_history import RETRY_SECONDS
from chatapi.storage.sqlite_errors import kind_of
from conftest import RunningServer, serving


class RetryClock:
    """A fake clock for the pauses between attempts."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def retry_clock() -> RetryClock:
    return RetryClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_history(folder: Path, retry_clock: RetryClock) -> Callable[..., ConversationHistory]:
    def make(most: int = 100) -> ConversationHistory:
        return ConversationHistory(folder / "history.sqlite3", 3600, most, pause=retry_clock)

    return make


def add_turn(history: ConversationHistory, conversation: str, text: str) -> SavedExchange:
    try:
        before = history.recall(conversation)
    except NotFound:
        before = ConversationState(conversation, None, ())
    return history.add(before, text, "yes")


def user_texts(history: ConversationHistory, conversation: str) -> list[str]:
    return [exchange.asked for exchange in history.recall(conversation, everything=True).exchanges]


def problem_codes(history: ConversationHistory) -> list[str]:
    return [each.code for each in history.problems]


def set_aside_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("history.damaged-*.sqlite3"))


def garbage(file: Path) -> None:
    file.write_bytes(b"this is not a database, but long enough to look at" * 100)


def truncated(file: Path) -> None:
    with closing(sqlite3.connect(file)) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")
    os.truncate(file, file.stat().st_size - 5000)


def overwritten(file: Path) -> None:
    """Overwrites everything behind an intact header, as a failing SD card does."""
    with closing(sqlite3.connect(file)) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")
    with file.open("r+b") as database:
        database.seek(4096)
        database.write(b"\xff" * (file.stat().st_size - 4096))


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as plain, plain:
        plain.execute("CREATE TABLE conversations (title TEXT)")


def stricter(file: Path) -> None:
    """A table with the expected columns and another one that must not be null."""
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
def test_damaged_file_is_set_aside_and_replaced(
    damage: Callable[[Path], None], folder: Path, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        for number in range(20):
            add_turn(history, f"c{number}", "one? " * 100)
    damage(folder / "history.sqlite3")
    with closing(open_history()) as history:
        assert problem_codes(history) == ["history_set_aside"]
        [renamed] = set_aside_files(folder)
        assert renamed.name in history.problems[0].message
        with pytest.raises(NotFound):
            history.recall("c0")
        assert add_turn(history, "c0", "two?").kept
        assert user_texts(history, "c0") == ["two?"]
    with closing(open_history()) as history:
        assert user_texts(history, "c0") == ["two?"]
        assert problem_codes(history) == ["history_set_aside"], "the warning stays until the file is gone"
        assert len(set_aside_files(folder)) == 1
    shutil.rmtree(renamed) if renamed.is_dir() else renamed.unlink()
    with closing(open_history()) as history:
        assert not history.problems


def test_damage_found_while_running_loses_no_turn(
    folder: Path, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a", "one?")
        before = history.recall("a")
        with closing(sqlite3.connect(folder / "history.sqlite3")) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with (folder / "history.sqlite3").open("r+b") as file:
            file.write(b"\xff" * file.seek(0, os.SEEK_END))
            file.seek(0)
            file.write(b"\xff" * 16384)
        saved = history.add(before, "two?", "2")
        assert saved.kept and problem_codes(history) == ["history_set_aside"]
        assert user_texts(history, "a") == ["one?", "two?"]
        history.remove("a")
        with pytest.raises(NotFound):
            history.recall("a")
    assert len(set_aside_files(folder)) == 1


def test_file_removed_while_running_loses_no_later_turn(
    folder: Path, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a", "one?")
        before = history.recall("a")
        for file in folder.iterdir():
            file.unlink()
        assert history.add(before, "two?", "2").kept
        assert "removed" in history.problems[0].message
    with closing(open_history()) as history:
        assert user_texts(history, "a") == ["one?", "two?"]


@contextmanager
def locked(file: Path, statements: str = "BEGIN EXCLUSIVE") -> Iterator[None]:
    """Locks the file in another process."""
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "[db.execute(each) for each in sys.argv[2].split(';')]; print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(file), statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(30)


def test_locked_file_is_waited_for_once_and_written_later(
    folder: Path, retry_clock: RetryClock, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a", "one?")
        with locked(folder / "history.sqlite3"):
            started = time.monotonic()
            for number in range(50):
                assert not add_turn(history, f"c{number % 5}", f"{number}?").kept
            assert not add_turn(history, "a", "two?").kept
            assert time.monotonic() - started < 20, "every turn waited"
            assert user_texts(history, "a") == ["one?", "two?"]
            assert problem_codes(history) == ["history_not_kept"] and "locked" in history.problems[0].message
            retry_clock.seconds += RETRY_SECONDS
            assert not add_turn(history, "a", "three?").kept
            with pytest.raises(NotReady) as raised:
                history.remove("a")
            assert raised.value.code == "history_locked" and raised.value.retry_after
        retry_clock.seconds += RETRY_SECONDS
        history.maintain()
        assert not history.problems
        assert add_turn(history, "a", "four?").kept
    with closing(open_history()) as history:
        assert user_texts(history, "a") == ["one?", "two?", "three?", "four?"]
        assert user_texts(history, "c4") == [f"{number}?" for number in range(4, 50, 5)]


def test_file_locked_for_reading_is_reported_as_temporary(
    folder: Path, retry_clock: RetryClock, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a", "one?")
    with locked(folder / "history.sqlite3", "PRAGMA locking_mode = EXCLUSIVE;BEGIN EXCLUSIVE"):
        with closing(open_history()) as history:
            assert problem_codes(history) == ["history_not_kept"]
            with pytest.raises(NotReady) as raised:
                history.recall("a")
            assert raised.value.code == "history_locked"
            history.add(ConversationState("b", None, ()), "new?", "yes")
            assert user_texts(history, "b") == ["new?"]


def test_amendments_and_deletions_in_memory_reach_the_disk_later(
    folder: Path, retry_clock: RetryClock, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history, closing(open_history()) as other:
        for text in ("one?", "two?", "three?"):
            add_turn(history, "a", text)
        one, two, _ = (each.number for each in history.recall("a").exchanges)
        with locked(folder / "history.sqlite3"):
            add_turn(history, "a", "four?")
            add_turn(history, "b", "mine?")
            four = history.recall("a").exchanges[-1].number
            history.amend("a", one, "half played", "one, corrected?")
            history.amend("a", two, None)
            history.amend("a", four, "all played")
            history.remove("b")
            with pytest.raises(NotFound):
                history.recall("b")
        other.add(other.recall("a"), "from elsewhere?", "yes")
        add_turn(other, "c", "only there?")
        retry_clock.seconds += RETRY_SECONDS
        history.maintain()
        assert not history.problems
        found = {each.asked: each.answered for each in other.recall("a", everything=True).exchanges}
        assert found == {
            "one, corrected?": "half played", "three?": "yes", "four?": "all played", "from elsewhere?": "yes",
        }  # fmt: skip
        assert user_texts(other, "c") == ["only there?"]
        with pytest.raises(NotFound):
            other.recall("b")
        numbers = [each.number for each in history.recall("a").exchanges]
        assert numbers == sorted(set(numbers))


def test_conversation_deleted_by_another_process_stays_deleted(
    folder: Path, retry_clock: RetryClock, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history, closing(open_history()) as other:
        add_turn(history, "a", "one?")
        with locked(folder / "history.sqlite3"):
            add_turn(history, "a", "two?")
        other.remove("a")
        retry_clock.seconds += RETRY_SECONDS
        history.maintain()
        with pytest.raises(NotFound):
            history.recall("a")


def test_exit_writes_the_turns_in_memory(folder: Path, open_history: Callable[..., ConversationHistory]) -> None:
    history = open_history()
    with locked(folder / "history.sqlite3"):
        add_turn(history, "a", "one?")
    history.close()
    with closing(open_history()) as again:
        assert user_texts(again, "a") == ["one?"]


def test_exit_that_cannot_write_logs_the_loss(
    folder: Path, open_history: Callable[..., ConversationHistory], caplog: pytest.LogCaptureFixture
) -> None:
    history = open_history()
    with locked(folder / "history.sqlite3"):
        add_turn(history, "a", "one?")
        history.close()
    assert "1 conversations were never written and are lost" in caplog.text


def test_turns_in_memory_are_bounded(
    folder: Path, retry_clock: RetryClock, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history(most=3)) as history, locked(folder / "history.sqlite3"):
        for number in range(5):
            add_turn(history, f"c{number}", "hello?")
        assert [number for number in range(5) if _is_known(history, f"c{number}")] == [2, 3, 4]
        for number in range(10):
            add_turn(history, f"c{number}", "x" * (10 << 20))
        assert history._memory is not None
        assert history._memory._db.execute("PRAGMA page_count").fetchone()[0] * 4096 <= 64 << 20
        assert user_texts(history, "c9")


def _is_known(history: ConversationHistory, conversation: str) -> bool:
    try:
        return bool(history.recall(conversation))
    except NotFound:
        return False


@pytest.mark.parametrize(
    ("message", "kind"),
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
def test_sqlite_errors_are_classified(message: str, kind: str) -> None:
    assert kind_of(sqlite3.OperationalError(message)) == kind


def test_server_with_a_damaged_store_answers_with_a_warning(fake_settings: Callable[..., Settings], data: Path) -> None:
    garbage(data / "history.sqlite3")
    with serving(fake_settings()) as server:
        ready = server.client.get("/ready").json()
        assert ready["ready"] and [each["code"] for each in ready["warnings"]] == ["history_set_aside"]
        assert str(data) not in str(ready)
        health = server.client.get("/health").json()
        assert health["status"] == "ok" and "history.damaged-" in health["warnings"][0]["message"]
        assert "kept" not in server.client.post("/completion", json={"prompt": "hello"}).json()


def test_server_with_a_locked_store_answers_and_informs_every_client(fake_server: RunningServer) -> None:
    first = fake_server.client.post("/completion", json={"prompt": "hello"}).json()
    file = fake_server.appliance.settings.data / "history.sqlite3"
    with locked(file):
        question = {"prompt": "and?", "conversation": first["conversation"]}
        second = fake_server.client.post("/completion", json=question).json()
        assert second["kept"] is False and second["reply"]
        voice = fake_server.client.post("/completion", json=question, headers={"Accept": "audio/wav"})
        assert voice.headers["x-chatapi-kept"] == "false"
        events = fake_server.client.post("/completion", json={**question, "stream": True}).text
        assert '"kept": false' in events or '"kept":false' in events
        assert [each["code"] for each in fake_server.client.get("/ready").json()["warnings"]] == ["history_not_kept"]
        assert fake_server.client.get("/health").json()["status"] == "degraded"
        assert "chatapi_history_kept 0.0" in fake_server.client.get("/metrics").text
        assert len(fake_server.client.get(f"/conversations/{first['conversation']}").json()["messages"]) == 8
        rejected = fake_server.client.delete(f"/conversations/{first['conversation']}")
        assert (rejected.status_code, rejected.json()["code"]) == (503, "history_locked")
        assert rejected.headers["retry-after"]
    assert fake_server.client.delete(f"/conversations/{first['conversation']}").status_code == 204
    assert fake_server.client.get("/ready").json() == {"ready": True}


def test_the_set_aside_file_stays_private(folder: Path, open_history: Callable[..., ConversationHistory]) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a", "one?")
    garbage(folder / "history.sqlite3")
    with closing(open_history()):
        assert not any(stat.S_IMODE(file.stat().st_mode) & 0o077 for file in folder.iterdir())
