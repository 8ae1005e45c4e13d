"""The events of captions or monitors for their viewers: numbered and kept, but for partial text, which is replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio


@dataclass(frozen=True)
class FeedEvent:
    """An event of a feed."""

    name: str
    """partial, gap, or one of the names that are kept."""
    data: Mapping[str, Any]
    number: int = 0
    """From 1; 0: it is not kept, and does not count."""


class EventFeed:
    """The last `most` events of captions, and the partial text. Belongs to one event loop. Viewers read at their own
    pace: one that falls behind misses nothing that is kept, and sees only the newest partial text."""

    def __init__(self, most: int) -> None:
        self._kept: deque[FeedEvent] = deque(maxlen=most)
        self._partial: FeedEvent | None = None
        self._partials = 0
        """Number of partial texts so far."""
        self._changed = anyio.Event()
        self.number = 0
        """Of the last event that is kept."""
        self.closed = False
        """Whether no further event follows."""
        self.viewers = 0

    def keep(self, name: str, data: Mapping[str, Any]) -> None:
        """Adds an event that is numbered and kept; a line ends the partial text."""
        self.number += 1
        self._kept.append(FeedEvent(name, data, self.number))
        if name == "line":
            self._partial = None
        self._wake()

    def partial(self, data: Mapping[str, Any]) -> None:
        """Replaces the partial text."""
        self._partial = FeedEvent("partial", data)
        self._partials += 1
        self._wake()

    def close(self) -> None:
        """Ends the streams of all viewers behind the last event."""
        self.closed, self._partial = True, None
        self._wake()

    def events(self) -> list[FeedEvent]:
        """The events that are kept."""
        return list(self._kept)

    async def follow(self, after: int = 0) -> AsyncIterator[FeedEvent]:
        """The events behind a number, then each as it comes, until the feed is closed. Events that are no longer kept
        are skipped, and a first event `gap` says how many."""
        # A number of another feed, such as one before a restart, is no place in this one.
        after = after if after <= self.number else 0
        first = self._kept[0].number if self._kept else self.number + 1
        if after and first > after + 1:
            yield FeedEvent("gap", {"missing": first - after - 1})
        seen = -1
        while True:
            changed = self._changed
            for event in [each for each in self._kept if each.number > after]:
                after = event.number
                yield event
            if self._partial is not None and seen != self._partials:
                seen = self._partials
                yield self._partial
            if self.closed and after >= self.number:
                return
            if changed is self._changed:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
