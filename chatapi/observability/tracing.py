"""Traces of turns for OpenTelemetry: what a turn's time went into, sent to a collector once the turn is over.

Nothing is done while a turn runs: its spans are made of its timings and hold no word of what was said. They wait in a
bounded queue for the library's own thread; what a collector does not take in time is dropped.
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
"""Spans that may wait to be sent; about a hundred turns."""
BATCH = 128
EVERY = 2000
"""Milliseconds between two sendings."""
PATIENCE = 3.0
"""Seconds that a collector may take for a batch, tried again meanwhile."""
CLOSING = 2.0
"""Seconds that the last spans may take when the box stops."""


class Tracing:
    """Where `trace.endpoint` is set; otherwise it does nothing."""

    def __init__(self, settings: TraceSettings) -> None:
        """Raises SettingsError where it is set and the library is not here."""
        self._library: _Library | None = None
        if settings.endpoint:
            try:
                self._library = _Library(settings)
            except ImportError as error:
                raise SettingsError(
                    f"trace.endpoint is set, and the library that sends traces is not here ({error}): "
                    "pip install 'chatapi-appliance[trace]'"
                ) from error

    def turn(self, over: TurnRecord) -> None:
        """Have the spans of a turn that ends now sent."""
        if self._library is not None:
            self._library.send(over)

    def close(self) -> None:
        """Send what waits, for `CLOSING` seconds at most. For a thread."""
        if self._library is not None:
            self._library.close()


class _Library:
    """OpenTelemetry's SDK; its own global state is left alone."""

    def __init__(self, settings: TraceSettings) -> None:
        # Imported here, because it is an extra.
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        exporter = OTLPSpanExporter(endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=PATIENCE)
        self._way_out = _WayOut(exporter, settings.endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=Resource({"service.name": "chatapi", "service.version": version()}),
            shutdown_on_exit=False,
        )
        # The class it wants inherited from is here only where the extra is.
        self._provider.add_span_processor(BatchSpanProcessor(cast("Any", self._way_out), QUEUE, EVERY, BATCH))
        self._api = trace
        self._tracer = self._provider.get_tracer("chatapi", version())
        self._context = TraceContextTextMapPropagator()
        # It complains of every batch that a collector does not take, and of every span that finds the queue full.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def send(self, over: TurnRecord) -> None:
        ended = time.time()
        begun = ended - (time.monotonic() - over.since)
        parent = self._context.extract({"traceparent": over.traceparent})
        turn = self._tracer.start_span(
            "turn", parent, self._api.SpanKind.SERVER, _attributes(over), start_time=_nanoseconds(begun)
        )
        if not turn.is_recording():
            return
        within = self._api.set_span_in_context(turn)
        for stage, start, end in intervals(over.timings):
            span = self._tracer.start_span(stage, within, start_time=_nanoseconds(begun + start))
            span.end(_nanoseconds(begun + end))
        if over.result not in ("ok", "disconnected", "interrupted", "retracted"):
            turn.set_attribute("error.type", over.result)
            turn.set_status(self._api.StatusCode.ERROR, over.result)
        turn.end(_nanoseconds(ended))

    def close(self) -> None:
        # The library alone would go on for half a minute.
        patience = threading.Timer(CLOSING, self._way_out.shutdown)
        patience.start()
        self._provider.shutdown()
        patience.cancel()


class _WayOut:
    """The library's exporter, which says once that the collector takes nothing, and once that it does again."""

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
                log.warning("the collector at %s takes no traces; they are thrown away until it does", self._endpoint)
            else:
                log.info("the collector at %s takes traces again", self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def intervals(timings: TurnTimings) -> Iterator[tuple[str, float, float]]:
    """Stage, and from when to when a turn was on its way to it, in seconds from what its timings counts from."""
    ready = max(timings.admitted or 0.0, timings.transcript or 0.0)
    ways = (
        ("endpoint", 0.0, timings.endpoint),
        ("admitted", 0.0, timings.admitted),
        ("transcript", timings.admitted or 0.0, timings.transcript),
        ("first_token", ready, timings.first_token),
        ("first_sentence", timings.first_token, timings.first_sentence),
        # What is read aloud needs no writing.
        ("first_audio", ready if timings.first_token is None else timings.first_sentence, timings.first_audio),
        ("rest", timings.first_audio or timings.first_token, timings.end),
    )
    for stage, start, end in ways:
        if start is not None and end is not None:
            yield stage, start, max(start, end)


def _attributes(over: TurnRecord) -> dict[str, Any]:
    """Nothing that was said; names of tokens are those of OpenTelemetry's conventions for generative AI."""
    timings = over.timings
    told = {
        "chatapi.turn.kind": over.kind,
        "chatapi.turn.input": over.input,
        "chatapi.turn.reply": over.reply,
        "chatapi.turn.result": over.result,
        "chatapi.request_id": request_id.get(),
        "chatapi.turn.audio_seconds": timings.audio,
        "chatapi.turn.spoken_seconds": timings.spoken,
        "gen_ai.usage.input_tokens": over.prompt_tokens,
        "gen_ai.usage.output_tokens": over.completion_tokens,
    }
    return {name: value for name, value in told.items() if value is not None}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
