"""Logging to standard error, readable on a terminal and JSON otherwise, and the audit log.

Every line has the id of its request. Secrets are removed from every line and its exception (`redaction`).
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
"""Id of the current request."""
AUDIT = "chatapi.audit"
"""Name of the audit logger."""
LARGEST = 4 << 20
"""Largest size of the audit log and of each older file, in bytes."""
OLDER = 4
"""Number of older audit files."""
QUEUE = 10_000
"""Largest number of audit lines that wait for the disk."""
CLOSE_SECONDS = 10.0
"""Longest wait for the disk at the end, in seconds."""

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
        fields = {key: value for key, value in vars(record).items() if key not in _PLAIN | {"request_id"}}
        extra = " ".join(f"{key}={value}" for key, value in redacted_tree(fields).items())
        rid = getattr(record, "request_id", "-")
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {'' if rid == '-' else rid + ' '}{record.getMessage()} {extra}"
        return redacted(line.rstrip() + ("\n" + self.formatException(record.exc_info) if record.exc_info else ""))


def _stamp(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


def configure(settings: LogSettings) -> None:
    """Set up logging for the process. Libraries log from level warning; lines that repeat too often are summed up."""
    human = settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Human() if human else _Json())
    handler.addFilter(_stamp)
    flood = FloodFilter(AUDIT)
    handler.addFilter(flood)
    atexit.register(flood.flush, True)
    # The audit log may need a lower level than standard error.
    handler.setLevel(settings.level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("chatapi").setLevel(settings.level.upper())


def set_level(settings: LogSettings) -> None:
    """Change the lowest level that is logged, after `configure`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, (_Json, _Human)):
            handler.setLevel(settings.level.upper())
    logging.getLogger("chatapi").setLevel(settings.level.upper())


class _Audit(logging.handlers.RotatingFileHandler):
    """The file of the audit log. Lines that a full disk cannot take are lost; the first failure is logged."""

    _reported = False

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def begin(self) -> None:
        """Open the file before the first line, so that the owner sees a problem at once."""
        try:
            self.stream = self._open()
        except OSError as error:
            self._report(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        self._report(sys.exc_info()[1])

    def _report(self, error: BaseException | None) -> None:
        if not self._reported:
            self._reported = True
            message = "%s cannot be written: %s; make it writable, or set log.audit = false"
            logging.getLogger(__name__).error(message, self.baseFilename, error)


class _AuditQueue(logging.handlers.QueueHandler):
    """Queues audit lines, so that the event loop never waits for the disk. A full queue loses lines; the first loss is
    logged."""

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._reported:
            self._reported = True
            logging.getLogger(__name__).warning("audit lines lost, because the disk is too slow")


class _Writer(logging.handlers.QueueListener):
    """The thread that writes queued audit lines."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None], handler: logging.Handler) -> None:
        super().__init__(lines, handler)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        """Add the end marker after the waiting lines; waits while the queue is full."""
        self._lines.put(None, timeout=CLOSE_SECONDS)


@contextmanager
def auditing(settings: LogSettings, file: Path, largest: int = LARGEST) -> Iterator[None]:
    """Write the audit log inside the context, if it is enabled.

    `largest`: size of a file in bytes; older parts are beside it. If the file cannot be written, that is
    logged, every line tries again, and the server answers meanwhile.
    """
    if not settings.audit:
        yield
        return
    with suppress(OSError):
        # The first line reports a problem with the folder.
        private_files.folder(file.parent)
        if file.is_dir():
            private_files.move_aside(file)
    handler = _Audit(file, maxBytes=largest, backupCount=OLDER, encoding="utf-8", delay=True)
    handler.begin()
    handler.setFormatter(_Json())
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE)
    queued, writer = _AuditQueue(lines), _Writer(lines, handler)
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
