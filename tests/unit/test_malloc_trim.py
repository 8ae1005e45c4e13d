"""Freed memory is returned to the system when the process is idle."""

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
from fuzz.server_process import ServerProcess
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
    """A fake process that counts its CPU time and how often it was trimmed."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.trims = 0
        self.trimmer = malloc_trim.IdleTrimmer(lambda: self.cpu_seconds, self._trim)

    def _trim(self) -> None:
        self.trims += 1
        self.cpu_seconds += 0.01

    def work(self, seconds: float, checks: int = 1) -> int:
        """Works for `seconds` before each of the checks; returns how often trimming was due."""
        due = 0
        for _ in range(checks):
            self.cpu_seconds += seconds
            due += self.trimmer.due()
        return due


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_pages_between_blocks_in_use_are_returned() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run([sys.executable, "-c", HOLES], env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, output.stdout.split())
    assert before > 25e6
    assert after < 8e6


def test_idle_process_is_trimmed_after_work_and_a_busy_one_is_not() -> None:
    process = Process()
    assert process.work(2 * malloc_trim.CHECK_SECONDS, 5) == 0
    assert process.work(0) == 1


def test_process_that_is_never_idle_is_trimmed_occasionally() -> None:
    assert Process().work(malloc_trim.CHECK_SECONDS, 3 * malloc_trim.MOST_CHECKS) == 3


def test_process_with_little_work_is_not_trimmed() -> None:
    assert Process().work(malloc_trim.WORTH_SECONDS / 100, 90) == 0


@pytest.mark.anyio
async def test_memory_is_trimmed_once_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc_trim, "CHECK_SECONDS", 0.001)
    process = Process()
    process.cpu_seconds = 10.0
    async with anyio.create_task_group() as group:
        group.start_soon(process.trimmer.run)
        await until(lambda: process.trims == 1)
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert process.trims == 1


class TrimRecorder(ServerProcess):
    """A server that creates a file when it trims its memory."""

    @property
    def command(self) -> list[str]:
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from chatapi.system import malloc_trim\n"
            "malloc_trim.CHECK_SECONDS, malloc_trim.WORTH_SECONDS, malloc_trim.IDLE_SHARE = 0.02, 0.0, 1e9\n"
            "malloc_trim.IdleTrimmer.__init__.__defaults__ = "
            f"(lambda: 1.0, lambda: Path({str(self.trimmed)!r}).touch())\n"
            "from chatapi.cli import main\n"
            "main(sys.argv[1:])\n"
        )
        python, _, _, *words = super().command
        return [python, "-c", code, *words]

    @property
    def trimmed(self) -> Path:
        return self.data / "trimmed"


def test_idle_server_trims_its_memory(tmp_path: Path) -> None:
    server = TrimRecorder(tmp_path)

    async def run() -> None:
        await server.start()
        with suppress(TimeoutError):
            await until(server.trimmed.exists)
        await server.stop()

    asyncio.run(run())
    assert server.trimmed.exists()
