"""Full and read-only data directories: the server starts and answers, and reports what it cannot store."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatapi.errors import NotFound, StorageError
from chatapi.storage.history import ConversationHistory
from chatapi.storage.history.conversation_history import RETRY_SECONDS
from conftest import FAKE_ENGINES
from test_history_faults import RetryClock, add_turn, garbage, problem_codes, user_texts
from test_service import free_port


@pytest.fixture
def retry_clock() -> RetryClock:
    return RetryClock()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which is soon full and can be made read-only."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(folder: Path) -> Path:
    """Fills the disk with a file, which it returns."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


def test_turns_on_a_disk_that_fills_up_are_written_later(small_disk: Path, retry_clock: RetryClock) -> None:
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100, pause=retry_clock)) as history:
        assert add_turn(history, "a", "one?").kept
        ballast = fill_disk(small_disk)
        saved = [add_turn(history, "a", f"{number}: " + "x" * 50_000) for number in range(6)]
        assert not saved[-1].kept and problem_codes(history) == ["history_not_kept"]
        assert "full" in history.problems[0].message
        assert len(user_texts(history, "a")) == 7
        ballast.unlink()
        retry_clock.seconds += RETRY_SECONDS
        assert add_turn(history, "a", "last?").kept and not history.problems
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100)) as history:
        found = user_texts(history, "a")
        assert (found[0], found[-1], len(found)) == ("one?", "last?", 8)


def test_turns_on_a_disk_full_at_the_start_are_written_later(small_disk: Path, retry_clock: RetryClock) -> None:
    fill_disk(small_disk)
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100, pause=retry_clock)) as history:
        assert problem_codes(history) == ["history_not_kept"]
        assert not add_turn(history, "a", "one?").kept
        assert user_texts(history, "a") == ["one?"]
        (small_disk / "ballast").unlink()
        retry_clock.seconds += RETRY_SECONDS
        history.maintain()
        assert not history.problems
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100)) as history:
        assert user_texts(history, "a") == ["one?"]


def test_turns_on_a_disk_that_becomes_read_only_are_written_later(small_disk: Path, retry_clock: RetryClock) -> None:
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100, pause=retry_clock)) as history:
        add_turn(history, "old", "before?")
        add_turn(history, "a", "one?")
        history._close_disk()
        history._open(1.0)
        history._disk._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        history._close_disk()
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        history._switch_to_memory("unwritable", OSError(30, "Read-only file system"))
        assert not add_turn(history, "a", "two?").kept
        assert user_texts(history, "a") == ["one?", "two?"] and user_texts(history, "old") == ["before?"]
        with pytest.raises(StorageError):
            history.remove("old")
        retry_clock.seconds += RETRY_SECONDS
        assert not add_turn(history, "a", "three?").kept
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        retry_clock.seconds += RETRY_SECONDS
        assert add_turn(history, "a", "four?").kept
        assert user_texts(history, "a") == ["one?", "two?", "three?", "four?"]


def test_start_on_a_read_only_disk_recalls_stored_conversations(small_disk: Path, retry_clock: RetryClock) -> None:
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100)) as history:
        add_turn(history, "a", "one?")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100, pause=retry_clock)) as history:
        assert problem_codes(history) == ["history_not_kept"]
        assert user_texts(history, "a") == ["one?"]
        assert not add_turn(history, "a", "two?").kept
        assert user_texts(history, "a") == ["one?", "two?"]
        with pytest.raises(NotFound):
            history.recall("b")


def test_damaged_file_on_a_read_only_disk_does_not_stop_turns(small_disk: Path, retry_clock: RetryClock) -> None:
    garbage(small_disk / "history.sqlite3")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with closing(ConversationHistory(small_disk / "history.sqlite3", 3600, 100, pause=retry_clock)) as history:
        assert problem_codes(history) == ["history_not_kept"] and "renamed" in history.problems[0].message
        assert not add_turn(history, "a", "one?").kept
        assert user_texts(history, "a") == ["one?"]


def test_folder_that_cannot_be_created_does_not_stop_turns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with closing(ConversationHistory(tmp_path / "file" / "data" / "history.sqlite3", 3600, 100)) as history:
        assert problem_codes(history) == ["history_not_kept"]
        assert not add_turn(history, "a", "one?").kept
        assert user_texts(history, "a") == ["one?"]


def test_serve_starts_and_answers_with_a_read_only_data_directory(small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "audit.log").mkdir()
    (small_disk / "manifests").mkdir()
    (small_disk / "manifests" / "broken.toml").write_text("{")
    garbage(small_disk / "history.sqlite3")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    port = free_port()
    chosen = [*FAKE_ENGINES, f"data={small_disk}", f"server.port={port}", "server.tls=true", "log.audit=true"]
    command = [sys.executable, "-m", "chatapi", "serve", *(f"--set={each}" for each in chosen)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=30)
    try:
        ready = _once_ready(client, process)
        assert [each["code"] for each in ready["warnings"]] == ["history_not_kept"], (tmp_path / "log").read_text()
        first = client.post("/completion", json={"prompt": "hello"}).json()
        assert first["reply"] and first["kept"] is False
        second = client.post("/completion", json={"prompt": "and?", "conversation": first["conversation"]})
        assert second.status_code == 200
        assert len(client.get(f"/conversations/{first['conversation']}").json()["messages"]) == 4
        assert client.get("/certificate").status_code == 404
    finally:
        client.close()
        process.terminate()
        process.wait(30)
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text
    for message in ("audit.log cannot be written", "temporary certificate", "were never written and are lost"):
        assert message in log_text


def _once_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> Any:
    for _ in range(600):
        assert process.poll() is None
        with suppress(httpx.TransportError):
            reply = client.get("/ready")
            if reply.status_code == 200:
                return reply.json()
        time.sleep(0.1)
    raise AssertionError("the server did not become ready")
