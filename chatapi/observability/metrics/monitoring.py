"""Metrics of stream monitoring, by place: what was heard, missing and scored, detections, and what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class PlaceReading:
    """A monitored place since the start of the process."""

    place: str
    heard: float
    """Seconds."""
    scored: float
    """Seconds."""
    missing: Mapping[str, float]
    """Reason -> seconds."""
    detections: int
    muted: int
    lag: float
    """Seconds of audio that were heard and not yet scored."""
    has_audio: bool
    """Whether audio arrives, or the place needs none now."""


@dataclass(frozen=True)
class MonitoringReading:
    """All places, and what they share."""

    places: Sequence[PlaceReading] = field(default_factory=list)
    waiting: int = 0
    """Detections that wait for their store."""


class MonitoringMetrics(Collector):
    """Reads the monitors at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], MonitoringReading] = MonitoringReading
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        return self._families(MonitoringReading())

    def collect(self) -> Iterator[Metric]:
        return self._families(self.source())

    def _families(self, reading: MonitoringReading) -> Iterator[Metric]:
        counters: dict[str, tuple[str, Callable[[PlaceReading], float]]] = {
            "heard_seconds": ("Audio that was heard at a place.", lambda each: each.heard),
            "scored_seconds": ("Audio of a place that was scored.", lambda each: each.scored),
            "detections": ("Detections at a place.", lambda each: each.detections),
            "muted": ("Detections at a place that fell under a mute.", lambda each: each.muted),
        }
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(f"chatapi_monitor_{name}", text, labels=["place"])
            for each in reading.places:
                counter.add_metric([each.place], value(each))
            yield counter
        missing = CounterMetricFamily(
            "chatapi_monitor_missing_seconds", "Audio of a place that is missing.", labels=["place", "reason"]
        )
        for each in reading.places:
            for reason, seconds in each.missing.items():
                missing.add_metric([each.place, reason], seconds)
        yield missing
        lag = GaugeMetricFamily(
            "chatapi_monitor_lag_seconds", "Audio of a place that was heard and is not scored yet.", labels=["place"]
        )
        audio = GaugeMetricFamily(
            "chatapi_monitor_audio", "1 while the audio of a place arrives, 0 while it should and does not.",
            labels=["place"],
        )  # fmt: skip
        for each in reading.places:
            lag.add_metric([each.place], each.lag)
            audio.add_metric([each.place], float(each.has_audio))
        yield lag
        yield audio
        yield GaugeMetricFamily(
            "chatapi_monitor_waiting_detections", "Detections that wait for their store.", value=reading.waiting
        )
