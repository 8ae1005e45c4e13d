"""Limits repeated log lines to a number per minute and sums up the rest in one line: a log must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

PER_MINUTE = 60
"""Largest number of lines per minute of one logger with one text, before its values are filled in."""
PER_LOGGER = 600
"""Largest number of lines per minute of one logger, for texts that contain values which differ each time."""
WINDOW_SECONDS = 60.0
"""Period in which lines are counted, in seconds."""
MOST_KINDS = 1000
"""Largest number of texts that are counted."""

Kind = tuple[str, int, str]
"""Logger, level and text; the text is empty for the count of a whole logger."""


@dataclass
class _Count:
    ends: float
    passed: int = 0
    held: int = 0


class FloodFilter(logging.Filter):
    """A filter for a handler. After each period it logs how many lines it suppressed, on the thread of a timer."""

    def __init__(
        self,
        exempt: str = "",
        per_minute: int = PER_MINUTE,
        window: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`exempt`: a logger that is not limited; `per_minute`: lines per `window`, which is in seconds."""
        super().__init__()
        self._exempt = exempt
        self._most = per_minute
        self._window = window
        self._clock = clock
        self._counts: OrderedDict[Kind, _Count] = OrderedDict()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == self._exempt or getattr(record, "sums_up", False):
            return True
        with self._lock:
            passes = self._count((record.name, record.levelno, str(record.msg)), self._most)
            passes = passes and self._count((record.name, 0, ""), self._most * PER_LOGGER // PER_MINUTE)
            if not passes:
                self._arm()
        return passes

    def flush(self, everything: bool = False) -> None:
        """Log how many lines were suppressed in ended periods, or in all."""
        with self._lock:
            ended = self._take_ended(everything)
        for name, level, text, held in ended:
            which = f"{text[:200]!r}" if text else "other lines of this logger"
            extra = {"sums_up": True, "lines": held, "seconds": self._window}
            logging.getLogger(name).log(
                level, "%d more lines suppressed in %g seconds: %s", held, self._window, which, extra=extra
            )

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._window, self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def _on_timer(self) -> None:
        self.flush()
        with self._lock:
            self._timer = None
            if any(count.held for count in self._counts.values()):
                self._arm()

    def _count(self, kind: Kind, most: int) -> bool:
        """Count a line. Returns whether it passes."""
        now = self._clock()
        count = self._counts.get(kind)
        if count is None or (now >= count.ends and not count.held):
            count = self._counts[kind] = _Count(now + self._window)
            self._counts.move_to_end(kind)
            while len(self._counts) > MOST_KINDS:
                self._counts.popitem(last=False)
        if count.passed < most:
            count.passed += 1
            return True
        count.held += 1
        return False

    def _take_ended(self, everything: bool) -> list[tuple[str, int, str, int]]:
        """Remove ended periods. Returns logger, level, text and number of suppressed lines of each."""
        now, found = self._clock(), []
        for kind, count in list(self._counts.items()):
            if count.held and (everything or now >= count.ends):
                name, level, text = kind
                found.append((name, level or logging.WARNING, text, count.held))
                del self._counts[kind]
        return found
