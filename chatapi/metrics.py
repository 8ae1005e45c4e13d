"""What is counted, in Prometheus' words; units are in the names, every one has a sentence of help."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from chatapi.events import Ledger

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 120)
FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
STAGES = ("endpoint", "admitted", "transcript", "first_token", "first_sentence", "first_audio", "end")


class Metrics:
    """One appliance's numbers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "chatapi_http_requests_total", "HTTP requests answered.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "chatapi_http_request_seconds", "Time to the last byte.", ["route"], buckets=SECONDS, registry=registry
        )
        self.turns = Counter("chatapi_turns_total", "Turns ended.", ["heard", "reply", "result"], registry=registry)
        self.errors = Counter("chatapi_errors_total", "Errors given to callers.", ["code"], registry=registry)
        self.stages = Histogram(
            "chatapi_turn_stage_seconds",
            "Time from a turn's acceptance to the stage.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.factors = Histogram(
            "chatapi_real_time_factor",
            "Time taken over the length of the audio.",
            ["engine"],
            buckets=FACTORS,
            registry=registry,
        )
        self.tokens = Counter("chatapi_tokens_total", "Tokens.", ["kind"], registry=registry)
        self.tokens_per_second = Histogram(
            "chatapi_tokens_per_second",
            "Speed of an answer's writing, from its first to its last token.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=registry,
        )
        self.active = Gauge("chatapi_turns_active", "Turns being worked on.", registry=registry)
        self.waiting = Gauge("chatapi_turns_waiting", "Turns in the queue.", registry=registry)
        self.refused = Counter("chatapi_turns_refused_total", "Turns the full queue refused.", registry=registry)
        self.ready = Gauge("chatapi_ready", "1 when all models are loaded and warm.", registry=registry)
        self._of_engines(registry)
        self._of_wyoming(registry)

    def _of_engines(self, registry: CollectorRegistry) -> None:
        self.rebuilt = Counter(
            "chatapi_engine_rebuilds_total", "Stuck engines built anew.", ["engine"], registry=registry
        )
        self.unloaded = Counter(
            "chatapi_engine_unloads_total", "Engines closed because nobody used them.", ["engine"], registry=registry
        )
        self.loaded = Gauge(
            "chatapi_engine_loaded", "1 while an engine holds its model.", ["engine"], registry=registry
        )
        self.load_seconds = Histogram(
            "chatapi_engine_load_seconds",
            "Time to load an engine and its model.",
            ["engine"],
            buckets=SECONDS,
            registry=registry,
        )

    def _of_wyoming(self, registry: CollectorRegistry) -> None:
        self.wyoming_connections = Gauge("chatapi_wyoming_connections", "Wyoming connections open.", registry=registry)
        self.wyoming_events = Counter(
            "chatapi_wyoming_events_total", "Wyoming events received.", ["type"], registry=registry
        )

    def turn(self, ledger: Ledger) -> None:
        """Count a finished turn's times."""
        for stage in STAGES:
            if (seconds := getattr(ledger, stage)) is not None:
                self.stages.labels(stage).observe(seconds)

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
