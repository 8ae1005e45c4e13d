"""Forwards a container's notifications to systemd: `notify_relay.py COMMAND...`, run by the unit with the host's
Python.

systemd assigns a notification to the unit of its sender's cgroup (sd_notify(3)), and a container's processes are in the
container daemon's cgroup. So this process, which is in the unit's cgroup, listens on a socket that the container gets,
and forwards its notifications. It passes signals to the command, and ends with it.
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
"""Notifications that are forwarded; not those about the main process or file descriptors to keep."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGHUP)
LONGEST = 4096
"""Largest notification, in bytes."""


def main(command: list[str]) -> int:
    """Run the command and return its status, or 128 and the number of the signal that killed it."""
    if not command:
        sys.stderr.write("notify_relay.py: name the command to run\n")
        return 2
    manager = os.environ.get("NOTIFY_SOCKET", "")
    place = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/chatapi")) / "notify"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inner:
        inner.bind(str(place))
        # The container has another user.
        place.chmod(0o666)
        environ = {**os.environ, "NOTIFY_SOCKET": str(place)}
        environ.pop("WATCHDOG_PID", None)
        with subprocess.Popen(command, env=environ) as process:
            for number in FORWARDED:
                signal.signal(number, lambda sent, _: process.send_signal(sent))
            status = relay(inner, manager, process)
    return 128 - status if status < 0 else status


def relay(inner: socket.socket, manager: str, process: subprocess.Popen[bytes]) -> int:
    """Forward notifications until the process ends. Returns its return code."""
    address = "\0" + manager[1:] if manager.startswith("@") else manager
    ended = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as ready, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outer:
        ready.register(inner, selectors.EVENT_READ)
        ready.register(ended, selectors.EVENT_READ)
        while True:
            events = {key.fileobj for key, _ in ready.select()}
            if inner in events:
                lines = inner.recv(LONGEST).decode(errors="replace").splitlines()
                notification = "\n".join(line for line in lines if line.startswith(ALLOWED))
                if notification and address:
                    outer.sendto(notification.encode(), address)
            elif ended in events:
                os.close(ended)
                return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
