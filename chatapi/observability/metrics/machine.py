"""The machine itself: memory and disk of any, and a Jetson's sensors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chatapi.observability.metrics import jtop
from chatapi.observability.metrics.sensors import SensorReadings, read
from chatapi.system import jetson

VALUES = {
    "gpu_load": ("chatapi_jetson_gpu_load_ratio", "Share of the time that the GPU computes."),
    "gpu_hertz": ("chatapi_jetson_gpu_clock_hertz", "The GPU's clock."),
    "memory_total": ("chatapi_jetson_memory_bytes", "Memory that CPU and GPU share."),
    "memory_available": ("chatapi_jetson_memory_available_bytes", "What of it may still be taken."),
    "memory_gpu": ("chatapi_jetson_memory_gpu_bytes", "What of it the GPU holds."),
}
"""Reading -> name, help."""
PARTS = {
    "power": ("chatapi_jetson_power_watts", "What a rail draws.", "rail"),
    "temperatures": ("chatapi_jetson_temperature_celsius", "Heat of a thermal zone.", "zone"),
    "limits": ("chatapi_jetson_temperature_limit_celsius", "Heat from which a zone's parts are slowed down.", "zone"),
    "throttled": ("chatapi_jetson_throttled", "1 while a part is slowed down because of heat.", "part"),
}
"""Readings of several -> name, help, label."""


class MachineMetrics(Collector):
    """Read at every scrape; a machine that is no Jetson tells its memory and disk alone."""

    def __init__(self, registry: CollectorRegistry, data: Path, root: Path) -> None:
        self._data = data
        self._root = root
        self._jetson = jetson.find(root) is not None
        connect = jtop.client(root) if self._jetson else None
        self._jtop = jtop.Jtop(connect) if connect is not None else None
        registry.register(self)

    def close(self) -> None:
        if self._jtop is not None:
            self._jtop.close()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from _memory(None)
        yield from _disk(None, None)
        yield from _sensors(SensorReadings())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from _memory(jetson.available(self._root) or None)
        try:
            usage = shutil.disk_usage(self._data)
            yield from _disk(usage.total, usage.free)
        except OSError:
            # It is not made yet, or its disk is gone.
            yield from _disk(None, None)
        yield from _sensors(self._readings() if self._jetson else SensorReadings())

    def _readings(self) -> SensorReadings:
        known = read(self._root)
        lacks = known.gpu_load is None or not known.power or not known.temperatures
        return self._jtop.completed(known) if lacks and self._jtop is not None else known


def _memory(available: float | None) -> Iterator[GaugeMetricFamily]:
    yield _one("chatapi_memory_available_bytes", "Memory that the process may still take.", available)


def _disk(size: float | None, free: float | None) -> Iterator[GaugeMetricFamily]:
    yield _one("chatapi_data_disk_bytes", "Size of the disk that the data directory is on.", size)
    yield _one("chatapi_data_disk_free_bytes", "What of it is free.", free)


def _sensors(readings: SensorReadings) -> Iterator[GaugeMetricFamily]:
    for name, (metric, sentence) in VALUES.items():
        yield _one(metric, sentence, getattr(readings, name))
    for name, (metric, sentence, label) in PARTS.items():
        family = GaugeMetricFamily(metric, sentence, labels=[label])
        parts: Mapping[str, float] = getattr(readings, name)
        for part, value in parts.items():
            family.add_metric([part], value)
        yield family


def _one(name: str, sentence: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, sentence)
    if value is not None:
        family.add_metric((), value)
    return family
