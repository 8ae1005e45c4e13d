"""Load and memory of GPUs, as nvidia-smi and a Jetson's sensors tell them, and in the form of TorchServe's answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatapi.interfaces.torchserve import gpus
from chatapi.system import nvidia_gpu
from chatapi.system.nvidia_gpu import MIB, GpuReading
from fake_jetson import board
from gpu_driver import nvidia_smi


def test_machine_without_a_driver_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_gpu.read() == ()
    assert gpus.readings(tmp_path) == ()
    assert gpus.usage(()) == "failed to obtained gpu usage" and not list(gpus.samples(()))


def test_values_of_several_gpus_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "0, 37, 12, 1024, 4096", "1, [N/A], [Not Supported], 512, 4096", "no row")
    assert nvidia_gpu.read() == (
        GpuReading(0, 0.37, 0.12, 1024 * MIB, 4096 * MIB),
        GpuReading(1, None, None, 512 * MIB, 4096 * MIB),
    )


def test_driver_that_fails_or_hangs_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = nvidia_smi(tmp_path, monkeypatch, "0, 37, 12, 1024, 4096", status=15)
    assert nvidia_gpu.read() == ()
    monkeypatch.setattr(nvidia_gpu, "TIMEOUT", 0.1)
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    assert nvidia_gpu.read() == ()


def test_values_that_the_driver_of_a_jetson_does_not_tell_are_those_of_its_sensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "0, [N/A], [N/A], [N/A], [N/A]")
    found = gpus.readings(board(tmp_path / "board"))
    assert found == [GpuReading(0, 0.427, None, 4096 * MIB, 16055396 * 1024)]
    usage = "gpuId::0 utilization.gpu [%]::43 % utilization.memory [%]::[N/A] memory.used [MiB]::4096 MiB"
    assert gpus.usage(found) == usage
    assert {name: round(value, 1) for name, _, value in gpus.samples(found)} == {
        "GPUUtilization": 42.7,
        "GPUMemoryUsed": 4096.0,
        "GPUMemoryUtilization": 26.1,
    }
