"""The child process of `engine_process`: it loads one engine, and answers calls until its connections close.

`python -m chatapi.runtime.engine_child ROLE LIFELINE CONTROL SLOT...`: descriptors of a pipe that ends with the parent,
and of sockets. A thread per slot answers calls; the one that loaded the engine has the first slot.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chatapi.engines import registry
from chatapi.engines.call import EngineCall
from chatapi.errors import InternalError
from chatapi.runtime import engine_errors, engine_frames
from chatapi.runtime.engine_frames import BrokenFrame, Connection, Frame
from chatapi.runtime.engine_process import WINDOW
from chatapi.runtime.engine_threads import PAUSE_SECONDS
from chatapi.settings import plugins
from chatapi.system import malloc_trim, memory

log = logging.getLogger(__name__)

ALIVE_SECONDS = 0.1
"""Shortest time between two signs of life of a call, in seconds."""
LOOK_SECONDS = 0.002
"""Shortest time between two looks whether the call was cancelled, in seconds; an engine may ask thousands of times a
second."""
EARLY_TO_DIE = 300
"""When the machine runs out of memory, the kernel kills an engine rather than the server (oom_score_adj, -1000 to
1000)."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every log record."""


class _ToParent(logging.Handler):
    """Sends the log to the parent, which decides what is heard."""

    def __init__(self, control: Connection) -> None:
        super().__init__()
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        fields = {name: _plain(value) for name, value in vars(record).items() if name not in _STANDARD}
        line = {"name": record.name, "level": record.levelno, "message": message, "fields": fields}
        with suppress(BrokenFrame):
            self._control.send(engine_frames.LOG, 0, line)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


class _ChildStop:
    """The `Stop` of a call, and the room that its reader has."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection, self._number = connection, number
        self._room = WINDOW
        self._stopped = False
        self._looked_at = self._told_at = time.monotonic()
        # A library may ask from threads of its own, which must not wait for a reader.
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        if not self.unmarked() and time.monotonic() - self._told_at >= ALIVE_SECONDS:
            self._told_at = time.monotonic()
            with suppress(BrokenFrame):
                # An item on its way is a sign of life too.
                self._connection.send(engine_frames.ALIVE, self._number, wait=False)
        return self._stopped

    def unmarked(self) -> bool:
        """The same answer without a sign of life."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._stopped

    def wait_for_room(self) -> bool:
        """Wait until the reader has room for one more item. Returns False when the call is cancelled."""
        with self._lock:
            self._look()
            while not self._room and not self._stopped:
                self._connection.arrived(None)
                self._look()
            self._room -= 1
        return not self._stopped

    def _look(self) -> None:
        """Take what has arrived; with the lock."""
        self._looked_at = time.monotonic()
        try:
            while not self._stopped and self._connection.arrived(0):
                self._take(self._connection.receive())
        except BrokenFrame:
            self._stopped = True

    def _take(self, frame: Frame) -> None:
        # What concerns an earlier call crossed its end on the way.
        if frame.number == self._number:
            self._room += WINDOW // 2 if frame.kind == engine_frames.MORE else 0
            self._stopped = frame.kind == engine_frames.STOP


class _Slot:
    """Answers the calls of one connection."""

    def __init__(self, engine: Any, connection: Connection) -> None:
        self._engine = engine
        self._connection = connection

    def serve(self) -> None:
        """Answer calls until the connection closes."""
        with suppress(BrokenFrame):
            while True:
                frame = self._next()
                if frame.kind == engine_frames.CALL:
                    self._answer(frame)
                # Otherwise it concerns a call that has ended.
                del frame
        # The parent must not wait for an answer to what could not be read.
        self._connection.close()

    def _next(self) -> Frame:
        """The next frame; without one for PAUSE_SECONDS the engine returns memory to the system, once."""
        if not self._connection.arrived(PAUSE_SECONDS):
            # An engine that has a way of its own keeps what its next call needs.
            release_memory = getattr(self._engine, "release_memory", lambda stop: malloc_trim.trim())
            try:
                release_memory(lambda: self._connection.arrived(0))
            except Exception:
                log.exception("an engine could not return its memory")
        return self._connection.receive()

    def _answer(self, frame: Frame) -> None:
        """Answer a call. Raises BrokenFrame when the parent does not want the answer any more."""
        method, arguments, options, whole = frame.value
        call: EngineCall[Any] = EngineCall(method, arguments, options, whole)
        try:
            self._send(call(self._engine, stop := _ChildStop(self._connection, frame.number)), stop, frame.number)
        except BrokenFrame:
            raise
        except Exception as error:
            if isinstance(error, InternalError) and error.__cause__ is not None:
                log.exception("an engine failed")
            self._connection.send(engine_frames.ERROR, frame.number, engine_errors.described(error))
        else:
            self._connection.send(engine_frames.END, frame.number, _counts(self._engine))

    def _send(self, items: Iterator[Any], stop: _ChildStop, number: int) -> None:
        try:
            for item in items:
                if not stop.wait_for_room():
                    return
                self._connection.send(engine_frames.ITEM, number, item)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()


def _counts(engine: Any) -> Mapping[str, float] | None:
    """Counters of the engine's library, if it has any."""
    counts: Mapping[str, float] | None = engine.counts() if hasattr(engine, "counts") else None
    return counts


def _limit(lifeline: int) -> None:
    """End with the parent, in the kernel's hands: native code that hangs may hold the Python lock."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    ended = select.poll()
    ended.register(lifeline, select.POLLIN)
    if ended.poll(0):
        # The parent ended before the kernel was asked.
        os._exit(1)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A service manager sends them to all processes of the service; the parent still ends its turns.
        signal.signal(each, signal.SIG_IGN)
    # A core dump would hold the audio and the texts of people.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(EARLY_TO_DIE))


def _load(control: Connection) -> Any:
    """The engine that the parent names; None when it cannot be loaded, which is reported."""
    role, name, tree, models, folder, given_back = control.receive().value
    # Paths in the settings may be relative.
    os.chdir(folder)
    try:
        with memory.expecting(given_back):
            engine = registry.load(role, name)(plugins.tables().tree.model_validate(tree), models)
        declared = {each: getattr(engine, each) for each in registry.declared() if hasattr(engine, each)}
        control.send(engine_frames.READY, 0, {"declared": declared, "counts": _counts(engine)})
    except Exception as error:
        control.send(engine_frames.ERROR, 0, engine_errors.described(error))
        return None
    return engine


def main(arguments: list[str]) -> None:
    """Load the engine, then serve."""
    lifeline, *sockets = map(int, arguments[1:])
    _limit(lifeline)
    faulthandler.enable()
    malloc_trim.configure()
    control, *connections = (Connection(socket.socket(fileno=each)) for each in sockets)
    logging.getLogger().handlers[:] = [_ToParent(control)]
    logging.getLogger("chatapi").setLevel(logging.DEBUG)
    if (engine := _load(control)) is not None:
        first, *others = (_Slot(engine, each) for each in connections)
        threads = [threading.Thread(target=each.serve, daemon=True) for each in others]
        for thread in threads:
            thread.start()
        first.serve()
        for thread in threads:
            thread.join()
        if (close := getattr(engine, "close", None)) is not None:
            close()
    # Without the destructors of native libraries, which may crash when threads still run.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
