"""Runs code that untrusted data may crash, in child processes with limits on memory and time.

A forkserver has imported what the children need. A child is forked in a few milliseconds, works for one caller at a
time and is reused. A failure in a child ends only its call: a native crash is `ChildCrashed`, more memory than allowed
`OutOfMemory`, more time `TimedOut`. All methods may be called from any thread, and block."""

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
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from chatapi import errors
from chatapi.errors import CallerError
from chatapi.system.sandbox import framing
from chatapi.system.sandbox.framing import FORK, KILL, ORDER, REPLY

log = logging.getLogger(__name__)

MEMORY = 256 << 20
"""Memory a child may use beyond what it starts with, in bytes."""
WARM = 1
"""Number of idle children that wait for the next call."""
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME")
"""Environment variables passed to a child; the rest may hold keys."""
QUIET = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""One thread and one heap: a process with threads cannot be forked safely, and each heap takes address space."""

TimeLimit = Callable[[float], float]
"""From the seconds of audio that a call has yielded so far to the time it may have taken by then, in seconds."""


class SandboxFailure(Exception):
    """A child did not complete its call."""


class ChildCrashed(SandboxFailure):
    """The child ended during a call, mostly by a fault in native code."""


class CallFailed(SandboxFailure):
    """The call raised an unexpected exception."""


class OutOfMemory(SandboxFailure):
    """The call needs more memory than a child may use."""


class TimedOut(SandboxFailure):
    """The call exceeded its time limit; the child was killed."""


class _Child:
    """A process and the connection to it."""

    def __init__(self, process: int, connection: socket.socket) -> None:
        self.process = process
        self.connection = connection


class Sandbox:
    """Child processes that have imported the same modules."""

    def __init__(self, modules: Sequence[str], memory: int = MEMORY) -> None:
        """`modules` are imported before the first call; `memory`: limit of each child, in bytes."""
        self._modules = tuple(modules)
        self._memory = memory
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        """Guards the three attributes above."""
        self.crashes = 0
        """Number of calls that ended with a crash."""

    def warm(self) -> None:
        """Start the forkserver and a child before the first call."""
        self._put_back(self._take())

    def stream(
        self, target: str, *values: Any, files: Sequence[int] = (), timeout: float | TimeLimit = 30.0
    ) -> Generator[Any, None, None]:
        """What the generator function `target` (module:name) yields in a child: plain values and float32 samples.

        `values` are plain; `files` are descriptors, passed to the function as the list `files`. `timeout`: longest
        computing time in seconds, without the time that the caller takes between items. Closing the iterator kills the
        child. Raises ChildCrashed, CallFailed, OutOfMemory, TimedOut, and the CallerError that the function raises.
        """
        child = self._take()
        reusable = False
        try:
            self._send(child, target, values, files)
            limit = timeout if callable(timeout) else lambda _, seconds=timeout: seconds
            reusable = yield from self._items(child, target, limit)
        finally:
            if reusable:
                self._put_back(child)
            else:
                self._end(child)

    def call(self, target: str, *values: Any, files: Sequence[int] = (), timeout: float = 30.0) -> Any:
        """The only value that `target` yields. Raises what `stream` raises."""
        (value,) = self.stream(target, *values, files=files, timeout=timeout)
        return value

    def close(self) -> None:
        """Kill all children, also working ones; a later call starts new ones."""
        with self._lock:
            self._stop()

    def _send(self, child: _Child, target: str, values: Sequence[Any], files: Sequence[int]) -> None:
        try:
            framing.send(child.connection, framing.CALL, [target, list(values)], files)
        except framing.BrokenFrame as error:
            raise self._crashed(child, target) from error

    def _items(self, child: _Child, target: str, limit: TimeLimit) -> Generator[Any, None, bool]:
        """The items of a call. Returns whether the child answers another one."""
        spent = seconds = 0.0
        while True:
            since = time.monotonic()
            child.connection.settimeout(max(0.001, limit(seconds) - spent))
            try:
                kind, value = framing.receive(child.connection)
            except TimeoutError:
                raise TimedOut(f"{target} took longer than {limit(seconds):.0f} seconds") from None
            except framing.BrokenFrame as error:
                raise self._crashed(child, target) from error
            spent += time.monotonic() - since
            if kind == framing.END:
                return bool(value)
            if kind == framing.ERROR:
                raise _error(target, value)
            seconds += len(value) / SAMPLE_RATE if kind == framing.SAMPLES else 0.0
            yield value

    def _crashed(self, child: _Child, target: str) -> ChildCrashed:
        status = self._end(child)
        cause = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
        self.crashes += 1
        log.warning("child process crashed", extra={"target": target, "cause": cause})
        return ChildCrashed(f"{target} crashed: {cause}")

    def _take(self) -> _Child:
        """An idle child, or a new one."""
        with self._lock:
            if self._server is not None and self._server.poll() is not None:
                # Its children end soon after it.
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
        """Kill the child. Returns its wait status (os.waitpid)."""
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
        """Raises ChildCrashed when the forkserver cannot be started."""
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
        assert self._control is not None  # noqa: S101 - an order was sent
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
                # Otherwise Python would import modules from the server's working directory.
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C on a terminal goes only to the server, which then ends its children.
                start_new_session=True,
            )
        ours.settimeout(START_SECONDS)
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


SAMPLE_RATE = 16_000
"""Rate of the samples that children yield, in Hz, for counting the seconds of audio."""
START_SECONDS = 60.0
"""Longest wait for a reply of the forkserver, in seconds; its imports take half a second on an idle machine."""


def _alive(connection: socket.socket) -> bool:
    """Whether an idle child is still running."""
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _error(target: str, fault: dict[str, Any]) -> Exception:
    if fault["kind"] == "memory":
        return OutOfMemory(f"{target} needs more memory than it may use")
    kind = getattr(errors, str(fault.get("class")), None)
    if fault["kind"] == "error" and isinstance(kind, type) and issubclass(kind, CallerError):
        return kind(str(fault["message"]), code=str(fault["code"]), details=fault["details"])
    return CallFailed(f"{target} failed: {fault.get('message')}")


def memory_file(data: bytes) -> BinaryIO:
    """The bytes as an unnamed file in memory."""
    file = open(os.memfd_create("sandbox"), "w+b", buffering=0)  # noqa: PTH123, SIM115 - the caller closes it
    try:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    except BaseException:
        file.close()
        raise
    return file


MODULES = ("chatapi.audio.ffmpeg_decoder", "chatapi.text.phonemizer")
_shared = Sandbox(MODULES)


def shared() -> Sandbox:
    """The sandbox of this process, for media and text."""
    return _shared


@atexit.register
def _close() -> None:
    with contextlib.suppress(OSError):
        _shared.close()
