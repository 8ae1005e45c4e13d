"""A child process: it sets its limits, then answers calls until its connection closes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import resource
import signal
import socket
from typing import Any

import numpy as np

from chatapi.errors import ChatapiError
from chatapi.system.sandbox import framing

DESCRIPTORS = 64
"""Largest number of open files of a child."""
FIRST_TO_DIE = 800
"""When the machine runs out of memory, the kernel kills a child before the server (oom_score_adj, -1000 to 1000)."""
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
"""Options of prctl(2)."""
MAX_GROWTH = 48 << 20
"""Growth up to which a child is reused, in bytes; a larger one ends, which returns its memory to the system."""


def run(connection: socket.socket, memory: int) -> None:
    """Answer calls until the other end closes; `memory`: bytes the child may use beyond what it starts with."""
    _limit(memory)
    _silence()
    gc.enable()
    limit = _resident() + MAX_GROWTH
    while _answer(connection, limit):
        pass


def _limit(memory: int) -> None:
    """Set limits that the kernel enforces: memory, open files, no core dump, no writing of files, no new privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    most = _pages(0) + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _silence() -> None:
    """Discard standard error: native libraries print there, also text from the untrusted file."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _pages(column: int) -> int:
    """A column of /proc/self/statm, in bytes: 0 is the address space, 1 the resident memory."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - without pathlib it is faster in every child
        return int(file.read().split()[column]) * resource.getpagesize()


def _resident() -> int:
    return _pages(1)


def _answer(connection: socket.socket, limit: int) -> bool:
    """Answer one call. Returns False when the child should end: also when it holds more than `limit` bytes. The END
    frame says so, so that the parent sends it no other call.
    """
    try:
        (target, values), files = framing.receive_call(connection)
    except framing.BrokenFrame:
        return False
    try:
        items = _function(target)(*values, files=files) if files else _function(target)(*values)
        for item in items:
            framing.send(connection, framing.SAMPLES if isinstance(item, np.ndarray) else framing.JSON, item)
        reusable = _resident() < limit
        framing.send(connection, framing.END, reusable)
    except framing.BrokenFrame:
        return False
    except MemoryError:
        # Its heap may be fragmented, so the child is not reused.
        _fail(connection, {"kind": "memory"})
        return False
    except ChatapiError as error:
        fields = {"class": type(error).__name__, "code": error.code, "message": error.message, "details": error.details}
        return _fail(connection, {"kind": "error", **fields})
    except Exception as error:
        return _fail(connection, {"kind": "fault", "message": repr(error)[:500]})
    finally:
        for descriptor in files:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return reusable


def _fail(connection: socket.socket, fault: dict[str, Any]) -> bool:
    try:
        framing.send(connection, framing.ERROR, fault)
    except framing.BrokenFrame:
        return False
    return True


def _function(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
