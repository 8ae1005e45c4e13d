"""What the service manager is told: that we are ready, what we do, that we still live.

systemd's protocol, as sd_notify(3) and sd_watchdog_enabled(3) describe it: one datagram of NAME=value lines a message.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

LONGEST = 200
"""Characters of a status; it is shown as one line."""


@dataclass(frozen=True)
class ServiceManager:
    """Where the service manager listens; telling it anything does nothing where there is none."""

    address: str = ""
    """Path of a Unix socket, or, behind an @, a name in Linux' abstract namespace; empty: nobody listens."""
    watchdog: float = 0
    """Seconds within which it wants a sign of life from this process; 0: it wants none."""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> ServiceManager:
        """The one that started this process; a watchdog that is meant for another process is not ours to feed."""
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        told = environ.get("WATCHDOG_USEC", "")
        return cls(environ.get("NOTIFY_SOCKET", ""), int(told) / 1e6 if meant and told.isdecimal() else 0)

    def status(self, line: str) -> None:
        """One line that tells people what goes on."""
        self._send(_status(line))

    def ready(self, line: str) -> None:
        """Starting is over."""
        self._send("READY=1", _status(line))

    def alive(self) -> None:
        """Wanted once in `watchdog` seconds."""
        self._send("WATCHDOG=1")

    def more_time(self, seconds: float, line: str) -> None:
        """Starting may take `seconds` from now, whatever the limit was."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}", _status(line))

    def stopping(self) -> None:
        """From here on it only ends."""
        self._send("STOPPING=1", _status("stopping"))

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that does not read must not hold what serves.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("the service manager at %s cannot be told anything: %s", self.address, error)


def _status(line: str) -> str:
    return f"STATUS={' '.join(line.split())[:LONGEST]}"
