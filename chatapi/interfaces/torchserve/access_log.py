"""TorchServe's access log, model log and model metrics: files in its form, without queries and without content."""

from __future__ import annotations

import logging
import logging.handlers
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatapi.errors import SettingsError
from chatapi.interfaces.torchserve.metrics import TorchServeMetrics
from chatapi.observability.redaction import redacted

LARGEST = 10 << 20
"""Largest size of a log file and of each older one, in bytes."""
OLDER = 4
LOGS = {
    "chatapi.torchserve.access": "access_log.log",
    "chatapi.torchserve.model": "model_log.log",
    "chatapi.torchserve.model_metrics": "model_metrics.log",
}
"""Logger -> its file."""
KINDS = {"chatapi.torchserve.access": "ACCESS_LOG - ", "chatapi.torchserve.model": "MODEL_LOG - "}
"""Logger -> what its lines begin with."""

_log = logging.getLogger("chatapi.torchserve.access")
_model = logging.getLogger("chatapi.torchserve.model")
_metrics = logging.getLogger("chatapi.torchserve.model_metrics")


class _Form(logging.Formatter):
    """Lines as TorchServe writes them, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        text = redacted(record.getMessage()).replace("\r", " ").replace("\n", " ")
        return f"{moment},{record.msecs:03.0f} [{record.levelname:<5}] {KINDS.get(record.name, '')}{text}"


class _Forward(logging.Handler):
    """Passes records on to the log of chatapi as far as its level wants them."""

    def emit(self, record: logging.LogRecord) -> None:
        if (parent := _model.parent) is not None and parent.isEnabledFor(record.levelno):
            parent.handle(record)


@contextmanager
def writing_logs(folder: Path | None) -> Iterator[None]:
    """Inside the context the logs are written to files of this folder; None: to none.

    Raises SettingsError when they cannot be.
    """
    if folder is None:
        yield
        return
    handlers: dict[str, logging.Handler] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in LOGS.items():
            handlers[name] = logging.handlers.RotatingFileHandler(
                folder / file, maxBytes=LARGEST, backupCount=OLDER, encoding="utf-8"
            )
    except OSError as error:
        for handler in handlers.values():
            handler.close()
        raise SettingsError(f"torchserve.logs: {folder} cannot be written: {error.strerror}") from error
    for name, handler in handlers.items():
        handler.setFormatter(_Form())
        logging.getLogger(name).addHandler(handler)
    for logger in (_log, _metrics):
        logger.setLevel(logging.INFO)
    # The file has every line, whatever level the log of chatapi has.
    _model.setLevel(logging.INFO)
    _model.propagate = False
    _model.addHandler(forward := _Forward())
    try:
        yield
    finally:
        for logger in (_log, _metrics):
            logger.setLevel(logging.CRITICAL)
        _model.removeHandler(forward)
        _model.setLevel(logging.NOTSET)
        _model.propagate = True
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)
            handler.close()


for _each in (_log, _metrics):
    _each.propagate = False
    _each.setLevel(logging.CRITICAL)


class AccessLog:
    """The ASGI middleware that counts responses and writes the access log."""

    def __init__(self, app: ASGIApp, metrics: TorchServeMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.count_status(status)
            host, port = scope["client"] or ("-", 0)
            record(f"/{host}:{port}", scope["method"], scope["path"], f"HTTP/{scope['http_version']}", status, begun)


def record(peer: str, method: str, path: str, protocol: str, status: int, begun: float) -> None:
    """Write a line of the access log. `begun`: on the monotonic clock, in seconds."""
    milliseconds = round((time.monotonic() - begun) * 1000)
    _log.info('%s "%s %s %s" %d %d', peer, method, path[:500], protocol, status, milliseconds)


def record_metrics(worker: str, model: str, host: str, milliseconds: float) -> None:
    """Write the lines of a prediction to the model metrics. `worker`: such as W-9000-whisper_1.0."""
    for name in ("HandlerTime", "PredictionTime"):
        labels = f"#ModelName:{model},Level:Model|#hostname:{host},{time.time():.0f}"
        _metrics.info("%s MODEL_METRICS - %s.Milliseconds:%.2f|%s", worker, name, milliseconds, labels)
