"""Functions that test_sandbox.py runs in child processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.errors import BadInput


def echo(*values: Any) -> Iterator[Any]:
    yield from values


def samples(seconds: int) -> Iterator[np.ndarray]:
    for _ in range(seconds):
        yield np.ones(16_000, np.float32)


def slow_samples(seconds: int, each: float) -> Iterator[np.ndarray]:
    for block in samples(seconds):
        time.sleep(each)
        yield block


def content(files: list[int]) -> Iterator[str]:
    yield os.pread(files[0], 100, 0).decode()


def environment() -> Iterator[dict[str, str]]:
    yield dict(os.environ)


def process() -> Iterator[int]:
    yield os.getpid()


def grow(size: int) -> Iterator[int]:
    """Keeps memory after the call."""
    _kept.append(np.ones(size, np.uint8))
    yield os.getpid()


_kept: list[np.ndarray] = []


def crash() -> Iterator[int]:
    yield 1
    ctypes.string_at(0)


def overrun() -> Iterator[int]:
    """Damages the heap, so that glibc aborts."""
    ctypes.memset(ctypes.create_string_buffer(16), 1, 1 << 20)
    yield 1


def hang() -> Iterator[int]:
    yield 1
    while True:
        pass


def allocate(size: int) -> Iterator[int]:
    yield len(np.ones(size, np.uint8))


def reject() -> Iterator[int]:
    yield 1
    raise BadInput("the audio is green", code="green", details={"colour": "green"})


def fail() -> Iterator[int]:
    yield 1
    raise KeyError("unexpected")


def write_nonsense() -> Iterator[int]:
    """Writes to its own connection, as a hijacked child might do."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            os.write(int(link.name), b"\x80\x04cos\nsystem\n(S'true'\ntR." * 20)
    yield 1


def write_file(path: str) -> Iterator[int]:
    Path(path).write_bytes(b"0")
    yield 1
