"""OpenTelemetry traces of turns: where the time of a turn went, sent to a collector when the turn has ended.

Tracing costs a running turn nothing: its spans are created from its timings and hold no content. They wait in a bounded
queue for the library's own thread; spans that the collector does not accept in time are dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

from chatapi.errors import SettingsError
from chatapi.events import TurnRecord, TurnTimings
from chatapi.observability.logs import request_id
from chatapi.settings import TraceSettings
from chatapi.system.version import version

log = logging.getLogger(__name__)

QUEUE = 512
"""Largest number of spans that wait to be sent; about a hundred turns."""
BATCH = 128
"""Number of spans sent at once."""
EVERY = 2000
"""Time between two batches, in milliseconds."""
EXPORT_SECONDS = 3.0
"""Longest time to send a batch, retries included, in seconds."""
CLOSE_SECONDS = 2.0
"""Longest time to send the last spans at the end, in seconds."""


class Tracing:
    """Sends traces when `trace.endpoint` is set; otherwise it does nothing."""

    def __init__(self, settings: TraceSettings) -> None:
        """Raises SettingsError when tracing is enabled and the library is not installed."""
        self._library: _Library | None = None
        if settings.endpoint:
            try:
                self._library = _Library(settings)
            except ImportError as error:
                raise SettingsError(
                    f"trace.endpoint is set, and the OpenTelemetry library is not installed ({error}): "
                    "pip install 'chatapi-appliance[trace]'"
                ) from error

    def turn(self, ended: TurnRecord) -> None:
        """Queue the spans of a turn that ends now."""
        if self._library is not None:
            self._library.send(ended)

    def close(self) -> None:
        """Send the waiting spans, for at most `CLOSE_SECONDS`. Blocking."""
        if self._library is not None:
            self._library.close()


class _Library:
    """OpenTelemetry's SDK, without its global state."""

    def __init__(self, settings: TraceSettings) -> None:
        # Imported here, because it is an extra.
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        exporter = OTLPSpanExporter(endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._exporter = _Exporter(exporter, settings.endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=Resource({"service.name": "chatapi", "service.version": version()}),
            shutdown_on_exit=False,
        )
        # The base class of exporters is available only with the extra.
        self._provider.add_span_processor(BatchSpanProcessor(cast("Any", self._exporter), QUEUE, EVERY, BATCH))
        self._api = trace
        self._tracer = self._provider.get_tracer("chatapi", version())
        self._context = TraceContextTextMapPropagator()
        # The library logs every batch that a collector does not accept, and every span that finds the queue full.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def send(self, ended: TurnRecord) -> None:
        now = time.time()
        begun = now - (time.monotonic() - ended.since)
        parent = self._context.extract({"traceparent": ended.traceparent})
        turn = self._tracer.start_span(
            "turn", parent, self._api.SpanKind.SERVER, _attributes(ended), start_time=_nanoseconds(begun)
        )
        if not turn.is_recording():
            return
        within = self._api.set_span_in_context(turn)
        for stage, start, end in intervals(ended.timings):
            span = self._tracer.start_span(stage, within, start_time=_nanoseconds(begun + start))
            span.end(_nanoseconds(begun + end))
        if ended.result not in ("ok", "disconnected", "interrupted", "retracted"):
            turn.set_attribute("error.type", ended.result)
            turn.set_status(self._api.StatusCode.ERROR, ended.result)
        turn.end(_nanoseconds(now))

    def close(self) -> None:
        # Without the timer the library would go on for half a minute.
        timer = threading.Timer(CLOSE_SECONDS, self._exporter.shutdown)
        timer.start()
        self._provider.shutdown()
        timer.cancel()


class _Exporter:
    """The library's exporter; it logs once when the collector stops accepting traces, and once when it accepts
    again."""

    def __init__(self, exporter: Any, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._lost = False

    def export(self, spans: Sequence[Any]) -> Any:
        result = self._exporter.export(spans)
        lost = result.name != "SUCCESS"
        if lost != self._lost:
            self._lost = lost
            if lost:
                log.warning("collector at %s does not accept traces; traces are dropped", self._endpoint)
            else:
                log.info("collector at %s accepts traces again", self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def intervals(timings: TurnTimings) -> Iterator[tuple[str, float, float]]:
    """Each stage, with the start and end of the time a turn took to reach it, in seconds as in its timings."""
    ready = max(timings.admitted or 0.0, timings.transcript or 0.0)
    stages = (
        ("endpoint", 0.0, timings.endpoint),
        ("admitted", 0.0, timings.admitted),
        ("transcript", timings.admitted or 0.0, timings.transcript),
        ("first_token", ready, timings.first_token),
        ("first_sentence", timings.first_token, timings.first_sentence),
        # Speech of a given text has no tokens.
        ("first_audio", ready if timings.first_token is None else timings.first_sentence, timings.first_audio),
        ("rest", timings.first_audio or timings.first_token, timings.end),
    )
    for stage, start, end in stages:
        if start is not None and end is not None:
            yield stage, start, max(start, end)


def _attributes(ended: TurnRecord) -> dict[str, Any]:
    """Attributes of a turn, without content; token names follow OpenTelemetry's conventions for generative AI."""
    timings = ended.timings
    attributes = {
        "chatapi.turn.kind": ended.kind,
        "chatapi.turn.input": ended.input,
        "chatapi.turn.reply": ended.reply,
        "chatapi.turn.result": ended.result,
        "chatapi.request_id": request_id.get(),
        "chatapi.turn.audio_seconds": timings.audio,
        "chatapi.turn.spoken_seconds": timings.spoken,
        "gen_ai.usage.input_tokens": ended.prompt_tokens,
        "gen_ai.usage.output_tokens": ended.completion_tokens,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
