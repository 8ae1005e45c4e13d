"""Metrics of command recognition: what was classified, samples, trainings, and versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
"""Buckets of the time of a classification, in seconds."""
RESULTS = ("command", "unknown", "failed")
SUBMISSIONS = ("accepted", "quarantined", "duplicate", "rejected")
TRAININGS = ("activated", "not_good_enough")
CAUSES = ("trained", "activated", "rolled_back", "unknown_share")


@dataclass(frozen=True)
class StoredCounts:
    """What is stored of commands."""

    samples: Mapping[str, int] = field(default_factory=dict)
    """State -> number of samples."""
    words: int = 0
    """Words that have accepted samples."""
    versions: int = 0


class CommandMetrics(Collector):
    """Counts classifications, submissions, trainings and switches, and reads what is stored at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], StoredCounts] = StoredCounts
        """Returns what is stored; it may block."""
        self.classifications = Counter(
            "chatapi_command_classifications_total", "Classified clips, and windows of streams.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "chatapi_command_classification_seconds", "Time of a classification, with its wait for a slot.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.detections = Counter(
            "chatapi_command_detections_total", "Commands detected in streams.", registry=registry
        )
        self.submissions = Counter(
            "chatapi_command_submissions_total", "Submitted samples.", ["result"], registry=registry
        )
        self.trainings = Counter(
            "chatapi_command_trainings_total", "Trainings that made a version.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.activations = Counter(
            "chatapi_command_activations_total", "Switches to a version.", ["cause"], registry=registry
        )
        self.active = Gauge(
            "chatapi_command_active_version", "The version in use; 0: the model before any teaching.", registry=registry
        )
        for counter, values in (
            (self.classifications, RESULTS), (self.submissions, SUBMISSIONS), (self.trainings, TRAININGS),
            (self.activations, CAUSES),
        ):  # fmt: skip
            for value in values:
                counter.labels(value)
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return self._families(StoredCounts())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return self._families(self.source())

    def _families(self, found: StoredCounts) -> Iterator[GaugeMetricFamily]:
        samples = GaugeMetricFamily("chatapi_command_samples", "Stored samples of commands.", labels=["state"])
        for state in ("accepted", "quarantined"):
            samples.add_metric([state], found.samples.get(state, 0))
        yield samples
        yield GaugeMetricFamily("chatapi_command_words", "Words that have accepted samples.", value=found.words)
        yield GaugeMetricFamily("chatapi_command_versions", "Stored versions of the taught classifier.",
                                value=found.versions)  # fmt: skip
