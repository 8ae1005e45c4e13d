"""Metrics of jobs, and of the scheduler that decides which class of work runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

KIND = re.compile(r"[a-z][a-z0-9_.-]{0,31}")
"""Kinds of jobs that are named; others, which only a damaged store has, are `other`."""
KINDS = 32
"""Largest number of kinds that are named; the rest, those with the fewest jobs, are `other`."""
OTHER = "other"

JobCounts = Mapping[tuple[str, str], int]
"""State and kind -> number of jobs."""
ClassReadings = Mapping[str, tuple[float, Mapping[str, bool]]]
"""Class of work -> the seconds that it has waited for more urgent work, and for each more urgent class whether it waits
for that now."""


class JobMetrics(Collector):
    """Counts the stored jobs at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], JobCounts] = dict
        """Returns the number of jobs by state and kind."""
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return self._families({})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return self._families(self.source())

    def _families(self, counts: JobCounts) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("chatapi_jobs", "Stored jobs.", labels=["state", "kind"])
        by_kind: Counter[str] = Counter()
        for (_, kind), count in counts.items():
            by_kind[kind] += count if KIND.fullmatch(kind) else 0
        named = {kind for kind, count in by_kind.most_common(KINDS) if count}
        shown: Counter[tuple[str, str]] = Counter()
        for (state, kind), count in counts.items():
            shown[state if KIND.fullmatch(state) else OTHER, kind if kind in named else OTHER] += count
        for labels, count in shown.items():
            family.add_metric(labels, count)
        yield family


class WorkMetrics(Collector):
    """Reads the decisions of the scheduler at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], ClassReadings] = dict
        """Returns what was decided for each class that can be kept waiting."""
        registry.register(self)

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        return self._families({})

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        return self._families(self.source())

    def _families(self, readings: ClassReadings) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yielded = CounterMetricFamily(
            "chatapi_work_yielded_seconds", "Time that a class of work waited for a more urgent one.", labels=["class"]
        )
        waits = GaugeMetricFamily(
            "chatapi_work_waits", "1 while a class of work waits for a more urgent one.", labels=["class", "for"]
        )
        for name, (seconds, waits_for) in readings.items():
            yielded.add_metric([name], seconds)
            for urgent, waiting in waits_for.items():
                waits.add_metric([name, urgent], waiting)
        yield from (yielded, waits)


class WebhookMetrics(Collector):
    """Reads the results of webhooks at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], Mapping[str, int] | None] = lambda: None
        """Returns the number of attempts by result, and of pending webhooks; None: none are sent."""
        registry.register(self)

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        return self._families({})

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        return self._families(self.source() or {})

    def _families(self, found: Mapping[str, int]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        attempts = CounterMetricFamily("chatapi_webhooks", "Attempts to send a webhook.", labels=["result"])
        pending = GaugeMetricFamily("chatapi_webhooks_pending", "Webhooks that are not delivered yet.")
        for result, count in found.items():
            if result == "pending":
                pending.add_metric((), count)
            else:
                attempts.add_metric([result], count)
        yield from (attempts, pending)
