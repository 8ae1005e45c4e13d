"""The table of open connections: limits in total and per address, and which connections are evicted for new ones.

An idle connection, which has no request in progress, is closed when a new connection needs its slot, the oldest first,
so that idle clients do not block others. When none is idle the new connection is rejected: it may still send one
request, which gets a 503, or is served when it is a health check.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from chatapi.auth import client_address
from chatapi.interfaces.http.listening import BACKLOG
from chatapi.interfaces.http.tls import MOST_HANDSHAKES
from chatapi.system import file_descriptors

GRACE_SECONDS = 1.0
"""Time for which a connection that became idle is not evicted, in seconds: its next request may be on its way."""
MAX_REJECTED = 128
"""Most connections beyond the limit that get a 503; further ones are closed without a response."""
MAX_REJECTED_LOCAL = 32
"""Further connections beyond the limit for this machine alone, so that its own health checks get through."""


class TrackedConnection(Protocol):
    """What the table needs of a protocol."""

    transport: Any

    def expire(self) -> None:
        """Closes the connection because no request arrived in time."""


@dataclass(eq=False)
class ConnectionEntry:
    """One connection in the table."""

    connection: TrackedConnection
    address: str
    """The address that limits count; empty for this machine."""
    since: float
    """Time when it was opened or last became idle, in seconds of the table's clock."""
    rejection: str = ""
    """Why it is rejected; empty when it is served."""
    idle: bool = field(default=True, init=False)
    closing: float | None = field(default=None, init=False)
    """Time since when its transport is closing, in seconds of the table's clock."""


RESERVED = file_descriptors.RESERVE + MAX_REJECTED + MAX_REJECTED_LOCAL + BACKLOG + MOST_HANDSHAKES
"""File descriptors that served connections leave free."""


class ConnectionTable:
    """All open connections of one event loop."""

    def __init__(self, most: int, per_address: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = file_descriptors.for_connections(most, RESERVED)
        self._per_address = per_address
        self._clock = clock
        self._served: dict[ConnectionEntry, None] = {}
        self._rejected: dict[ConnectionEntry, None] = {}
        self._idle: dict[ConnectionEntry, None] = {}
        """Idle connections, served and rejected, the longest idle first."""
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._served) + len(self._rejected)

    def add(self, connection: TrackedConnection, address: str) -> ConnectionEntry | None:
        """Adds a connection and returns its entry; None when it must be closed at once without a response."""
        local = client_address.is_local(address)
        entry = ConnectionEntry(connection, client_address.counted(address), self._clock())
        entry.rejection = self._rejection(entry)
        if entry.rejection and not self._can_reject(local):
            return None
        (self._rejected if entry.rejection else self._served)[entry] = None
        self._addresses[entry.address] += 1
        self._idle[entry] = None
        return entry

    def remove(self, entry: ConnectionEntry) -> None:
        """Removes a closed connection."""
        self._idle.pop(entry, None)
        if entry in self._served or entry in self._rejected:
            self._served.pop(entry, None)
            self._rejected.pop(entry, None)
            self._addresses[entry.address] -= 1
            if not self._addresses[entry.address]:
                del self._addresses[entry.address]

    def mark_busy(self, entry: ConnectionEntry) -> None:
        """Records that a request is in progress on it."""
        entry.idle = False
        self._idle.pop(entry, None)

    def mark_idle(self, entry: ConnectionEntry) -> None:
        """Records that its request is complete."""
        if entry in self._served or entry in self._rejected:
            entry.idle, entry.since = True, self._clock()
            self._idle[entry] = None

    def sweep(self, seconds: float) -> None:
        """Closes connections that have been idle for so long, and aborts those that take as long to close."""
        now = self._clock()
        for entry in (*self._served, *self._rejected):
            transport = entry.connection.transport
            if transport.is_closing():
                if entry.closing is None:
                    entry.closing = now
                elif now - entry.closing > seconds:
                    transport.abort()
            elif entry.idle and now - entry.since > seconds:
                entry.connection.expire()

    def _rejection(self, entry: ConnectionEntry) -> str:
        """Why the connection is rejected; evicts an idle connection for it when it can."""
        if entry.address and self._addresses[entry.address] >= self._per_address:
            if not self._evict(each for each in self._idle if each.address == entry.address):
                return f"{self._per_address} connections from your address are open, which is the limit"
        elif len(self._served) >= self.most and not self._evict(each for each in self._idle if not each.rejection):
            return f"{self.most} connections are open, which is the limit"
        return ""

    def _can_reject(self, local: bool) -> bool:
        room = MAX_REJECTED + MAX_REJECTED_LOCAL if local else MAX_REJECTED
        # There are more of them than are accepted at once, so that each is read before it is evicted.
        return len(self._rejected) < room or self._evict((each for each in self._idle if each.rejection), 0)

    def _evict(self, idle: Iterator[ConnectionEntry], seconds: float = GRACE_SECONDS) -> bool:
        """Closes the first of these if it has been idle for so long; returns whether it did."""
        found = next(idle, None)
        if found is None or self._clock() - found.since < seconds:
            return False
        self.remove(found)
        found.connection.transport.abort()
        return True
