"""What of a media file was not decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

log = logging.getLogger(__name__)


@dataclass
class Skipped:
    """Counts what was skipped while a file was decoded. False where nothing was."""

    packets: int = 0
    """Damaged packets, pages and boxes."""
    bytes: int = 0
    """Data before, between and after media files that is neither one nor a tag."""

    def __bool__(self) -> bool:
        return bool(self.packets or self.bytes)

    def __str__(self) -> str:
        """In words: "2 damaged packets and 300 bytes that are not audio"."""
        packets = f"{self.packets} damaged packet{'' if self.packets == 1 else 's'}" if self.packets else ""
        data = f"{self.bytes} byte{' that is' if self.bytes == 1 else 's that are'} not audio" if self.bytes else ""
        return " and ".join(filter(None, (packets, data))) or "nothing"


_collected: ContextVar[Skipped | None] = ContextVar("skipped", default=None)


@contextmanager
def collect() -> Iterator[Skipped]:
    """Counts what is skipped of all files that are decoded in the block, also on threads and tasks that it starts."""
    counts = Skipped()
    token = _collected.set(counts)
    try:
        yield counts
    finally:
        _collected.reset(token)


def collected() -> Skipped:
    """What was skipped so far in the innermost block of `collect`."""
    return _collected.get() or Skipped()


def report(skipped: Skipped) -> None:
    """Logs what was skipped of a file, and adds it to the counts of the block of `collect` that is entered."""
    if not skipped:
        return
    log.info(
        "parts of a media file skipped", extra={f"skipped_{name}": count for name, count in asdict(skipped).items()}
    )
    counts = _collected.get()
    if counts is not None:
        counts.packets += skipped.packets
        counts.bytes += skipped.bytes
