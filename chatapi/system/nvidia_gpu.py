"""Load and memory of NVIDIA's GPUs, as the program of its driver, nvidia-smi, tells them.

The program is where the driver is, also in containers that get a GPU. Fields: `nvidia-smi --help-query-gpu`.
"""

from __future__ import annotations

import csv
import logging
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

log = logging.getLogger(__name__)

PROGRAM = "nvidia-smi"
FIELDS = ("index", "utilization.gpu", "utilization.memory", "memory.used", "memory.total")
TIMEOUT = 5.0
"""Longest time that the program may take, in seconds; a driver that hangs takes forever."""
MIB = 1 << 20


@dataclass(frozen=True)
class GpuReading:
    """The readings of one GPU; None: its driver does not tell."""

    number: int
    """Its number among the machine's, from 0."""
    load: float | None = None
    """Share of the time in which it computed, 0 to 1."""
    memory_load: float | None = None
    """Share of the time in which its memory was read or written, 0 to 1."""
    memory_used: float | None = None
    """In bytes."""
    memory_total: float | None = None
    """In bytes."""


def read(program: str = PROGRAM) -> tuple[GpuReading, ...]:
    """The machine's GPUs in the order of their numbers; none where the driver or its program is missing. Blocking."""
    found = shutil.which(program)
    if found is None:
        return ()
    command = [found, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s cannot be read: %s", program, error)
        return ()
    return tuple(_readings(done.stdout))


def _readings(text: str) -> Iterator[GpuReading]:
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == len(FIELDS) and row[0].isdecimal():
            load, memory_load, used, total = map(_number, row[1:])
            yield GpuReading(
                int(row[0]), _scaled(load, 0.01), _scaled(memory_load, 0.01), _scaled(used, MIB), _scaled(total, MIB)
            )


def _number(text: str) -> float | None:
    """A value; `[N/A]` and the like where the GPU has none."""
    try:
        return float(text)
    except ValueError:
        return None


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by
