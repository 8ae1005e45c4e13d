"""Commands of steps: each runs in a process group of its own, which ends with the process that started it."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chatapi.errors import DeadlineExceeded, InternalError
from chatapi.jobs.supervisor import CONTINUE, STOP

SUPERVISOR = Path(__file__).with_name("supervisor.py")
GRACE_SECONDS = 10.0
"""Time between SIGTERM and SIGKILL, in seconds."""
POLL_SECONDS = 0.2
"""Longest time between two checks for a pause, a cancellation or a stall, in seconds."""
LAST_LINES = 5
"""Number of the last lines of output that a result has."""
LINE_BYTES = 64 << 10
"""Length at which a line without a line end is split, in bytes."""


@dataclass(frozen=True)
class Command:
    """A command line, and how to read its output."""

    argv: Sequence[str]
    folder: Path
    """Its working directory."""
    fraction: Callable[[str], float | None] = lambda _: None
    """The finished part, 0 to 1, that a line of output tells; such a line is not logged. None: it tells none."""
    output: Callable[[str], None] = lambda _: None
    """Receives every other line."""
    stall_seconds: float | None = None
    """Time without output after which it is ended, in seconds; None: it may be silent."""
    environment: Mapping[str, str] | None = None
    """None: that of this process."""
    descriptors: Sequence[int] = ()
    """Descriptors that it inherits."""


@dataclass(frozen=True)
class CommandResult:
    """How a command ended."""

    status: int
    """0: it succeeded; 128 + N: signal N ended it."""
    last_lines: tuple[str, ...]

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it, as happens when memory runs out."""
        return self.status == 128 + signal.SIGKILL

    def require(self, what: str) -> None:
        """Raise InternalError (command_failed) unless it succeeded; `what` is the subject of the message."""
        if self.status:
            ended = f"ended with status {self.status}"
            why = "was killed, as happens when memory runs out" if self.was_killed else ended
            output = "".join(f"\n  {line}" for line in self.last_lines)
            raise InternalError(f"{what} {why}{':' if output else ''}{output}", code="command_failed")


Checkpoint = Callable[[Callable[[], AbstractContextManager[None]]], None]
"""Called often while a command runs, with a context in which the command is stopped; what it raises ends the group."""


def run(
    command: Command, lock: int, on_line: Callable[[str], None], checkpoint: Checkpoint, nice: int = 0
) -> CommandResult:
    """Run a command to its end. `lock`: descriptor that stays open until the whole group has ended. `on_line` receives
    each line of output. `nice`: what is added to its niceness.

    Raises DeadlineExceeded (step_stalled).
    """
    lifeline, other_end = os.pipe()
    try:
        process = _start(command, lock, lifeline, nice)
    except BaseException:
        os.close(other_end)
        raise
    finally:
        os.close(lifeline)
    last_lines: deque[str] = deque(maxlen=LAST_LINES)

    @contextmanager
    def stopped() -> Iterator[None]:
        _tell(other_end, STOP)
        try:
            yield
        finally:
            _tell(other_end, CONTINUE)

    try:
        for line in _lines(command, process, lambda: checkpoint(stopped)):
            on_line(line)
            if command.fraction(line) is None and line.strip():
                last_lines.append(line.strip())
        while process.poll() is None:
            checkpoint(stopped)
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        return CommandResult(process.returncode, tuple(last_lines))
    finally:
        os.close(other_end)
        _wait(process)


def _tell(other_end: int, what: bytes) -> None:
    """Tell the supervisor to stop the group, or to let it go on."""
    with suppress(BrokenPipeError):
        # Its end is noticed where its output is read.
        os.write(other_end, what)


def _start(command: Command, lock: int, lifeline: int, nice: int) -> subprocess.Popen[bytes]:
    kept = ",".join(map(str, command.descriptors))
    supervisor = [sys.executable, "-I", "-S", str(SUPERVISOR), str(lifeline), kept, str(GRACE_SECONDS), str(nice)]
    # A session of its own: Ctrl-C in a terminal reaches this process only.
    return subprocess.Popen(
        [*supervisor, *command.argv], cwd=command.folder, env=command.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(lifeline, lock, *command.descriptors),
        start_new_session=True,
    )  # fmt: skip


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait until the supervisor has ended the group."""
    if process.stdout:
        process.stdout.close()
    try:
        process.wait(GRACE_SECONDS + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _lines(command: Command, process: subprocess.Popen[bytes], checkpoint: Callable[[], None]) -> Iterator[str]:
    """Lines that end in a line feed or, as progress bars do, in a carriage return."""
    pipe = process.stdout
    assert pipe is not None  # noqa: S101 - stdout is a pipe
    held, output_at = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            before = time.monotonic()
            checkpoint()
            # It may have waited there for more urgent work.
            output_at += time.monotonic() - before
            if selector.select(POLL_SECONDS):
                if not (chunk := os.read(pipe.fileno(), LINE_BYTES)):
                    break
                *whole, held = re.split(rb"[\r\n]", held + chunk)
                if len(held) > LINE_BYTES:
                    whole, held = [*whole, held], b""
                yield from (line.decode(errors="replace") for line in whole)
                output_at = time.monotonic()
            elif process.poll() is not None:
                # A process that left the group still holds the pipe.
                break
            elif command.stall_seconds is not None and time.monotonic() > output_at + command.stall_seconds:
                raise DeadlineExceeded(
                    f"{command.argv[0]} wrote nothing for {command.stall_seconds:g} seconds and was ended",
                    code="step_stalled",
                )
    if held:
        yield held.decode(errors="replace")
