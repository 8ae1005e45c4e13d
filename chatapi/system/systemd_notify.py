"""Notifications to systemd: ready, status, watchdog, stopping.

Each message is one datagram of NAME=value lines; see sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

LONGEST = 200
"""Longest status, in characters; it is shown as one line."""


@dataclass(frozen=True)
class ServiceManager:
    """The service manager's notification socket; without one, notifications are not sent."""

    address: str = ""
    """Path of a Unix socket, or, after an @, a name in Linux's abstract namespace; empty: no service manager."""
    watchdog: float = 0
    """Longest time between two watchdog notifications, in seconds; 0: no watchdog."""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> ServiceManager:
        """The service manager that started this process; a watchdog for another process is ignored."""
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        watchdog = int(microseconds) / 1e6 if for_us and microseconds.isdecimal() else 0
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog)

    def status(self, line: str) -> None:
        """Send a status line for people."""
        self._send(_status(line))

    def ready(self, line: str) -> None:
        """Report that the start is complete."""
        self._send("READY=1", _status(line))

    def alive(self) -> None:
        """Feed the watchdog; to be called at least every `watchdog` seconds."""
        self._send("WATCHDOG=1")

    def more_time(self, seconds: float, line: str) -> None:
        """Extend the start timeout to `seconds` from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}", _status(line))

    def stopping(self) -> None:
        """Report that the process is stopping."""
        self._send("STOPPING=1", _status("stopping"))

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A service manager that does not read must not block the server.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("the service manager at %s cannot be notified: %s", self.address, error)


def _status(line: str) -> str:
    return f"STATUS={' '.join(line.split())[:LONGEST]}"
