"""Runs code that untrusted data may crash, in child processes with limits on memory and time.

A forkserver has imported what the children need; a child is forked in a few milliseconds, works for one caller at a
time and is used again. A fault in a child costs that one call: a native crash is `ChildCrashed`, more memory than
allowed `OutOfMemory`, more time `TimedOut`. All methods may be called from any thread, and block.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from chatapi import errors
from chatapi.errors import CallerError
from chatapi.system.sandbox import framing
from chatapi.system.sandbox.framing import FORK, KILL, ORDER, REPLY

log = logging.getLogger(__name__)

MEMORY = 256 << 20
"""Bytes a child may take beside what it starts with."""
WARM = 1
"""Children that wait for the next call."""
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME")
"""What a child gets of this process's environment, which holds keys."""
QUIET = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""One thread and one heap: a process with threads cannot be forked safely, and each heap takes address space."""

Patience = Callable[[float], float]
"""From the seconds of sound a call has given so far to the seconds it may have taken until then."""


class SandboxFailure(Exception):
    """A child did not give what was asked of it."""


class ChildCrashed(SandboxFailure):
    """The child ended in the middle of a call, mostly by a fault in native code."""


class CallFailed(SandboxFailure):
    """The call raised an exception that it should not have raised."""


class OutOfMemory(SandboxFailure):
    """The call needs more memory than a child may take."""


class TimedOut(SandboxFailure):
    """The call took longer than it may; the child was ended."""


class _Child:
    """A process and the connection to it."""

    def __init__(self, process: int, connection: socket.socket) -> None:
        self.process = process
        self.connection = connection


class Sandbox:
    """Children that have imported the same modules."""

    def __init__(self, modules: Sequence[str], memory: int = MEMORY) -> None:
        """`modules` are imported before the first call; `memory` is in bytes, for each child."""
        self._modules = tuple(modules)
        self._memory = memory
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        """Of the three above."""
        self.crashes = 0
        """Calls that ended with a crash."""

    def warm(self) -> None:
        """Start what the first call would otherwise wait for."""
        self._put_back(self._take())

    def stream(
        self, target: str, *values: Any, files: Sequence[int] = (), patience: float | Patience = 30.0
    ) -> Generator[Any, None, None]:
        """What the generator function `target` (module:name) yields in a child: plain values and float32 samples.

        `values` are plain; `files` are descriptors, given to it as the list `files`. `patience`: seconds it may take,
        without those in which its caller did something else. Closing the iterator ends the child. Raises Crashed,
        Failed, OutOfMemory, TimedOut, and what of `errors` the function raises.
        """
        child = self._take()
        over = False
        try:
            self._send(child, target, values, files)
            allowed = patience if callable(patience) else lambda _, limit=patience: limit
            yield from self._items(child, target, allowed)
            over = True
        finally:
            if over:
                self._put_back(child)
            else:
                self._end(child)

    def call(self, target: str, *values: Any, files: Sequence[int] = (), patience: float = 30.0) -> Any:
        """The one value that `target` yields. Raises what `stream` raises."""
        (value,) = self.stream(target, *values, files=files, patience=patience)
        return value

    def close(self) -> None:
        """End all children, also those that work; a later call starts anew."""
        with self._lock:
            self._stop()

    def _send(self, child: _Child, target: str, values: Sequence[Any], files: Sequence[int]) -> None:
        try:
            framing.send(child.connection, framing.CALL, [target, list(values)], files)
        except framing.BrokenFrame as error:
            raise self._crashed(child, target) from error

    def _items(self, child: _Child, target: str, allowed: Patience) -> Iterator[Any]:
        spent = seconds = 0.0
        while True:
            since = time.monotonic()
            child.connection.settimeout(max(0.001, allowed(seconds) - spent))
            try:
                kind, value = framing.receive(child.connection)
            except TimeoutError:
                raise TimedOut(f"{target} took longer than {allowed(seconds):.0f} seconds") from None
            except framing.BrokenFrame as error:
                raise self._crashed(child, target) from error
            spent += time.monotonic() - since
            if kind == framing.END:
                return
            if kind == framing.ERROR:
                raise _error(target, value)
            seconds += len(value) / SAMPLES_A_SECOND if kind == framing.SAMPLES else 0.0
            yield value

    def _crashed(self, child: _Child, target: str) -> ChildCrashed:
        status = self._end(child)
        cause = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
        self.crashes += 1
        log.warning("a child process crashed", extra={"target": target, "cause": cause})
        return ChildCrashed(f"{target} crashed: {cause}")

    def _take(self) -> _Child:
        """A child that waits, or a new one."""
        with self._lock:
            if self._server is not None and self._server.poll() is not None:
                # Its children end with it, if not at once.
                self._stop()
            while self._idle:
                child = self._idle.pop()
                if _alive(child.connection):
                    return child
                self._kill(child)
            return self._fork()

    def _put_back(self, child: _Child) -> None:
        with self._lock:
            if len(self._idle) < WARM and self._control is not None:
                child.connection.settimeout(None)
                self._idle.append(child)
                return
        self._end(child)

    def _end(self, child: _Child) -> int:
        """How the child ended, as os.waitpid tells it."""
        with self._lock:
            return self._kill(child)

    def _kill(self, child: _Child) -> int:
        child.connection.close()
        process, child.process = child.process, 0
        if not process or self._control is None:
            return 0
        try:
            self._control.sendall(ORDER.pack(KILL, process))
            return self._reply()
        except OSError:
            self._stop()
            return 0

    def _fork(self) -> _Child:
        """Raises Crashed when there is no forkserver to be had."""
        for _ in range(2):
            if self._control is None:
                self._start()
            ours, theirs = socket.socketpair()
            try:
                assert self._control is not None  # noqa: S101 - just started
                socket.send_fds(self._control, [ORDER.pack(FORK, 0)], [theirs.fileno()])
                return _Child(self._reply(), ours)
            except OSError:
                # The forkserver was killed; its children ended with it.
                ours.close()
                self._stop()
            finally:
                theirs.close()
        raise ChildCrashed("the forkserver cannot be started")

    def _reply(self) -> int:
        assert self._control is not None  # noqa: S101 - whoever asks has sent an order
        data = self._control.recv(REPLY.size, socket.MSG_WAITALL)
        if len(data) < REPLY.size:
            raise OSError("the forkserver has ended")
        return int(REPLY.unpack(data)[0])

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name in ENVIRONMENT}
        environment |= {**QUIET, "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path)}
        command = [sys.executable, "-m", "chatapi.system.sandbox.forkserver", str(theirs.fileno()), str(self._memory)]
        with theirs:
            self._server = subprocess.Popen(
                [*command, *self._modules],
                env=environment,
                # Python would import what lies in the working directory, wherever the server was started.
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A terminal's Ctrl-C is for the server alone, which then ends its children.
                start_new_session=True,
            )
        ours.settimeout(STARTS_WITHIN)
        self._control = ours

    def _stop(self) -> None:
        for child in self._idle:
            child.connection.close()
        self._idle.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


SAMPLES_A_SECOND = 16_000
"""By which samples are counted as seconds; the rate at which everything here is decoded."""
STARTS_WITHIN = 60.0
"""Seconds until a forkserver that does not answer counts as gone; it imports for half a second on a quiet machine."""


def _alive(connection: socket.socket) -> bool:
    """Whether the child has not ended while it waited."""
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _error(target: str, fault: dict[str, Any]) -> Exception:
    if fault["kind"] == "memory":
        return OutOfMemory(f"{target} needs more memory than it may take")
    kind = getattr(errors, str(fault.get("class")), None)
    if fault["kind"] == "error" and isinstance(kind, type) and issubclass(kind, CallerError):
        return kind(str(fault["message"]), code=str(fault["code"]), details=fault["details"])
    return CallFailed(f"{target} failed: {fault.get('message')}")


def memory_file(data: bytes) -> BinaryIO:
    """The bytes as a file that has no name and lies in memory."""
    file = open(os.memfd_create("sandbox"), "w+b", buffering=0)  # noqa: PTH123, SIM115 - the caller closes it
    try:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    except BaseException:
        file.close()
        raise
    return file


MODULES = ("chatapi.audio.decoding", "chatapi.text.phonemizer")
_shared = Sandbox(MODULES)


def shared() -> Sandbox:
    """The one of this process, for media and texts."""
    return _shared


@atexit.register
def _close() -> None:
    with contextlib.suppress(OSError):
        _shared.close()
