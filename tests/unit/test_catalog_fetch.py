"""Interrupted fetches of models, and fetches to a full or read-only disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.catalog import Catalog, FetchProgress
from chatapi.errors import StorageError
from chatapi.storage.atomic_files import RESERVE
from file_server import FileServer, serve_files
from user_models import CONTENT, write_manifest


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    with serve_files() as files:
        yield files


@pytest.fixture
def data(tmp_path: Path, file_server: FileServer) -> Path:
    """A data directory whose manifests name one model, `small`, that the file server has."""
    write_manifest(tmp_path, "small", file_server.put("weights", CONTENT))
    return tmp_path


NO_PAUSES = (0.0,)

CHILD = """
import sys
from pathlib import Path
from chatapi.catalog import Catalog
Catalog(Path(sys.argv[1]), (0.0,)).fetch("small", lambda progress: print(progress.step, progress.done, flush=True))
"""


def fetch_process(data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(data)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_repeatedly_killed_fetch_resumes_each_time(data: Path, file_server: FileServer) -> None:
    file_server.items["weights"].cuts, file_server.items["weights"].stall = [100_000, 100_000, 100_000], True
    for _ in range(3):
        with fetch_process(data) as process:
            assert file_server.stalled.acquire(timeout=60)
            assert process.stdout is not None
            arrived = f"download {range_starts(file_server)[-1] + 100_000}"
            assert any(line.strip() == arrived for line in process.stdout)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (data / "models" / "small").exists()
    with fetch_process(data) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert Catalog(data).open("small").files["weights"].read_bytes() == CONTENT
    first, second, third, fourth = range_starts(file_server)
    assert first == 0 < second < third < fourth


def range_starts(file_server: FileServer) -> list[int]:
    """The first byte of each request's range."""
    return [int(wanted[6:-1]) if wanted else 0 for _, wanted in file_server.requests]


def test_keyboard_interrupt_keeps_the_partial_download(data: Path, file_server: FileServer) -> None:
    def interrupt(progress: FetchProgress) -> None:
        if progress.done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Catalog(data).fetch("small", interrupt)
    assert not (data / "models" / "small").exists()
    Catalog(data).fetch("small")
    assert file_server.requests[-1][1].startswith("bytes=")
    assert Catalog(data).open("small").files["weights"].read_bytes() == CONTENT


def test_fetch_killed_between_its_last_two_renames_downloads_nothing_more(data: Path, file_server: FileServer) -> None:
    catalog = Catalog(data)
    folder = catalog.fetch("small").folder
    work = data / "models" / ".partial" / "small"
    work.mkdir()
    folder.rename(work / "ready")
    catalog.fetch("small")
    assert catalog.open("small").files["weights"].read_bytes() == CONTENT
    assert len(file_server.requests) == 1


def test_two_processes_share_one_fetch(data: Path, file_server: FileServer) -> None:
    file_server.items["weights"].cuts, file_server.items["weights"].stall = [100_000], True
    waiting = threading.Event()

    def report(progress: FetchProgress) -> None:
        if progress.step == "wait":
            waiting.set()

    with fetch_process(data) as first:
        assert file_server.stalled.acquire(timeout=60)
        second = threading.Thread(target=lambda: Catalog(data, NO_PAUSES).fetch("small", report))
        second.start()
        assert waiting.wait(60)
        file_server.resume.set()
        second.join(60)
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert [wanted for _, wanted in file_server.requests] == ["", "bytes=100000-"]
    assert Catalog(data).verify("small") == []


@pytest.fixture
def small_disk(tmp_path: Path, file_server: FileServer) -> Iterator[Path]:
    """A data directory on a separate disk of 20 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    write_manifest(disk, "small", file_server.put("weights", CONTENT))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_too_little_disk_space_is_reported_before_the_fetch(small_disk: Path, file_server: FileServer) -> None:
    (small_disk / "ballast").write_bytes(bytes(4 << 20))
    with pytest.raises(StorageError, match=r"fetching small needs .* are free") as raised:
        Catalog(small_disk).fetch("small")
    assert raised.value.details["needed"] == len(CONTENT) + RESERVE
    assert raised.value.details["free"] < len(CONTENT) + RESERVE  # type: ignore[operator]
    assert file_server.requests == []
    (small_disk / "ballast").unlink()
    assert Catalog(small_disk).fetch("small").files["weights"].read_bytes() == CONTENT


def test_disk_that_fills_during_a_fetch_leaves_no_partial_model(small_disk: Path) -> None:
    ballast = small_disk / "ballast"

    def fill(progress: FetchProgress) -> None:
        if not ballast.exists():
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))

    with pytest.raises(StorageError, match=r"the disk of .* is full"):
        Catalog(small_disk).fetch("small", fill)
    assert not (small_disk / "models" / "small").exists()
    ballast.unlink()
    assert Catalog(small_disk).fetch("small").files["weights"].read_bytes() == CONTENT


def test_read_only_disk_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match=r"cannot write .*models: Read-only file system"):
        Catalog(small_disk).fetch("small")


def test_file_in_place_of_the_folder_is_named(data: Path) -> None:
    (data / "models").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write .*models"):
        Catalog(data).fetch("small")
