"""Bytes that clients have sent and the box still holds, bounded over all connections.

What has arrived is counted, never what was announced: a client that states 31 MiB and sends nothing holds nothing. The
first bytes of every body are free, so that short requests are answered while uploads are refused, and one address may
hold half of the whole, so that it cannot keep the others out.
"""

from __future__ import annotations

from collections.abc import Callable

from chatapi.errors import Busy

FREE = 64 << 10
"""Bytes of each body that are not counted: a connection's buffers hold as many anyway."""
SHARE = 0.5
"""Of the budget, for one client address."""
RETRY_SECONDS = 2.0
"""Until a refused client is to try again."""
LARGE = 1 << 20
"""Bytes of a body from which its memory is worth giving back to the system."""


class ByteBudget:
    """Belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes held at once."""
        self.limit = limit
        self.held = 0
        """Bytes that count."""
        self.freed: Callable[[], None] | None = None
        """Called when a large reservation ends."""
        self._by_address: dict[str, int] = {}

    def open(self, address: str = "") -> Reservation:
        """For one body or connection of a client; `address` empty: no share of its own is counted."""
        return Reservation(self, address)

    def check(self, size: int, address: str = "") -> None:
        """Raises Busy where so many bytes more do not fit now; reserves nothing."""
        if (wanted := size - FREE) <= 0:
            return
        if self.held + wanted > self.limit:
            raise _busy(f"the box holds {self.held} bytes of other uploads, and {self.limit} are the limit")
        if address and self._by_address.get(address, 0) + wanted > self.limit * SHARE:
            raise _busy(f"uploads of one address may hold {round(self.limit * SHARE)} bytes at once")

    def _add(self, size: int, address: str) -> None:
        self.held += size
        if address:
            left = self._by_address.get(address, 0) + size
            if left:
                self._by_address[address] = left
            else:
                self._by_address.pop(address, None)


class Reservation:
    """What one body or connection holds; it must be released."""

    def __init__(self, budget: ByteBudget, address: str) -> None:
        self._budget = budget
        self.address = address
        """As shares are counted; empty: none is."""
        self.size = 0
        """Bytes of the client that are held."""
        self._peak = 0

    def hold(self, size: int) -> None:
        """So many bytes are held now. Raises Busy, and holds what it did before."""
        more = max(0, size - FREE) - max(0, self.size - FREE)
        if more > 0:
            self._budget.check(more + FREE, self.address)
        if more:
            self._budget._add(more, self.address)
        self.size = size
        self._peak = max(self._peak, size)

    def add(self, size: int) -> None:
        """So many bytes more. Raises Busy."""
        self.hold(self.size + size)

    def release(self) -> None:
        """Nothing is held any more."""
        self.hold(0)
        peak, self._peak = self._peak, 0
        if peak >= LARGE and self._budget.freed is not None:
            self._budget.freed()


def _busy(why: str) -> Busy:
    return Busy(f"{why}; send it again later", retry_after=RETRY_SECONDS)
