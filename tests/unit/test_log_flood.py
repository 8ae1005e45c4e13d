"""The flood filter: how many repeated log lines pass, and how the rest is summarized."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from chatapi.observability.log_flood import PER_LOGGER, PER_MINUTE, FloodFilter
from conftest import until


class Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("flooded")
    found.propagate = False
    yield found
    found.handlers.clear()
    found.propagate = True


def attached(logger: logging.Logger, flood: FloodFilter) -> Recorder:
    recorder = Recorder()
    recorder.addFilter(flood)
    logger.handlers[:] = [recorder]
    return recorder


def test_repeated_lines_beyond_the_limit_become_one_line(logger: logging.Logger) -> None:
    clock = Clock()
    flood = FloodFilter(clock=clock)
    recorder = attached(logger, flood)
    for number in range(PER_MINUTE + 40):
        logger.warning("connection %d failed", number)
    logger.warning("another")
    assert len(recorder.lines) == PER_MINUTE + 1 and recorder.lines[-1] == "another"
    flood.flush()
    assert len(recorder.lines) == PER_MINUTE + 1, "the minute is not over"
    clock.now = 61
    flood.flush()
    assert recorder.lines[-1] == "40 more lines suppressed in 60 seconds: 'connection %d failed'"
    logger.warning("connection %d failed", 0)
    assert recorder.lines[-1] == "connection 0 failed"


def test_different_lines_of_one_logger_have_a_limit(logger: logging.Logger) -> None:
    flood = FloodFilter(clock=Clock())
    recorder = attached(logger, flood)
    for number in range(PER_LOGGER + 5):
        logger.error(f"connection {number} failed")
    assert len(recorder.lines) == PER_LOGGER
    flood.flush(everything=True)
    assert recorder.lines[-1] == "5 more lines suppressed in 60 seconds: other lines of this logger"


def test_exempt_logger_has_no_limit(logger: logging.Logger) -> None:
    recorder = attached(logger, FloodFilter(exempt="flooded", clock=Clock()))
    for _ in range(PER_LOGGER + 5):
        logger.warning("request")
    assert len(recorder.lines) == PER_LOGGER + 5


@pytest.mark.anyio
async def test_summary_is_logged_even_without_a_further_line(logger: logging.Logger) -> None:
    recorder = attached(logger, FloodFilter(per_minute=1, window=0.05))
    logger.warning("again")
    logger.warning("again")
    await until(lambda: len(recorder.lines) == 2)
    assert recorder.lines[-1].startswith("1 more lines suppressed")
