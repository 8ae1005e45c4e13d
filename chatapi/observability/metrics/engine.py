"""What a language model's own library counts, where it counts anything: MLC does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

COUNTS = {
    "prefill_seconds": "Time the language model's library has read prompts.",
    "decode_seconds": "Time the language model's library has written.",
    "prefill_tokens": "Tokens of prompts the library has computed; what its prefix cache had is not among them.",
    "decode_tokens": "Tokens the library has written.",
}
"""What it may count -> help."""


class EngineCounts(Collector):
    """Asks whoever `source` is at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], Mapping[str, float]] = dict
        """Gives some of `COUNTS`, since the model was loaded."""
        registry.register(self)

    def describe(self) -> Iterator[CounterMetricFamily]:
        return self._families({})

    def collect(self) -> Iterator[CounterMetricFamily]:
        return self._families(self.source())

    def _families(self, counts: Mapping[str, float]) -> Iterator[CounterMetricFamily]:
        for name, sentence in COUNTS.items():
            family = CounterMetricFamily(f"chatapi_llm_{name}", sentence)
            if name in counts:
                family.add_metric((), counts[name])
            yield family
