"""Runs a command, and measures its time, its computing time and its memory, those of its descendants included."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

INTERVAL = 0.5
"""Seconds between two looks at the memory."""
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: orphans among the descendants become children of this process, so that their time is counted."""


@dataclass(frozen=True)
class Measured:
    """What a command took."""

    seconds: float
    """Wall time."""
    computing: float
    """Processor time of all its processes, in seconds."""
    pss: int
    """Largest proportional set size of all its processes together, in bytes."""


def run(command: Sequence[str], output: Path | None = None) -> Measured:
    """Run a command to its end. `output`: file for what it prints. Raises CalledProcessError.

    Another process waits for it, because this one may have other children.
    """
    helper = [sys.executable, __file__, str(output or os.devnull), *command]
    return Measured(**json.loads(subprocess.run(helper, check=True, stdout=subprocess.PIPE).stdout))


def _measured(command: Sequence[str], output: Path) -> Measured:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begun, most = time.perf_counter(), 0
    with output.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            most = max(most, _pss())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL)
    seconds = time.perf_counter() - begun
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Measured(seconds, used.ru_utime + used.ru_stime, most)


def _pss() -> int:
    total = 0
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += each.memory_full_info().pss
    return total


if __name__ == "__main__":
    json.dump(asdict(_measured(sys.argv[2:], Path(sys.argv[1]))), sys.stdout)
