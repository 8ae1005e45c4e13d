"""Rate limits: how many requests a key may make, and how many wrong keys an address may send."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from chatapi.auth import client_address
from chatapi.auth.scopes import KeyHolder
from chatapi.errors import TooMany

HIGHEST_RATE = 100_000
"""Highest rate limit of a key, in requests per minute."""
WRONG_KEYS = 10
"""Number of wrong keys in a row that an address may send, and the number per minute after that."""
MOST_ADDRESSES = 1024
"""Number of addresses whose wrong keys are counted."""


class RequestRates:
    """Counts the requests of each key, which may make a minute's requests at once, and then as its rate says."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`most`: number of keys; `clock` returns seconds."""
        self._buckets = TokenBuckets(most, clock)

    def count(self, holder: KeyHolder) -> None:
        """Count a request of the client. Raises TooMany (rate_limited)."""
        if holder.rate and (wait := self._buckets.take(holder.id, holder.rate, holder.rate / 60)):
            message = f"{holder} is limited to {holder.rate} requests per minute"
            raise TooMany(message, retry_after=wait)


class WrongKeys:
    """Counts the wrong keys of each address, with one count for the networks that `client_address` joins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        self._buckets = TokenBuckets(MOST_ADDRESSES, clock)

    def check(self, address: str) -> None:
        """Raises TooMany (rate_limited) when no key of this address may be compared now."""
        if wait := self._buckets.wait(client_address.client(address), WRONG_KEYS, WRONG_KEYS / 60):
            raise TooMany("too many wrong keys came from this address; wait, then send the right one", retry_after=wait)

    def count(self, address: str) -> None:
        """Count a wrong key."""
        self._buckets.take(client_address.client(address), WRONG_KEYS, WRONG_KEYS / 60)


class TokenBuckets:
    """At most `most` token buckets; beyond that the one unused for longest is dropped, and starts full again."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Name -> tokens, and when they were counted, in seconds of the clock."""

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, name: str, burst: float, per_second: float) -> float:
        """Time until a token is available, in seconds; 0: now."""
        return max(0.0, 1 - self._tokens(name, burst, per_second)) / per_second

    def take(self, name: str, burst: float, per_second: float) -> float:
        """Take a token and return 0; without a token, return the time until there is one, in seconds."""
        tokens = self._tokens(name, burst, per_second)
        if tokens < 1:
            return (1 - tokens) / per_second
        self._buckets[name] = (tokens - 1, self._clock())
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0

    def _tokens(self, name: str, burst: float, per_second: float) -> float:
        tokens, counted = self._buckets.get(name, (burst, 0.0))
        return min(burst, tokens + (self._clock() - counted) * per_second)
