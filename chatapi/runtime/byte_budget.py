"""Limit on the bytes of client data held at once, over all connections.

Received bytes count, not announced ones: a client that declares 31 MiB and sends nothing holds nothing. The first bytes
of every body are not counted, so short requests are served while uploads are rejected. One address may hold half of the
budget, so it cannot block the other clients.
"""

from __future__ import annotations

from collections.abc import Callable

from chatapi.errors import Busy

FREE = 64 << 10
"""Bytes of each body that are not counted; the connection's buffers hold as many anyway."""
SHARE = 0.5
"""Share of the budget that one client address may hold."""
RETRY_SECONDS = 2.0
"""Retry-After of a rejected request, in seconds."""
LARGE = 1 << 20
"""Size from which the memory of a body is returned to the system, in bytes."""


class ByteBudget:
    """The bytes held by all bodies and connections. All methods belong to one event loop."""

    def __init__(self, limit: int) -> None:
        """`limit`: largest number of bytes held at once."""
        self.limit = limit
        self.held = 0
        """Counted bytes."""
        self.on_large_release: Callable[[], None] | None = None
        """Called when a large reservation is released."""
        self._by_address: dict[str, int] = {}

    def open(self, address: str = "") -> Reservation:
        """A reservation for one body or connection; an empty `address` has no limit of its own."""
        return Reservation(self, address)

    def check(self, size: int, address: str = "") -> None:
        """Raise Busy when `size` more bytes do not fit now. Reserves nothing."""
        if (wanted := size - FREE) <= 0:
            return
        if self.held + wanted > self.limit:
            raise _busy(f"{self.held} bytes of other uploads are held (limit {self.limit} bytes)")
        if address and self._by_address.get(address, 0) + wanted > self.limit * SHARE:
            raise _busy(f"the uploads of one address are limited to {round(self.limit * SHARE)} bytes at once")

    def _add(self, size: int, address: str) -> None:
        self.held += size
        if address:
            held = self._by_address.get(address, 0) + size
            if held:
                self._by_address[address] = held
            else:
                self._by_address.pop(address, None)


class Reservation:
    """The bytes that one body or connection holds; it must be released."""

    def __init__(self, budget: ByteBudget, address: str) -> None:
        self._budget = budget
        self.address = address
        """Client address whose share is counted; empty: no share is counted."""
        self.size = 0
        """Held bytes."""
        self._peak = 0

    def hold(self, size: int) -> None:
        """Set the held bytes to `size`. Raises Busy and keeps the old size when they do not fit."""
        more = max(0, size - FREE) - max(0, self.size - FREE)
        if more > 0:
            self._budget.check(more + FREE, self.address)
        if more:
            self._budget._add(more, self.address)
        self.size = size
        self._peak = max(self._peak, size)

    def add(self, size: int) -> None:
        """Hold `size` more bytes. Raises Busy when they do not fit."""
        self.hold(self.size + size)

    def release(self) -> None:
        """Free all held bytes."""
        self.hold(0)
        peak, self._peak = self._peak, 0
        if peak >= LARGE and self._budget.on_large_release is not None:
            self._budget.on_large_release()


def _busy(reason: str) -> Busy:
    return Busy(f"{reason}; try again later", retry_after=RETRY_SECONDS)
