"""Repeated log lines, held back beyond a number a minute and summed up in one line: a log must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

PER_MINUTE = 60
"""Lines of one logger with one text, its values left open."""
PER_LOGGER = 600
"""Lines of one logger in a minute, whatever their texts: some hold values that differ each time."""
WINDOW_SECONDS = 60.0
MOST_KINDS = 1000
"""Texts that are counted at once."""

Kind = tuple[str, int, str]
"""Logger, level and text; the text is empty where all of a logger is counted."""


@dataclass
class _Count:
    ends: float
    passed: int = 0
    held: int = 0


class FloodFilter(logging.Filter):
    """Of a handler. What it held back is told when a window of time is over, on a thread's timer."""

    def __init__(
        self,
        exempt: str = "",
        per_minute: int = PER_MINUTE,
        window: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`exempt`: the logger whose lines all pass."""
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
        """Tell what was held back in windows that are over, or in all."""
        with self._lock:
            told = self._over(everything)
        for name, level, text, held in told:
            words = f"{text[:200]!r}" if text else "other lines of this logger"
            extra = {"sums_up": True, "lines": held, "seconds": self._window}
            logging.getLogger(name).log(
                level, "%d more lines were left out in %g seconds: %s", held, self._window, words, extra=extra
            )

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._window, self._tell)
            self._timer.daemon = True
            self._timer.start()

    def _tell(self) -> None:
        self.flush()
        with self._lock:
            self._timer = None
            if any(count.held for count in self._counts.values()):
                self._arm()

    def _count(self, kind: Kind, most: int) -> bool:
        """Whether one more of this kind passes."""
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

    def _over(self, everything: bool) -> list[tuple[str, int, str, int]]:
        """Logger, level, text and number of lines held back; what is over is forgotten."""
        now, found = self._clock(), []
        for kind, count in list(self._counts.items()):
            if count.held and (everything or now >= count.ends):
                name, level, text = kind
                found.append((name, level or logging.WARNING, text, count.held))
                del self._counts[kind]
        return found
