"""Fetching models that is interrupted, or finds a full or read-only disk."""

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
from file_server import Depot, opened
from user_models import CONTENT, state


@pytest.fixture
def depot() -> Iterator[Depot]:
    with opened() as server:
        yield server


@pytest.fixture
def data(tmp_path: Path, depot: Depot) -> Path:
    """A data directory whose manifests name one model, `small`, that the depot serves."""
    state(tmp_path, "small", depot.put("weights", CONTENT))
    return tmp_path


AT_ONCE = (0.0,)

CHILD = """
import sys
from pathlib import Path
from chatapi.catalog import Catalog
Catalog(Path(sys.argv[1]), (0.0,)).fetch("small", lambda progress: print(progress.step, progress.done, flush=True))
"""


def child(data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(data)], stdout=subprocess.PIPE, text=True)


def test_a_fetch_that_is_killed_again_and_again_goes_on_each_time(data: Path, depot: Depot) -> None:
    depot.items["weights"].cuts, depot.items["weights"].hold = [100_000, 100_000, 100_000], True
    for _ in range(3):
        with child(data) as process:
            assert depot.held.acquire(timeout=60)
            assert process.stdout is not None
            arrived = f"download {began(depot)[-1] + 100_000}"
            assert any(line.strip() == arrived for line in process.stdout)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (data / "models" / "small").exists()
    with child(data) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert Catalog(data).open("small").files["weights"].read_bytes() == CONTENT
    first, second, third, fourth = began(depot)
    assert first == 0 < second < third < fourth


def began(depot: Depot) -> list[int]:
    """The byte that each request began at."""
    return [int(wanted[6:-1]) if wanted else 0 for _, wanted in depot.asked]


def test_an_interrupt_from_the_keyboard_leaves_what_arrived(data: Path, depot: Depot) -> None:
    def interrupt(progress: FetchProgress) -> None:
        if progress.done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Catalog(data).fetch("small", interrupt)
    assert not (data / "models" / "small").exists()
    Catalog(data).fetch("small")
    assert depot.asked[-1][1].startswith("bytes=")
    assert Catalog(data).open("small").files["weights"].read_bytes() == CONTENT


def test_a_fetch_killed_between_its_last_two_moves_needs_nothing_more(data: Path, depot: Depot) -> None:
    catalog = Catalog(data)
    folder = catalog.fetch("small").folder
    work = data / "models" / ".partial" / "small"
    work.mkdir()
    folder.rename(work / "ready")
    catalog.fetch("small")
    assert catalog.open("small").files["weights"].read_bytes() == CONTENT
    assert len(depot.asked) == 1


def test_two_processes_fetch_once_and_both_have_it(data: Path, depot: Depot) -> None:
    depot.items["weights"].cuts, depot.items["weights"].hold = [100_000], True
    waiting = threading.Event()

    def tell(progress: FetchProgress) -> None:
        if progress.step == "wait":
            waiting.set()

    with child(data) as first:
        assert depot.held.acquire(timeout=60)
        second = threading.Thread(
            target=lambda: Catalog(data, AT_ONCE).fetch(
                "small", lambda each: waiting.set() if each.step == "wait" else None
            )
        )
        second.start()
        assert waiting.wait(60)
        depot.let_go.set()
        second.join(60)
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert [wanted for _, wanted in depot.asked] == ["", "bytes=100000-"]
    assert Catalog(data).verify("small") == []


@pytest.fixture
def small_disk(tmp_path: Path, depot: Depot) -> Iterator[Path]:
    """A data directory on a disk of its own, of 20 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    state(disk, "small", depot.put("weights", CONTENT))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_too_little_room_is_told_before_anything_is_fetched(small_disk: Path, depot: Depot) -> None:
    (small_disk / "ballast").write_bytes(bytes(4 << 20))
    with pytest.raises(StorageError, match=r"fetching small needs .* are free") as raised:
        Catalog(small_disk).fetch("small")
    assert raised.value.details["needed"] == len(CONTENT) + RESERVE
    assert raised.value.details["free"] < len(CONTENT) + RESERVE  # type: ignore[operator]
    assert depot.asked == []
    (small_disk / "ballast").unlink()
    assert Catalog(small_disk).fetch("small").files["weights"].read_bytes() == CONTENT


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_model(small_disk: Path) -> None:
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


def test_a_disk_that_cannot_be_written_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match=r"cannot write .*models: Read-only file system"):
        Catalog(small_disk).fetch("small")


def test_a_file_in_the_place_of_the_folder_is_named(data: Path) -> None:
    (data / "models").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write .*models"):
        Catalog(data).fetch("small")
