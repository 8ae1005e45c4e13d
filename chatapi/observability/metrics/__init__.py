"""Prometheus metrics; units are in the names, and every metric has a help text.

`containers/monitoring/metrics.md` lists them all. Label values are chatapi's own names, names of the board's parts or
ids of monitored places, never content.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from chatapi.errors import ChatapiError, NotReady
from chatapi.events import TurnRecord
from chatapi.observability.metrics.audio_device import AudioDeviceMetrics
from chatapi.observability.metrics.commands import CommandMetrics
from chatapi.observability.metrics.conversions import ConversionMetrics
from chatapi.observability.metrics.engine import EngineCounts, EngineModels
from chatapi.observability.metrics.event_loop_lag import EventLoopLag
from chatapi.observability.metrics.jobs import JobMetrics, WebhookMetrics, WorkMetrics
from chatapi.observability.metrics.machine import MachineMetrics
from chatapi.observability.metrics.monitoring import MonitoringMetrics

__all__ = ["INTERFACES", "STAGES", "Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 120)
"""Buckets of durations, in seconds."""
LAG = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
"""Buckets of the event loop's lag, in seconds."""
FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""Buckets of the real-time factor."""
STAGES = ("endpoint", "admitted", "transcript", "first_token", "first_sentence", "first_audio", "end")
DISMISSALS = ("no_words", "noise", "backchannel", "echo", "echo_loop")
"""Reasons for which an utterance is not answered."""
INTERFACES = ("realtime", "audio_device", "other")
"""Interfaces of live sessions."""
INTERRUPTIONS = ("interrupted", "cancelled", "resumed", "retracted")
READ_SECONDS = 5.0
"""Longest time to read all metrics, in seconds; Prometheus waits for ten by default."""
SENSOR_STUCK = (
    "a sensor of the machine does not answer, so metrics are not available; `chatapi check` tests each sensor"
)


class Metrics:
    """The metrics of one appliance."""

    def __init__(self, data: Path = Path(), root: Path = Path("/")) -> None:
        """`data`: directory whose disk is measured; `root`: root of the machine's file system."""
        self.registry = registry = CollectorRegistry()
        self._reading = threading.Lock()
        self._readers = anyio.CapacityLimiter(1)
        self.followers: list[Callable[[TurnRecord], None]] = []
        """Called for every ended turn, after it was counted."""
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._of_http(registry)
        self._of_turns(registry)
        self._of_live(registry)
        self._of_engines(registry)
        factor = self.factors.labels("voice_converter").observe
        self.conversions = ConversionMetrics(registry, SECONDS, factor)
        self.jobs, self.work, self.webhooks = JobMetrics(registry), WorkMetrics(registry), WebhookMetrics(registry)
        self.commands = CommandMetrics(registry)
        self.ready = Gauge(
            "chatapi_ready",
            "1 when all models loaded at the start are warm, and none of their engines has failed permanently.",
            registry=registry,
        )  # fmt: skip
        self.history_kept = Gauge(
            "chatapi_history_kept", "1 while conversations are stored on disk, 0 while new ones are only in memory.",
            registry=registry,
        )  # fmt: skip
        lag = Histogram(
            "chatapi_event_loop_lag_seconds", "Delay of timed tasks in the event loop.",
            buckets=LAG, registry=registry,
        )  # fmt: skip
        self.lag = EventLoopLag(lag.observe)
        self.engine_counts, self.engine_models = EngineCounts(registry), EngineModels(registry)
        self.audio_device = AudioDeviceMetrics(registry)
        self._of_wakes(registry)
        self.monitoring = MonitoringMetrics(registry)
        self._of_wyoming(registry)
        self.machine = MachineMetrics(registry, data, root)

    def _of_wakes(self, registry: CollectorRegistry) -> None:
        self.wakes = Counter(
            "chatapi_wakes_total", "Wake-ups of the microphone: by the wake word or by a button.", ["by"],
            registry=registry,
        )  # fmt: skip
        for by in ("word", "button"):
            self.wakes.labels(by)

    def _of_http(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "chatapi_http_requests_total", "Answered HTTP requests.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "chatapi_http_request_seconds",
            "Time from a request to the last byte of its response.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.http_connections = Gauge(
            "chatapi_http_connections", "Open HTTP connections and WebSockets.", registry=registry
        )
        self.inflight = Gauge(
            "chatapi_inflight_bytes", "Bytes of client data held until they are processed.",
            registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "chatapi_errors_total", "Errors sent to clients, in live conversations too.", ["code"], registry=registry
        )

    def _of_turns(self, registry: CollectorRegistry) -> None:
        self.turns = Counter(
            "chatapi_turns_total",
            "Ended turns: requests, turns of live conversations, and transcription and speech of files.",
            ["kind", "input", "reply", "result"], registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "chatapi_turn_stage_seconds", "Time from the acceptance of a request to the stage of its turn.",
            ["stage"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.factors = Histogram(
            "chatapi_real_time_factor", "Computing time divided by the duration of the audio.",
            ["engine"], buckets=FACTORS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter("chatapi_tokens_total", "Tokens of completed answers.", ["kind"], registry=registry)
        self.tokens_per_second = Histogram(
            "chatapi_tokens_per_second", "Decoding speed of the LLM after the first token.",
            buckets=(1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 500, 1000), registry=registry,
        )  # fmt: skip
        self.active = Gauge("chatapi_turns_active", "Running turns.", registry=registry)
        self.waiting = Gauge("chatapi_turns_waiting", "Turns in the queue.", registry=registry)
        self.refused = Counter(
            "chatapi_turns_refused_total", "Turns rejected because the queue was full.", registry=registry
        )

    def _of_live(self, registry: CollectorRegistry) -> None:
        self.live_stages = Histogram(
            "chatapi_live_stage_seconds",
            "Time from the end of speech to the stage of a live turn; audible: the first audio of the answer was sent.",
            ["stage"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.sessions = Gauge("chatapi_live_sessions", "Open live conversations.", ["interface"], registry=registry)
        self.sessions_refused = Counter(
            "chatapi_live_sessions_refused_total", "Live conversations rejected because there were too many.",
            registry=registry,
        )  # fmt: skip
        self.interruptions = Counter(
            "chatapi_live_interruptions_total",
            "Answers interrupted by barge-in, cancelled by a client, resumed after a false interruption, "
            "or retracted because the speaker continued.",
            ["kind"], registry=registry,
        )  # fmt: skip
        self.guesses = Counter(
            "chatapi_live_guesses_total", "Generations started before the end of turn was certain: used, or dropped.",
            ["result"], registry=registry,
        )  # fmt: skip
        self.dismissed = Counter(
            "chatapi_live_dismissed_total",
            "Utterances without an answer: no words, noises and backchannels during playback, and echoes.",
            ["reason"], registry=registry,
        )  # fmt: skip
        for reason in DISMISSALS:
            self.dismissed.labels(reason)
        for interface in INTERFACES:
            self.sessions.labels(interface)
        for kind in INTERRUPTIONS:
            self.interruptions.labels(kind)
        for result in ("used", "dropped"):
            self.guesses.labels(result)

    def _of_engines(self, registry: CollectorRegistry) -> None:
        self.rebuilt = Counter(
            "chatapi_engine_rebuilds_total",
            "Engines rebuilt because they were stuck or had crashed.",
            ["engine"],
            registry=registry,
        )
        self.unloaded = Counter(
            "chatapi_engine_unloads_total", "Engines unloaded because they were idle.", ["engine"], registry=registry
        )
        self.loaded = Gauge(
            "chatapi_engine_loaded", "1 while an engine's model is loaded.", ["engine"], registry=registry
        )
        self.failed = Gauge(
            "chatapi_engine_failed",
            "1 while an engine has failed: it was lost too often, or cannot be loaded.",
            ["engine"],
            registry=registry,
        )
        self.jobs_waiting = Gauge(
            "chatapi_engine_jobs_waiting", "Jobs waiting for a slot of an engine.", ["engine"], registry=registry
        )
        self.busy = Counter(
            "chatapi_engine_busy_seconds_total",
            "Computing time of an engine's threads.",
            ["engine"],
            registry=registry,
        )
        self.load_seconds = Histogram(
            "chatapi_engine_load_seconds", "Time to load an engine and its model.",
            ["engine"], buckets=SECONDS, registry=registry,
        )  # fmt: skip

    def _of_wyoming(self, registry: CollectorRegistry) -> None:
        self.wyoming_connections = Gauge("chatapi_wyoming_connections", "Open Wyoming connections.", registry=registry)
        self.wyoming_events = Counter(
            "chatapi_wyoming_events_total", "Received Wyoming events.", ["type"], registry=registry
        )
        self.wyoming_events.labels("describe")

    def engine(self, role: str, what: str, amount: float) -> None:
        """Count a worker's report: rebuilt, unloaded, busy (seconds), pace (tokens per second)."""
        if what == "pace":
            self.tokens_per_second.observe(amount)
        else:
            counter: Counter = getattr(self, what)
            counter.labels(role).inc(amount)

    def turn(self, ended: TurnRecord) -> None:
        """Count an ended turn."""
        timings, live = ended.timings, ended.kind == "live"
        self.turns.labels(ended.kind, ended.input, ended.reply, ended.result).inc()
        stages = self.live_stages if live else self.stages
        # The stages of a file depend more on its length than on the speed of the box; they are only traced.
        for stage in STAGES if ended.kind != "file" else ():
            if (seconds := getattr(timings, stage)) is not None:
                stages.labels(stage).observe(seconds)
        if live and timings.first_audio is not None and timings.endpoint is not None:
            # The audio of a preemptive generation waits for the end of the turn.
            stages.labels("audible").observe(max(timings.first_audio, timings.endpoint))
        for kind in ("prompt", "completion", "cached"):
            self.tokens.labels(kind).inc(getattr(ended, f"{kind}_tokens"))
        for follower in self.followers:
            follower(ended)

    def error(self, error: ChatapiError) -> None:
        """Count an error that was sent to a client."""
        self.errors.labels(error.code).inc()

    async def read(self, seconds: float = READ_SECONDS) -> bytes:
        """The metrics in the text exposition format, within `seconds`. Raises NotReady when a sensor does not
        answer."""
        with anyio.move_on_after(seconds):
            # On a thread of its own limiter, which may be abandoned.
            return await anyio.to_thread.run_sync(self.page, seconds, abandon_on_cancel=True, limiter=self._readers)
        raise NotReady(SENSOR_STUCK, retry_after=READ_SECONDS)

    def page(self, seconds: float = READ_SECONDS) -> bytes:
        """The metrics in the text exposition format. Blocking: reading the machine's sensors takes milliseconds.

        Raises NotReady when another reader does not finish within `seconds`.
        """
        if not self._reading.acquire(timeout=seconds):
            raise NotReady(SENSOR_STUCK, retry_after=READ_SECONDS)
        try:
            return generate_latest(self.registry)
        finally:
            self._reading.release()
