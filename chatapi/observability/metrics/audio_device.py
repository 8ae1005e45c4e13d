"""Metrics of the box's own microphone and speaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from chatapi.audio import RATE

Family = CounterMetricFamily | GaugeMetricFamily


class AudioDeviceMetrics(Collector):
    """Reads the devices' health from `source` at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.source: Callable[[], Mapping[str, Any] | None] = lambda: None
        """Returns the health of the audio devices, with `input` and `output`; None: the box has none."""
        registry.register(self)

    def describe(self) -> Iterator[Family]:
        return self._families({})

    def collect(self) -> Iterator[Family]:
        health = self.source()
        return self._families({side: health[side] for side in ("input", "output")} if health else {})

    def _families(self, devices: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
        up = GaugeMetricFamily("chatapi_sound_device_up", "1 while a device works.", labels=["device"])
        reopened = CounterMetricFamily(
            "chatapi_sound_device_reopens", "Times that a lost device was reopened.", labels=["device"]
        )
        dropped = CounterMetricFamily(
            "chatapi_sound_dropped_seconds", "Audio lost because it was not processed in time.", labels=["device"]
        )
        for name, device in devices.items():
            up.add_metric([name], device["state"] == "ok")
            reopened.add_metric([name], device["reopened"])
            dropped.add_metric([name], device["dropped"] / RATE)
        yield from (up, reopened, dropped)
