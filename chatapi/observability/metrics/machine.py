"""Metrics of the machine: memory, disk, and a Jetson's sensors."""

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
    "gpu_load": ("chatapi_jetson_gpu_load_ratio", "Share of the time that the GPU is busy."),
    "gpu_hertz": ("chatapi_jetson_gpu_clock_hertz", "Clock frequency of the GPU."),
    "memory_total": ("chatapi_jetson_memory_bytes", "Memory shared by CPU and GPU."),
    "memory_available": ("chatapi_jetson_memory_available_bytes", "Available memory of the board."),
    "memory_gpu": ("chatapi_jetson_memory_gpu_bytes", "Memory held by the GPU."),
}
"""Field of SensorReadings -> metric name, help."""
PARTS = {
    "power": ("chatapi_jetson_power_watts", "Power drawn by a rail.", "rail"),
    "temperatures": ("chatapi_jetson_temperature_celsius", "Temperature of a thermal zone.", "zone"),
    "limits": (
        "chatapi_jetson_temperature_limit_celsius",
        "Temperature from which the parts of a zone are throttled.",
        "zone",
    ),
    "throttled": ("chatapi_jetson_throttled", "1 while a part is throttled because of its temperature.", "part"),
}
"""Field of SensorReadings with several parts -> metric name, help, label."""


class MachineMetrics(Collector):
    """Reads the machine at every scrape; other machines than a Jetson have only memory and disk."""

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
            # The directory does not exist yet, or its disk is gone.
            yield from _disk(None, None)
        yield from _sensors(self._readings() if self._jetson else SensorReadings())

    def _readings(self) -> SensorReadings:
        known = read(self._root)
        incomplete = known.gpu_load is None or not known.power or not known.temperatures
        return self._jtop.completed(known) if incomplete and self._jtop is not None else known


def _memory(available: float | None) -> Iterator[GaugeMetricFamily]:
    yield _one("chatapi_memory_available_bytes", "Memory available to the process.", available)


def _disk(size: float | None, free: float | None) -> Iterator[GaugeMetricFamily]:
    yield _one("chatapi_data_disk_bytes", "Size of the data directory's disk.", size)
    yield _one("chatapi_data_disk_free_bytes", "Free space on the data directory's disk.", free)


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
