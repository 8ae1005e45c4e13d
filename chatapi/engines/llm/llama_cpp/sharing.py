"""One KV cache for all completions: how much of it each may use, and which prompt is processed first.

The library fills each step with the prompt of its first slot, so a long prompt would delay all others until its end,
and it fails every completion when the cache overflows. So each completion has a share: it waits for room, pauses while
a shorter prompt is read, and gets more room token by token. What a paused prompt has computed stays cached.
"""

from __future__ import annotations

import threading

from chatapi.engines import ContextOverflow, Stop
from chatapi.engines.llm.context_size import ContextSize

STEP = 128
"""Prompt tokens computed at once: the longest that stopping has to wait for, about 0.4 s on two laptop cores."""
ANSWER = 512
"""Tokens reserved for an answer, unless its limit is lower; a longer one takes more as long as there is room."""
MORE = 64
"""Tokens by which an answer's room grows."""
MARGIN = 4 * STEP
"""Prompt tokens by which another prompt must be shorter to be read first; the last tokens of a prompt are read
whatever else waits."""
POLL_SECONDS = 0.05
"""Interval between checks whether a waiting completion is still wanted, in seconds."""


class Paused(Exception):
    """The completion stops reading its prompt for now; what it has read stays cached."""


class Full(Exception):
    """The answer ends here: the others need the rest of the context."""


class Share:
    """The part of one completion."""

    def __init__(self, shared: SharedContext, estimate: int, max_tokens: int) -> None:
        """`estimate`: tokens of the prompt, until the library has counted them."""
        self._shared = shared
        self.prompt, self._max_tokens = estimate, max_tokens
        self.cached = 0
        """Prompt tokens that were in the cache at first."""
        self.written = 0
        """Tokens of the answer."""
        self.unread: int | None = None
        """Prompt tokens still to be read; None: unknown."""
        self.runs = False
        self.slot = -1
        """The library's slot, while it runs."""
        self.reserved = self._needed()

    def wait(self, stop: Stop) -> bool:
        """Waits until the completion may run. Returns False when it is no longer wanted."""
        while not stop():
            with self._shared.changed:
                if self._shared.admits(self):
                    self.runs = True
                    return True
                self._shared.changed.wait(POLL_SECONDS)
        return False

    def read(self, total: int, processed: int, cached: int) -> None:
        """So many of the prompt's tokens are computed; called before the first step and after each.

        Raises ContextOverflow, or Paused.
        """
        if total + self._max_tokens > self._shared.tokens:
            raise ContextOverflow(total + self._max_tokens, self._shared.tokens, self._shared.remedy)
        with self._shared.changed:
            if self.unread is None:
                self.cached = cached
            self.prompt, self.unread = total, total - processed
            self.reserved = self._needed()
            self._shared.changed.notify_all()
            if self.unread and not self._shared.keeps(self):
                self.runs = False
                raise Paused

    def write(self) -> None:
        """The answer has another token. Raises Full when there is no room for it."""
        self.unread = 0
        self.written += 1
        if self.prompt + self.written < self.reserved:
            return
        with self._shared.changed:
            if not self._shared.has_room(self, MORE):
                raise Full
            self.reserved += MORE

    def end(self) -> None:
        """The completion is over."""
        self._shared.remove(self)

    def _needed(self) -> int:
        return self.prompt + min(self._max_tokens, ANSWER)


class SharedContext:
    """The shares of all completions in progress."""

    def __init__(self, context: ContextSize) -> None:
        self.tokens, self.remedy = context.tokens, context.remedy
        self._pool = context.pool
        self.changed = threading.Condition()
        """Guards all shares, and is notified when one changes."""
        self._shares: set[Share] = set()

    def share(self, estimate: int, max_tokens: int) -> Share:
        """The share of a new completion, which does not run yet; `end` it."""
        share = Share(self, estimate, max_tokens)
        with self.changed:
            self._shares.add(share)
        return share

    def remove(self, share: Share) -> None:
        with self.changed:
            self._shares.discard(share)
            self.changed.notify_all()

    def admits(self, share: Share) -> bool:
        """Whether a waiting completion may run; a new one may at once, and the others make room for its prompt."""
        return self.has_room(share) and (share.unread is None or not self._has_shorter(share, share.unread))

    def keeps(self, share: Share) -> bool:
        """Whether a completion may continue reading its prompt."""
        left = (share.unread or 0) - MARGIN
        return self.has_room(share) and (left <= 0 or not self._has_shorter(share, left))

    def has_room(self, share: Share, more: int = 0) -> bool:
        """Whether a share, and this many tokens more, fit beside those that run; alone it always fits."""
        others = [each.reserved for each in self._running(share)]
        return not others or sum(others) + share.reserved + more <= self._pool

    def _has_shorter(self, share: Share, unread: int) -> bool:
        """Whether another prompt is being read that has less left, or whose length is still unknown."""
        return any(each.unread is None or 0 < each.unread < unread for each in self._running(share))

    def _running(self, share: Share) -> list[Share]:
        return [each for each in self._shares if each.runs and each is not share]
