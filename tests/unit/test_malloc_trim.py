"""Memory that was freed, given back to the system once the process rests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from chatapi.system import malloc_trim
from conftest import until
from fuzz.box import Box
from paths import ROOT

HOLES = """
import ctypes, os, sys
from chatapi.system import malloc_trim

malloc_trim.configure()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
blocks = [libc.malloc(100_000) for _ in range(300)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for number, block in enumerate(blocks):
    if number % 10:
        libc.free(block)
kept = resident() - before
malloc_trim.trim()
print(kept, resident() - before)
"""


class Process:
    """What a process has worked, and how often its memory was given back."""

    def __init__(self) -> None:
        self.worked = 0.0
        self.swept = 0
        self.keeper = malloc_trim.IdleTrimmer(lambda: self.worked, self._sweep)

    def _sweep(self) -> None:
        self.swept += 1
        self.worked += 0.01

    def works(self, seconds: float, looks: int = 1) -> int:
        """So long in each of so many looks; how often it was due."""
        due = 0
        for _ in range(looks):
            self.worked += seconds
            due += self.keeper.due()
        return due


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_pages_between_blocks_in_use_are_given_back() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", HOLES], env=environment, capture_output=True, text=True, check=True)
    kept, after = map(int, told.stdout.split())
    assert kept > 25e6
    assert after < 8e6


def test_a_process_that_rests_after_its_work_is_due_and_one_that_works_is_not() -> None:
    process = Process()
    assert process.works(2 * malloc_trim.CHECK_SECONDS, 5) == 0
    assert process.works(0) == 1


def test_a_process_that_never_rests_is_due_now_and_then() -> None:
    assert Process().works(malloc_trim.CHECK_SECONDS, 3 * malloc_trim.MOST_CHECKS) == 3


def test_a_process_that_did_next_to_nothing_is_not_due() -> None:
    assert Process().works(malloc_trim.WORTH_SECONDS / 100, 90) == 0


@pytest.mark.anyio
async def test_what_was_freed_is_given_back_once_after_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc_trim, "CHECK_SECONDS", 0.001)
    process = Process()
    process.worked = 10.0
    async with anyio.create_task_group() as group:
        group.start_soon(process.keeper.run)
        await until(lambda: process.swept == 1)
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert process.swept == 1


class Told(Box):
    """Its process writes a file when it gives memory back at rest."""

    @property
    def command(self) -> list[str]:
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from chatapi.system import malloc_trim\n"
            "malloc_trim.CHECK_SECONDS, malloc_trim.WORTH_SECONDS, malloc_trim.IDLE_SHARE = 0.02, 0.0, 1e9\n"
            "malloc_trim.IdleTrimmer.__init__.__defaults__ = "
            f"(lambda: 1.0, lambda: Path({str(self.given)!r}).touch())\n"
            "from chatapi.cli import main\n"
            "main(sys.argv[1:])\n"
        )
        python, _, _, *words = super().command
        return [python, "-c", code, *words]

    @property
    def given(self) -> Path:
        return self.data / "given"


def test_a_served_box_gives_back_at_rest(tmp_path: Path) -> None:
    box = Told(tmp_path)

    async def run() -> None:
        await box.start()
        with suppress(TimeoutError):
            await until(box.given.exists)
        await box.stop()

    asyncio.run(run())
    assert box.given.exists()
