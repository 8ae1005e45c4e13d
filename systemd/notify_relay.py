"""Hands on to systemd what a container says: `notify_relay.py COMMAND...`, run by the unit, with the host's own Python.

systemd takes a message for that of the unit whose cgroup its sender belongs to (sd_notify(3)), and a container's
processes belong to the container daemon's. So this process, which is the unit's own, listens on a socket that the
container is given and says everything again; signals go to the command, and its end is ours.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path

ALLOWED = ("READY=", "STATUS=", "WATCHDOG=", "STOPPING=", "EXTEND_TIMEOUT_USEC=")
"""What a container may say; not who its main process is, or which file descriptors to keep."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGHUP)
LONGEST = 4096
"""Bytes of a message."""


def main(command: list[str]) -> int:
    """Run the command until its end; its status is ours, 128 and the signal's number where one killed it."""
    if not command:
        sys.stderr.write("notify_relay.py: name the command to run\n")
        return 2
    manager = os.environ.get("NOTIFY_SOCKET", "")
    place = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/chatapi")) / "notify"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inner:
        inner.bind(str(place))
        # The user of the container is another one.
        place.chmod(0o666)
        environ = {**os.environ, "NOTIFY_SOCKET": str(place)}
        environ.pop("WATCHDOG_PID", None)
        with subprocess.Popen(command, env=environ) as process:
            for number in FORWARDED:
                signal.signal(number, lambda sent, _: process.send_signal(sent))
            status = relay(inner, manager, process)
    return 128 - status if status < 0 else status


def relay(inner: socket.socket, manager: str, process: subprocess.Popen[bytes]) -> int:
    """Hand messages on until the process ends; its return code."""
    address = "\0" + manager[1:] if manager.startswith("@") else manager
    ended = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as ready, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outer:
        ready.register(inner, selectors.EVENT_READ)
        ready.register(ended, selectors.EVENT_READ)
        while True:
            events = {key.fileobj for key, _ in ready.select()}
            if inner in events:
                told = inner.recv(LONGEST).decode(errors="replace").splitlines()
                said = "\n".join(line for line in told if line.startswith(ALLOWED))
                if said and address:
                    outer.sendto(said.encode(), address)
            elif ended in events:
                os.close(ended)
                return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
