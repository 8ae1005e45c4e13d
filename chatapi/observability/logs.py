"""What is written to standard error: for people on a terminal, JSON otherwise, each line with its request's id.

No line holds a secret (`redaction`), whoever wrote it, and neither does the exception behind it.
"""

from __future__ import annotations

import atexit
import json
import logging
import logging.handlers
import os
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import TextIOWrapper
from pathlib import Path

from chatapi.observability.log_flood import FloodFilter
from chatapi.observability.redaction import redacted, redacted_tree
from chatapi.settings import LogSettings
from chatapi.system import private_files

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request being worked on."""
AUDIT = "chatapi.audit"
"""The logger of who asked for what."""
LARGEST = 4 << 20
"""Bytes of the audit's file, and of each of the older ones."""
OLDER = 4
WAITING = 10_000
"""Lines of the audit that may wait for the disk."""
WRITTEN_SECONDS = 10.0
"""Longest wait, at the end, for a disk that takes nothing."""

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in vars(record).items() if name not in _PLAIN and name not in line})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(redacted_tree(line), default=str, ensure_ascii=False)


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {key: value for key, value in vars(record).items() if key not in _PLAIN | {"request_id"}}
        extra = " ".join(f"{key}={value}" for key, value in redacted_tree(told).items())
        rid = getattr(record, "request_id", "-")
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {'' if rid == '-' else rid + ' '}{record.getMessage()} {extra}"
        return redacted(line.rstrip() + ("\n" + self.formatException(record.exc_info) if record.exc_info else ""))


def _stamp(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


def configure(settings: LogSettings) -> None:
    """Set up logging for the process. Libraries speak from warning on; lines that repeat too often are summed up."""
    human = settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Human() if human else _Json())
    handler.addFilter(_stamp)
    flood = FloodFilter(AUDIT)
    handler.addFilter(flood)
    atexit.register(flood.flush, True)
    # The audit's file may want more than is wanted here.
    handler.setLevel(settings.level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("chatapi").setLevel(settings.level.upper())


class _Audit(logging.handlers.RotatingFileHandler):
    """A full disk costs the lines that found no room, and is told once."""

    _told = False

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def begin(self) -> None:
        """Open the file before the first line, so that the owner reads at once what is wrong with it."""
        try:
            self.stream = self._open()
        except OSError as error:
            self._tell(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name it has there
        self._tell(sys.exc_info()[1])

    def _tell(self, error: BaseException | None) -> None:
        if not self._told:
            self._told = True
            told = "%s cannot be written: %s; make it writable, or set log.audit = false"
            logging.getLogger(__name__).error(told, self.baseFilename, error)


class _Queued(logging.handlers.QueueHandler):
    """Takes lines from an event loop, which no disk is to hold up; a full queue costs them, and is told once."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name it has there
        if not self._told:
            self._told = True
            logging.getLogger(__name__).warning("the disk is too slow for the audit, and lines of it are lost")


class _Writer(logging.handlers.QueueListener):
    """The thread that writes them."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None], handler: logging.Handler) -> None:
        super().__init__(lines, handler)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        """Behind the lines that wait, also where they fill the queue."""
        self._lines.put(None, timeout=WRITTEN_SECONDS)


@contextmanager
def auditing(settings: LogSettings, data: Path, largest: int = LARGEST) -> Iterator[None]:
    """Keep the audit in a file while the block lasts, where it is set.

    Where it cannot be written that is logged, and tried again with every line: the box answers meanwhile.
    """
    if not settings.audit:
        yield
        return
    file = data / "audit.log"
    with suppress(OSError):
        # What is wrong there the first line tells.
        private_files.folder(data)
        if file.is_dir():
            private_files.aside(file)
    handler = _Audit(file, maxBytes=largest, backupCount=OLDER, encoding="utf-8", delay=True)
    handler.begin()
    handler.setFormatter(_Json())
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(WAITING)
    queued, writer = _Queued(lines), _Writer(lines, handler)
    queued.addFilter(_stamp)
    logger = logging.getLogger(AUDIT)
    logger.addHandler(queued)
    logger.setLevel(logging.INFO)
    writer.start()
    try:
        yield
    finally:
        logger.removeHandler(queued)
        logger.setLevel(logging.NOTSET)
        with suppress(queue.Full):
            writer.stop()
        handler.close()
