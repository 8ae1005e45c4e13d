"""Runs one command in a process group of its own; ends the group when the process that started this one ends.

A script for a Python without site-packages: LIFELINE KEPT GRACE NICE COMMAND... LIFELINE is the descriptor of a pipe
whose other end the starter holds, KEPT the descriptors that the command inherits, separated by commas, GRACE the
seconds between SIGTERM and SIGKILL, and NICE what is added to the command's niceness. The starter writes STOP and
CONTINUE into the pipe, which keeps their order. The status is the command's; 128 + N when signal N ended it, as in a
shell.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

PR_SET_PDEATHSIG = 1
"""Option of prctl(2)."""
NOT_FOUND = 127
"""Status when the command cannot be started, as in a shell."""
STOP, CONTINUE = b"s", b"c"
"""What the starter writes to stop the group and to let it go on."""


def main() -> int:
    lifeline, kept, grace, nice, command = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4], sys.argv[5:]
    child = os.fork()
    if child == 0:
        # Not this process, which must be quick to stop the group.
        _lower(int(nice))
        _exec(command, [int(each) for each in kept.split(",") if each])
    # Also here, because the group may be killed before the child has done it.
    with suppress(OSError):
        os.setpgid(child, child)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end, args=(child, grace), daemon=True).start())
    threading.Thread(target=_watch, args=(lifeline, child, grace), daemon=True).start()
    # Not yet reaped, so that no other process can have its number when the rest of the group is killed.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _lower(nice: int) -> None:
    """Make this process and those it starts nicer."""
    if nice:
        with suppress(OSError):
            os.nice(nice)
        # Where the kernel groups processes by session, niceness counts inside a session only, and this one has its own.
        with suppress(OSError), open("/proc/self/autogroup", "w") as group:  # noqa: PTH123 - few imports
            group.write(str(nice))


def _exec(command: list[str], kept: list[int]) -> NoReturn:
    """In the child: become the command."""
    try:
        os.setpgid(0, 0)
        # A server that nohup started ignores it; a stopped group ends by it when it is orphaned.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # Should this process be killed, at least the command itself ends.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not files
            if descriptor > 2 and descriptor not in kept:
                os.closerange(descriptor, descriptor + 1)
        os.execvp(command[0], command)  # noqa: S606 - no shell is meant
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
    finally:
        os._exit(NOT_FOUND)


def _watch(lifeline: int, child: int, grace: float) -> None:
    while asked := os.read(lifeline, 1):
        kill(child, signal.SIGSTOP if asked == STOP else signal.SIGCONT)
    end(child, grace)


def end(group: int, grace: float) -> None:
    """Ask the group to end, then kill it."""
    kill(group, signal.SIGTERM)
    # A stopped process ends when it goes on.
    kill(group, signal.SIGCONT)
    time.sleep(grace)
    kill(group, signal.SIGKILL)


def kill(group: int, number: int) -> None:
    """Send a signal to a group that may have ended."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
