"""Data directories that are full or read-only: the box starts and answers, and says what it cannot keep."""

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
from chatapi.storage.history import RETRY_SECONDS, ConversationHistory
from conftest import FAKE_ENGINES
from test_history_faults import Pause, asked, codes, garbage, say
from test_service import free_port


@pytest.fixture
def pause() -> Pause:
    return Pause()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB that is full soon and can be made read-only."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def filled(folder: Path) -> Path:
    """A file that takes the rest of the disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


def test_a_disk_that_fills_up_in_mid_conversation(small: Path, pause: Pause) -> None:
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100, pause=pause)) as history:
        assert say(history, "a", "one?").kept
        ballast = filled(small)
        saved = [say(history, "a", f"{number}: " + "x" * 50_000) for number in range(6)]
        assert not saved[-1].kept and codes(history) == ["history_not_kept"]
        assert "full" in history.problems[0].message
        assert len(asked(history, "a")) == 7
        ballast.unlink()
        pause.seconds += RETRY_SECONDS
        assert say(history, "a", "last?").kept and not history.problems
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100)) as history:
        found = asked(history, "a")
        assert (found[0], found[-1], len(found)) == ("one?", "last?", 8)


def test_a_disk_that_is_full_at_the_start(small: Path, pause: Pause) -> None:
    filled(small)
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100, pause=pause)) as history:
        assert codes(history) == ["history_not_kept"]
        assert not say(history, "a", "one?").kept
        assert asked(history, "a") == ["one?"]
        (small / "ballast").unlink()
        pause.seconds += RETRY_SECONDS
        history.maintain()
        assert not history.problems
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100)) as history:
        assert asked(history, "a") == ["one?"]


def test_a_disk_that_becomes_read_only_in_mid_conversation_and_back(small: Path, pause: Pause) -> None:
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100, pause=pause)) as history:
        say(history, "old", "before?")
        say(history, "a", "one?")
        history._close_disk()
        history._open(1.0)
        history._disk._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        history._close_disk()
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        history._switch_to_memory("unwritable", OSError(30, "Read-only file system"))
        assert not say(history, "a", "two?").kept
        assert asked(history, "a") == ["one?", "two?"] and asked(history, "old") == ["before?"]
        with pytest.raises(StorageError):
            history.remove("old")
        pause.seconds += RETRY_SECONDS
        assert not say(history, "a", "three?").kept
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
        pause.seconds += RETRY_SECONDS
        assert say(history, "a", "four?").kept
        assert asked(history, "a") == ["one?", "two?", "three?", "four?"]


def test_a_start_on_a_read_only_disk_recalls_what_is_there(small: Path, pause: Pause) -> None:
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100)) as history:
        say(history, "a", "one?")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100, pause=pause)) as history:
        assert codes(history) == ["history_not_kept"]
        assert asked(history, "a") == ["one?"]
        assert not say(history, "a", "two?").kept
        assert asked(history, "a") == ["one?", "two?"]
        with pytest.raises(NotFound):
            history.recall("b")


def test_a_damaged_file_on_a_read_only_disk_is_no_reason_not_to_answer(small: Path, pause: Pause) -> None:
    garbage(small / "history.sqlite3")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with closing(ConversationHistory(small / "history.sqlite3", 3600, 100, pause=pause)) as history:
        assert codes(history) == ["history_not_kept"] and "renamed" in history.problems[0].message
        assert not say(history, "a", "one?").kept
        assert asked(history, "a") == ["one?"]


def test_a_folder_that_cannot_be_made_is_no_reason_not_to_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with closing(ConversationHistory(tmp_path / "file" / "data" / "history.sqlite3", 3600, 100)) as history:
        assert codes(history) == ["history_not_kept"]
        assert not say(history, "a", "one?").kept
        assert asked(history, "a") == ["one?"]


def test_serve_starts_and_answers_where_nothing_can_be_written(small: Path, tmp_path: Path) -> None:
    (small / "audit.log").mkdir()
    (small / "manifests").mkdir()
    (small / "manifests" / "broken.toml").write_text("{")
    garbage(small / "history.sqlite3")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    port = free_port()
    chosen = [*FAKE_ENGINES, f"data={small}", f"server.port={port}", "server.tls=true", "log.audit=true"]
    command = [sys.executable, "-m", "chatapi", "serve", *(f"--set={each}" for each in chosen)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    secure = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=30)
    try:
        ready = _once_ready(secure, process)
        assert [each["code"] for each in ready["warnings"]] == ["history_not_kept"], (tmp_path / "log").read_text()
        first = secure.post("/completion", json={"prompt": "hello"}).json()
        assert first["reply"] and first["kept"] is False
        second = secure.post("/completion", json={"prompt": "and?", "conversation": first["conversation"]})
        assert second.status_code == 200
        assert len(secure.get(f"/conversations/{first['conversation']}").json()["messages"]) == 4
        assert secure.get("/certificate").status_code == 404
    finally:
        secure.close()
        process.terminate()
        process.wait(30)
    told = (tmp_path / "log").read_text()
    assert "Traceback" not in told
    for words in ("audit.log cannot be written", "temporary certificate", "were never written and are lost"):
        assert words in told


def _once_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> Any:
    for _ in range(600):
        assert process.poll() is None
        with suppress(httpx.TransportError):
            reply = client.get("/ready")
            if reply.status_code == 200:
                return reply.json()
        time.sleep(0.1)
    raise AssertionError("it did not become ready")
