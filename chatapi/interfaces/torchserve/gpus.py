"""The machine's GPUs, in the form of TorchServe's answers: metrics, and the usage of the one that a worker runs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from chatapi.observability.metrics import sensors
from chatapi.system import jetson, nvidia_gpu
from chatapi.system.nvidia_gpu import MIB, GpuReading

NONE = "N/A"
"""The usage of a worker on the CPU."""
FAILED = "failed to obtained gpu usage"
"""The usage where the driver does not tell it, in TorchServe's words."""


def readings(root: Path = Path("/")) -> Sequence[GpuReading]:
    """The GPUs; a Jetson's from its sensors, as far as its driver does not tell. Blocking."""
    found = nvidia_gpu.read()
    if jetson.find(root) is None:
        return found
    known, first = sensors.read(root), found[0] if found else GpuReading(0)
    return [
        replace(
            first,
            load=known.gpu_load if first.load is None else first.load,
            memory_used=known.memory_gpu if first.memory_used is None else first.memory_used,
            memory_total=known.memory_total if first.memory_total is None else first.memory_total,
        )
    ]


def usage(found: Sequence[GpuReading]) -> str:
    """The usage of the first GPU, on which the box's engines run, as TorchServe copies it from nvidia-smi's table."""
    if not found:
        return FAILED
    gpu = found[0]
    values = (
        ("utilization.gpu [%]", _written(gpu.load, 100, "%")),
        ("utilization.memory [%]", _written(gpu.memory_load, 100, "%")),
        ("memory.used [MiB]", _written(gpu.memory_used, 1 / MIB, "MiB")),
    )
    return f"gpuId::{gpu.number} " + " ".join(f"{name}::{value}" for name, value in values)


def samples(found: Sequence[GpuReading]) -> Iterator[tuple[str, int, float]]:
    """Name, number of the GPU, and value of each metric."""
    for gpu in found:
        if gpu.load is not None:
            yield "GPUUtilization", gpu.number, gpu.load * 100
        if gpu.memory_used is not None:
            yield "GPUMemoryUsed", gpu.number, gpu.memory_used / MIB
            if gpu.memory_total:
                yield "GPUMemoryUtilization", gpu.number, 100 * gpu.memory_used / gpu.memory_total


def _written(value: float | None, by: float, unit: str) -> str:
    return "[N/A]" if value is None else f"{round(value * by)} {unit}"
