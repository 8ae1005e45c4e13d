"""The life of a child process: limits set once, then one call after another until its connection closes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np

from chatapi.errors import ChatapiError
from chatapi.system.sandbox import framing

DESCRIPTORS = 64
"""Most open files of a child."""
FIRST_TO_DIE = 800
"""Where the machine's memory runs out, the kernel ends a child before the server (oom_score_adj, -1000 to 1000)."""
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
"""prctl(2)."""
KEPT = 48 << 20
"""Bytes by which a child may grow and still be used again; beyond it ends, which gives its memory back for sure."""


def run(connection: socket.socket, memory: int) -> None:
    """Answer calls until the other end closes; `memory`: bytes it may take beside what it starts with."""
    _limit(memory)
    _silence()
    gc.enable()
    limit = _resident() + KEPT
    while _answer(connection) and _resident() < limit:
        pass


def _limit(memory: int) -> None:
    """Set what the kernel enforces: memory, open files, no core dump, no file written, no new privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    most = _pages(0) + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _silence() -> None:
    """Native libraries write what they like to standard error, also what a file made them write."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _pages(column: int) -> int:
    """Bytes of /proc/self/statm: column 0 is the address space, 1 what is resident."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib is not loaded anew in every child
        return int(file.read().split()[column]) * resource.getpagesize()


def _resident() -> int:
    return _pages(1)


def _answer(connection: socket.socket) -> bool:
    """Do one call; False once the child should end."""
    try:
        (target, values), files = framing.receive_call(connection)
    except framing.BrokenFrame:
        return False
    try:
        items = _function(target)(*values, files=files) if files else _function(target)(*values)
        _send(connection, items)
    except framing.BrokenFrame:
        return False
    except MemoryError:
        # Its heap may be in pieces, so it is not used again.
        _fail(connection, {"kind": "memory"})
        return False
    except ChatapiError as error:
        told = {"class": type(error).__name__, "code": error.code, "message": error.message, "details": error.details}
        return _fail(connection, {"kind": "error", **told})
    except Exception as error:
        return _fail(connection, {"kind": "fault", "message": repr(error)[:500]})
    finally:
        for descriptor in files:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return True


def _send(connection: socket.socket, items: Iterator[Any]) -> None:
    for item in items:
        framing.send(connection, framing.SAMPLES if isinstance(item, np.ndarray) else framing.JSON, item)
    framing.send(connection, framing.END, None)


def _fail(connection: socket.socket, fault: dict[str, Any]) -> bool:
    try:
        framing.send(connection, framing.ERROR, fault)
    except framing.BrokenFrame:
        return False
    return True


def _function(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
