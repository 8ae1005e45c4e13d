"""TorchServe's metrics, by its names, in Prometheus' text form.

They are written here, because prometheus-client adds `_total` to the names of counters.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatapi.interfaces.torchserve import gpus

COUNT, MICROSECONDS, MILLISECONDS, MEGABYTES, GIGABYTES, PERCENT = (
    "Count", "Microseconds", "Milliseconds", "Megabytes", "Gigabytes", "Percent",
)  # fmt: skip
NAMES: dict[str, tuple[str, str]] = {
    "Requests2XX": ("counter", COUNT),
    "Requests4XX": ("counter", COUNT),
    "Requests5XX": ("counter", COUNT),
    "ts_inference_requests_total": ("counter", COUNT),
    "ts_inference_latency_microseconds": ("counter", MICROSECONDS),
    "ts_queue_latency_microseconds": ("counter", MICROSECONDS),
    "OpenSessions": ("counter", COUNT),
    "QueueTime": ("gauge", MILLISECONDS),
    "WorkerThreadTime": ("gauge", MILLISECONDS),
    "WorkerLoadTime": ("gauge", MILLISECONDS),
    "CPUUtilization": ("gauge", PERCENT),
    "MemoryUsed": ("gauge", MEGABYTES),
    "MemoryAvailable": ("gauge", MEGABYTES),
    "MemoryUtilization": ("gauge", PERCENT),
    "DiskUsage": ("gauge", GIGABYTES),
    "DiskAvailable": ("gauge", GIGABYTES),
    "DiskUtilization": ("gauge", PERCENT),
    "GPUUtilization": ("gauge", PERCENT),
    "GPUMemoryUsed": ("gauge", MEGABYTES),
    "GPUMemoryUtilization": ("gauge", PERCENT),
    "HandlerTime": ("gauge", "ms"),
    "PredictionTime": ("gauge", "ms"),
}
"""Name -> type and unit; those of a GPU have no values where there is none, and neither have sessions, which no model
has."""

Sample = tuple[str, dict[str, str], float]
"""Name, labels and value."""


@dataclass(frozen=True)
class WorkerLoad:
    """How long a worker took to load its model."""

    name: str
    """Such as W-9000-whisper_1.0."""
    milliseconds: float


class TorchServeMetrics:
    """The counters of a running server. All methods belong to one event loop."""

    def __init__(self, data: Path) -> None:
        """`data`: the data directory, whose disk is measured."""
        self._data = data
        self.host = socket.gethostname()
        self._statuses: Counter[str] = Counter()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._inference: Counter[tuple[str, str]] = Counter()
        self._queue: Counter[tuple[str, str]] = Counter()
        self._last_queue = self._last_thread = 0.0
        self._last_prediction: dict[str, float] = {}

    def count_status(self, status: int) -> None:
        """Count a response."""
        if 200 <= status < 600 and status // 100 != 3:
            self._statuses[f"Requests{status // 100}XX"] += 1

    def count_request(self, model: str, version: str) -> None:
        """Count a prediction that was requested; only of a registered model, so that clients cannot invent labels."""
        self._requests[model, version] += 1

    def count_prediction(self, model: str, version: str, waited: float, worked: float) -> None:
        """Count a finished prediction: seconds in the queue, and seconds of work."""
        self._queue[model, version] += round(waited * 1e6)
        self._inference[model, version] += round((waited + worked) * 1e6)
        self._last_queue, self._last_thread = waited * 1000, worked * 1000
        self._last_prediction[model] = worked * 1000

    def forget(self, model: str) -> None:
        """Forget the values of a model that is no longer registered."""
        self._last_prediction.pop(model, None)
        for table in (self._requests, self._inference, self._queue):
            for key in [each for each in table if each[0] == model]:
                del table[key]

    def text(self, names: Collection[str], loads: Collection[WorkerLoad]) -> str:
        """The metrics with these names; of all without any. Blocking."""
        wanted = [name for name in NAMES if not names or name in names]
        samples = [*self._counted(), *self._last(loads), *(self._system() if any(map(_is_system, wanted)) else ())]
        samples += self._gpus() if any(name.startswith("GPU") for name in wanted) else ()
        lines = []
        for name in wanted:
            kind, unit = NAMES[name]
            lines.append(f"# HELP {name} Torchserve prometheus {kind} metric with unit: {unit}")
            lines.append(f"# TYPE {name} {kind}")
            lines += [f"{name}{_labels(labels)} {value}" for each, labels, value in samples if each == name]
        return "\n".join(lines) + "\n"

    def _counted(self) -> Iterator[Sample]:
        host = {"Level": "Host", "Hostname": self.host}
        for name, count in self._statuses.items():
            yield name, host, float(count)
        tables = (
            ("ts_inference_requests_total", self._requests),
            ("ts_inference_latency_microseconds", self._inference),
            ("ts_queue_latency_microseconds", self._queue),
        )
        for name, table in tables:
            for (model, version), amount in table.items():
                yield name, {"model_name": model, "model_version": version, "hostname": self.host}, float(amount)

    def _last(self, loads: Collection[WorkerLoad]) -> Iterator[Sample]:
        host = {"Level": "Host", "Hostname": self.host}
        if self._last_prediction:
            yield "QueueTime", host, round(self._last_queue, 3)
            yield "WorkerThreadTime", host, round(self._last_thread, 3)
        for load in loads:
            yield "WorkerLoadTime", {"WorkerName": load.name, **host}, round(load.milliseconds, 3)
        for model, milliseconds in self._last_prediction.items():
            labels = {"ModelName": model, "Level": "Model", "Hostname": self.host}
            yield "HandlerTime", labels, round(milliseconds, 2)
            yield "PredictionTime", labels, round(milliseconds, 2)

    def _system(self) -> Iterator[Sample]:
        host = {"Level": "Host", "Hostname": self.host}
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._data if self._data.exists() else "/"))
        yield "CPUUtilization", host, psutil.cpu_percent()
        yield "MemoryUsed", host, memory.used / 2**20
        yield "MemoryAvailable", host, memory.available / 2**20
        yield "MemoryUtilization", host, memory.percent
        yield "DiskUsage", host, disk.used / 2**30
        yield "DiskAvailable", host, disk.free / 2**30
        yield "DiskUtilization", host, disk.percent

    def _gpus(self) -> Iterator[Sample]:
        for name, number, value in gpus.samples(gpus.readings()):
            yield name, {"Level": "Host", "DeviceId": str(number), "Hostname": self.host}, round(value, 2)


def _is_system(name: str) -> bool:
    return name.startswith(("CPU", "Memory", "Disk"))


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
