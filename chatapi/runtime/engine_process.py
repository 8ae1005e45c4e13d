"""An engine in a child process, which has its own Python lock and OpenMP runtime.

A crash of native code ends only the calls in flight, and a stuck engine is killed instead of abandoned. The child loads
the engine by its name (`engine_child`). It is a new interpreter, because a process with threads cannot be forked
safely. It is no sandbox: it may read what chatapi may read.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import psutil
from pydantic import SecretStr

from chatapi.catalog import InstalledModel
from chatapi.engines import Stop, still_wanted
from chatapi.engines.call import EngineCall
from chatapi.errors import EngineFailed
from chatapi.runtime import engine_errors, engine_frames
from chatapi.runtime.engine_frames import BrokenFrame, Connection, Frame
from chatapi.runtime.engine_host import Call, EngineHost
from chatapi.settings import ENVIRONMENT, Settings, at, dotted_keys
from chatapi.system.memory import expected

log = logging.getLogger(__name__)

T = TypeVar("T")

WINDOW = 16
"""Items that the child may be ahead of its reader; it gets more room each time half of them were taken."""
POLL_SECONDS = 0.02
"""Time between two looks whether a call is cancelled while its engine yields nothing, in seconds: a `Stop` can only be
asked."""
UNEXPECTED = (AttributeError, LookupError, TypeError, ValueError)
"""What values raise that a child sends only when its memory is damaged."""
CLOSE_SECONDS = 5.0
"""Longest wait for the engine to close itself, in seconds; then its process is killed."""


class ChosenEngine(NamedTuple):
    """What to load."""

    role: str
    engine: str
    models: Sequence[InstalledModel]
    slots: int


class EngineProcess(EngineHost[Any]):
    """A loaded engine in a child process."""

    def __init__(self, chosen: ChosenEngine, settings: Settings) -> None:
        """Raises what the engine's constructor raises: EngineFault for an error that is not chatapi's, EngineFailed
        (engine_crashed) when the process ends."""
        self._role = chosen.role
        self._numbers = itertools.count(1)
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        """Connections without a call; a thread of the child serves each."""
        self._ended = threading.Event()
        self._cause = ""
        """Why the process ended."""
        self._unloading = False
        self._report: Callable[[], object] = lambda: None
        self._loaded: Future[dict[str, Any]] = Future()
        self._counts: Mapping[str, float] = {}
        self._process, self._control = self._start(chosen.slots)
        threading.Thread(target=self._follow, name=f"{self._role}-process", daemon=True).start()
        try:
            with suppress(BrokenFrame):
                # A process that ends while it loads is reported by `_follow`.
                order = [self._role, chosen.engine, _tree(settings), list(chosen.models), str(Path.cwd()), expected()]
                self._control.send(engine_frames.LOAD, 0, order)
            self.engine = self._stand_in(self._loaded.result())
        except BaseException:
            self._process.kill()
            self.unload()
            raise

    def call(self, call: Call[Any, T], stop: Stop) -> Iterator[T]:
        if not isinstance(call, EngineCall):
            raise TypeError(f"the {self._role} engine is in another process, which takes calls only as data")
        return self._items(call, stop)

    def unload(self) -> None:
        self._unloading = True
        with suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()
        if not self._ended.wait(CLOSE_SECONDS):
            self._process.kill()
            self._ended.wait()
        self._control.close()
        os.close(self._lifeline)

    def kill(self) -> bool:
        self._process.kill()
        return True

    @property
    def memory_bytes(self) -> int:
        with suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    @property
    def lost(self) -> bool:
        return self._ended.is_set() and not self._unloading

    def on_lost(self, report: Callable[[], object]) -> None:
        self._report = report
        if self.lost:
            report()

    def _start(self, slots: int) -> tuple[subprocess.Popen[bytes], Connection]:
        """The process and its control connection."""
        pairs = [socket.socketpair() for _ in range(1 + slots)]
        theirs, self._lifeline = os.pipe()
        descriptors = [theirs, *(child.fileno() for _, child in pairs)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
        # The role is there for those who list processes.
        command = [sys.executable, "-m", "chatapi.runtime.engine_child", self._role]
        try:
            process = subprocess.Popen(
                [*command, *map(str, descriptors)],
                env=environment,
                # Otherwise Python would import modules from the server's working directory.
                cwd="/",
                stdin=subprocess.DEVNULL,
                # What libraries print must not mix with the output of a command.
                stdout=2,
                pass_fds=descriptors,
                # Ctrl-C on a terminal goes only to chatapi, which then ends the engine.
                start_new_session=True,
            )
        except OSError:
            os.close(self._lifeline)
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            os.close(theirs)
            for _, child in pairs:
                child.close()
        control, *others = (Connection(ours) for ours, _ in pairs)
        for each in others:
            self._free.put(each)
        return process, control

    def _stand_in(self, loaded: Mapping[str, Any]) -> SimpleNamespace:
        """An object with the attributes that the engine declares, and the counters of its library, if it has any."""
        engine = SimpleNamespace(**loaded["declared"])
        if loaded["counts"] is not None:
            self._counts = loaded["counts"]
            engine.counts = lambda: self._counts
        return engine

    def _follow(self) -> None:
        """Take the log and the news of the process until it has ended."""
        with suppress(BrokenFrame, *UNEXPECTED):
            while True:
                frame = self._control.receive()
                if frame.kind == engine_frames.LOG:
                    _log(frame.value)
                elif not self._loaded.done():
                    self._set_loaded(frame)
        # The connection ends with the process, unless what it sent was no frame.
        self._process.kill()
        status = self._process.wait()
        self._cause = signal.Signals(-status).name if status < 0 else f"status {status}"
        self._ended.set()
        if not self._unloading:
            log.error("engine process ended", extra={"role": self._role, "cause": self._cause})
        if not self._loaded.done():
            message = f"the {self._role} engine crashed while it was loading ({self._cause})"
            self._loaded.set_exception(EngineFailed(message, code="engine_crashed"))
        self._report()

    def _set_loaded(self, frame: Frame) -> None:
        if frame.kind == engine_frames.READY:
            self._loaded.set_result(frame.value)
        else:
            self._loaded.set_exception(engine_errors.rebuilt(frame.value))

    def _items(self, call: EngineCall[T], stop: Stop) -> Iterator[T]:
        connection, number, taken = self._free.get(), next(self._numbers), 0
        running = False
        try:
            order = [call.method, call.arguments, call.options, call.whole]
            connection.send(engine_frames.CALL, number, order)
            running = True
            while (frame := self._next(connection, number, stop)).kind == engine_frames.ITEM:
                taken += 1
                if taken % (WINDOW // 2) == 0:
                    connection.send(engine_frames.MORE, number)
                yield frame.value
            running = False
            self._end(frame)
        except BrokenFrame as error:
            running = False
            raise self._crashed() from error
        finally:
            if running:
                self._cancel(connection, number)
            self._free.put(connection)

    def _next(self, connection: Connection, number: int, stop: Stop) -> Frame:
        """The next item or the end of a call; tells the child when the call is cancelled meanwhile."""
        told = False
        while True:
            while not connection.arrived(POLL_SECONDS):
                if not told and not still_wanted(stop):
                    connection.send(engine_frames.STOP, number)
                    told = True
            frame = connection.receive()
            if frame.kind != engine_frames.ALIVE:
                return frame
            # Asking is the sign of life of the thread that waits.
            stop()

    def _end(self, frame: Frame) -> None:
        """Take the end of a call. Raises its error."""
        if frame.kind != engine_frames.END:
            raise engine_errors.rebuilt(frame.value)
        if frame.value:
            self._counts = frame.value

    def _cancel(self, connection: Connection, number: int) -> None:
        """Cancel a call whose reader has left, and wait until the engine has ended it."""
        with suppress(BrokenFrame):
            connection.send(engine_frames.STOP, number)
            while connection.receive().kind not in (engine_frames.END, engine_frames.ERROR):
                pass

    def _crashed(self) -> EngineFailed:
        """The error of a call whose connection ended; the engine is lost from now on."""
        self._process.kill()
        self._ended.wait()
        return EngineFailed(
            f"the {self._role} engine crashed ({self._cause}); it is being started again", code="engine_crashed"
        )


def _tree(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, without the server's secrets, which no engine needs."""
    tree: dict[str, Any] = settings.model_dump(mode="json")
    for key in dotted_keys(type(settings)):
        if isinstance(secret := at(settings, key), SecretStr):
            *path, name = key.split(".")
            table = tree
            for step in path:
                table = table[step]
            del table[name]
            if path[:1] != ["server"]:
                table[name] = secret.get_secret_value()
    return tree


def _log(line: Mapping[str, Any]) -> None:
    """Log a line of the child, if its logger is heard here."""
    logger = logging.getLogger(str(line["name"]))
    if logger.isEnabledFor(line["level"]):
        logger.log(line["level"], "%s", line["message"], extra=line["fields"])
