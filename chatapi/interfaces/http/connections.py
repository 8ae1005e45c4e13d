"""Connections that are open: how many there may be, in all and of one address, and which give way to new ones.

An idle connection, on which no request is being answered, is closed when another needs its place, the oldest first, so
that idle clients keep no others out. Where none is idle the new one is refused: it may still send one request, which is
answered with 503, or served where it asks for the box's health.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from chatapi.auth import client_address
from chatapi.interfaces.http.tls import MOST_HANDSHAKES
from chatapi.system import file_descriptors

GRACE_SECONDS = 1.0
"""A connection that became idle more recently gives way to no other: its request may be on its way."""
REFUSING = 128
"""Connections beyond the bound that are told so; one more is closed without a word."""
LOCAL = 32
"""The same, for this machine alone: its own health checks find a place."""
BACKLOG = 128
"""Connections that the system keeps until they are accepted."""


class TrackedConnection(Protocol):
    """What the registry needs of a protocol."""

    transport: Any

    def expire(self) -> None:
        """No request came in time: close the connection."""


@dataclass(eq=False)
class ConnectionEntry:
    """One connection."""

    connection: TrackedConnection
    address: str
    """As limits count it; empty: this machine."""
    since: float
    """When it was opened or last became idle, in seconds."""
    refused: str = ""
    """Why it is refused; empty: it is not."""
    idle: bool = field(default=True, init=False)
    closing: float | None = field(default=None, init=False)
    """Since when its transport is being closed, in seconds."""


OTHERS = file_descriptors.RESERVE + REFUSING + LOCAL + BACKLOG + MOST_HANDSHAKES
"""Descriptors that connections which are served leave free."""


class ConnectionTable:
    """Belongs to one event loop."""

    def __init__(self, most: int, per_address: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = file_descriptors.for_connections(most, OTHERS)
        self._per_address = per_address
        self._clock = clock
        self._served: dict[ConnectionEntry, None] = {}
        self._refused: dict[ConnectionEntry, None] = {}
        self._idle: dict[ConnectionEntry, None] = {}
        """Of both kinds, the one that has been idle longest first."""
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._served) + len(self._refused)

    def enter(self, connection: TrackedConnection, address: str) -> ConnectionEntry | None:
        """A new connection's entry; None: there is no room to refuse it in, so it is to be closed at once."""
        local = client_address.is_local(address)
        entry = ConnectionEntry(connection, "" if local else client_address.client(address), self._clock())
        entry.refused = self._fault(entry)
        if entry.refused and not self._may_be_refused(local):
            return None
        (self._refused if entry.refused else self._served)[entry] = None
        self._addresses[entry.address] += 1
        self._idle[entry] = None
        return entry

    def leave(self, entry: ConnectionEntry) -> None:
        """It is closed."""
        self._idle.pop(entry, None)
        if entry in self._served or entry in self._refused:
            self._served.pop(entry, None)
            self._refused.pop(entry, None)
            self._addresses[entry.address] -= 1
            if not self._addresses[entry.address]:
                del self._addresses[entry.address]

    def busy(self, entry: ConnectionEntry) -> None:
        """A request came on it, and is being answered."""
        entry.idle = False
        self._idle.pop(entry, None)

    def idle(self, entry: ConnectionEntry) -> None:
        """Its request is answered."""
        if entry in self._served or entry in self._refused:
            entry.idle, entry.since = True, self._clock()
            self._idle[entry] = None

    def sweep(self, seconds: float) -> None:
        """Closes those that have been idle for so long, and drops those whose closing takes as long."""
        now = self._clock()
        for entry in (*self._served, *self._refused):
            transport = entry.connection.transport
            if transport.is_closing():
                if entry.closing is None:
                    entry.closing = now
                elif now - entry.closing > seconds:
                    transport.abort()
            elif entry.idle and now - entry.since > seconds:
                entry.connection.expire()

    def _fault(self, entry: ConnectionEntry) -> str:
        """Why there is no room for it; makes room where it can."""
        if entry.address and self._addresses[entry.address] >= self._per_address:
            if not self._give_way(each for each in self._idle if each.address == entry.address):
                return f"{self._per_address} connections of your address are open, which is all that are served"
        elif len(self._served) >= self.most and not self._give_way(each for each in self._idle if not each.refused):
            return f"{self.most} connections are open, which is all that are served"
        return ""

    def _may_be_refused(self, local: bool) -> bool:
        room = REFUSING + LOCAL if local else REFUSING
        # There are more of them than are accepted at once, so that each is read from before it gives way.
        return len(self._refused) < room or self._give_way((each for each in self._idle if each.refused), 0)

    def _give_way(self, idle: Iterator[ConnectionEntry], seconds: float = GRACE_SECONDS) -> bool:
        """Close the first of these that has been idle for so long; whether there was one."""
        found = next(idle, None)
        if found is None or self._clock() - found.since < seconds:
            return False
        self.leave(found)
        found.connection.transport.abort()
        return True
