"""What is counted, in Prometheus' words; units are in the names, every one has a sentence of help.

`containers/monitoring/metrics.md` lists them all. Label values are names of ours or of the board's parts, never words.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client import generate_latest as written

from chatapi.errors import ChatapiError, NotReady
from chatapi.events import TurnRecord
from chatapi.observability.metrics.audio_device import AudioDeviceMetrics
from chatapi.observability.metrics.engine import EngineCounts
from chatapi.observability.metrics.event_loop_lag import EventLoopLag
from chatapi.observability.metrics.machine import MachineMetrics

__all__ = ["DOORS", "STAGES", "Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 120)
LATENESS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
STAGES = ("endpoint", "admitted", "transcript", "first_token", "first_sentence", "first_audio", "end")
DOORS = ("realtime", "mic", "other")
"""Where live sessions come in."""
INTERRUPTIONS = ("interrupted", "cancelled", "resumed", "retracted")
DISMISSALS = ("no_words", "noise", "backchannel", "echo", "hears_itself")
"""Why an utterance of a live session is not answered."""
READING = 5.0
"""Seconds that everything may take to be read; Prometheus waits for ten, unless it is told otherwise."""
SILENT = "a sensor of the machine does not answer, so nothing can be told; `chatapi check` looks at them one by one"


class Metrics:
    """One appliance's numbers."""

    def __init__(self, data: Path = Path(), root: Path = Path("/")) -> None:
        """`data`: whose disk is watched; `root`: where the files stand that tell of the machine."""
        self.registry = registry = CollectorRegistry()
        self._reading = threading.Lock()
        self._readers = anyio.CapacityLimiter(1)
        self.followers: list[Callable[[TurnRecord], None]] = []
        """Told of every turn that is over, after it was counted."""
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._of_http(registry)
        self._of_turns(registry)
        self._of_live(registry)
        self._of_engines(registry)
        self.ready = Gauge(
            "chatapi_ready", "1 when all models are loaded and warm, and no engine has failed for good.",
            registry=registry,
        )  # fmt: skip
        self.history_kept = Gauge(
            "chatapi_history_kept", "1 while conversations go to the disk, 0 while new ones are in memory only.",
            registry=registry,
        )  # fmt: skip
        self.wakes = Counter(
            "chatapi_wakes_total", "Times the microphone was woken: by its word or a button.", ["by"], registry=registry
        )
        for by in ("word", "button"):
            self.wakes.labels(by)
        lateness = Histogram(
            "chatapi_event_loop_lag_seconds", "How much later than due the event loop came to a task.",
            buckets=LATENESS, registry=registry,
        )  # fmt: skip
        self.lag = EventLoopLag(lateness.observe)
        self.engine_counts = EngineCounts(registry)
        self.sound = AudioDeviceMetrics(registry)
        self._of_wyoming(registry)
        self.machine = MachineMetrics(registry, data, root)

    def _of_http(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "chatapi_http_requests_total", "HTTP requests answered.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "chatapi_http_request_seconds", "Time to the last byte.", ["route"], buckets=SECONDS, registry=registry
        )
        self.http_connections = Gauge(
            "chatapi_http_connections", "HTTP connections and WebSockets open.", registry=registry
        )
        self.inflight = Gauge(
            "chatapi_inflight_bytes", "Bytes that clients have sent and that are held until they are worked on.",
            registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "chatapi_errors_total", "Errors given to callers, live ones included.", ["code"], registry=registry
        )

    def _of_turns(self, registry: CollectorRegistry) -> None:
        self.turns = Counter(
            "chatapi_turns_total",
            "Turns ended: requests, those of live conversations, and files written down or read aloud.",
            ["kind", "input", "reply", "result"], registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "chatapi_turn_stage_seconds", "Time from a request's acceptance to the stage of its turn.",
            ["stage"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.factors = Histogram(
            "chatapi_real_time_factor", "Time taken over the length of the audio.",
            ["engine"], buckets=FACTORS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter("chatapi_tokens_total", "Tokens of answers that were whole.", ["kind"], registry=registry)
        self.tokens_per_second = Histogram(
            "chatapi_tokens_per_second", "Speed at which the language model writes, once it has begun to.",
            buckets=(1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 500, 1000), registry=registry,
        )  # fmt: skip
        self.active = Gauge("chatapi_turns_active", "Turns being worked on.", registry=registry)
        self.waiting = Gauge("chatapi_turns_waiting", "Turns in the queue.", registry=registry)
        self.refused = Counter("chatapi_turns_refused_total", "Turns the full queue refused.", registry=registry)

    def _of_live(self, registry: CollectorRegistry) -> None:
        self.live_stages = Histogram(
            "chatapi_live_stage_seconds",
            "Time from the end of speech to the stage of a live turn; audible: the answer's first sound went out.",
            ["stage"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.sessions = Gauge("chatapi_live_sessions", "Live conversations open.", ["door"], registry=registry)
        self.sessions_refused = Counter(
            "chatapi_live_sessions_refused_total", "Live conversations refused because there were too many.",
            registry=registry,
        )  # fmt: skip
        self.interruptions = Counter(
            "chatapi_live_interruptions_total",
            "Answers that were interrupted by speech, cancelled by a caller, resumed after a false alarm, "
            "or retracted because the turn went on.",
            ["kind"], registry=registry,
        )  # fmt: skip
        self.guesses = Counter(
            "chatapi_live_guesses_total", "Answers begun on the guess that a pause ends the turn: used, or dropped.",
            ["result"], registry=registry,
        )  # fmt: skip
        self.dismissed = Counter(
            "chatapi_live_dismissed_total",
            "Utterances that were not answered: without words, noises and backchannels against an answer, and echoes.",
            ["reason"], registry=registry,
        )  # fmt: skip
        for reason in DISMISSALS:
            self.dismissed.labels(reason)
        for door in DOORS:
            self.sessions.labels(door)
        for kind in INTERRUPTIONS:
            self.interruptions.labels(kind)
        for result in ("used", "dropped"):
            self.guesses.labels(result)

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
        self.failed = Gauge(
            "chatapi_engine_failed", "1 once an engine has failed for good.", ["engine"], registry=registry
        )
        self.jobs_waiting = Gauge(
            "chatapi_engine_jobs_waiting", "Jobs that wait for an engine's slot.", ["engine"], registry=registry
        )
        self.busy = Counter(
            "chatapi_engine_busy_seconds_total",
            "Time an engine's threads have computed.",
            ["engine"],
            registry=registry,
        )
        self.load_seconds = Histogram(
            "chatapi_engine_load_seconds", "Time to load an engine and its model.",
            ["engine"], buckets=SECONDS, registry=registry,
        )  # fmt: skip

    def _of_wyoming(self, registry: CollectorRegistry) -> None:
        self.wyoming_connections = Gauge("chatapi_wyoming_connections", "Wyoming connections open.", registry=registry)
        self.wyoming_events = Counter(
            "chatapi_wyoming_events_total", "Wyoming events received.", ["type"], registry=registry
        )
        self.wyoming_events.labels("describe")

    def engine(self, role: str, what: str, amount: float) -> None:
        """What a worker tells of its engine: rebuilt, unloaded, busy (seconds), pace (items a second)."""
        if what == "pace":
            # Only a language model's items are alike.
            if role == "llm":
                self.tokens_per_second.observe(amount)
        else:
            counter: Counter = getattr(self, what)
            counter.labels(role).inc(amount)

    def turn(self, over: TurnRecord) -> None:
        """Count a turn that is over."""
        timings, live = over.timings, over.kind == "live"
        self.turns.labels(over.kind, over.input, over.reply, over.result).inc()
        stages = self.live_stages if live else self.stages
        # A file's stages tell its length more than the box's pace; they are traced alone.
        for stage in STAGES if over.kind != "file" else ():
            if (seconds := getattr(timings, stage)) is not None:
                stages.labels(stage).observe(seconds)
        if live and timings.first_audio is not None and timings.endpoint is not None:
            # What was thought and spoken on a guess waits for the turn's end.
            stages.labels("audible").observe(max(timings.first_audio, timings.endpoint))
        for kind in ("prompt", "completion", "cached"):
            self.tokens.labels(kind).inc(getattr(over, f"{kind}_tokens"))
        for follower in self.followers:
            follower(over)

    def error(self, error: ChatapiError) -> None:
        """Count an error that somebody is told of."""
        self.errors.labels(error.code).inc()

    async def read(self, seconds: float = READING) -> bytes:
        """The page, within so many seconds. Raises NotReady where a sensor does not answer."""
        with anyio.move_on_after(seconds):
            # On a thread that nobody else waits for, and that may be left behind.
            return await anyio.to_thread.run_sync(self.page, seconds, abandon_on_cancel=True, limiter=self._readers)
        raise NotReady(SILENT, retry_after=READING)

    def page(self, seconds: float = READING) -> bytes:
        """The text exposition format. Reads the machine's sensors, which takes milliseconds: for a thread.

        Raises NotReady where who reads them already is not done in time.
        """
        if not self._reading.acquire(timeout=seconds):
            raise NotReady(SILENT, retry_after=READING)
        try:
            return written(self.registry)
        finally:
            self._reading.release()
