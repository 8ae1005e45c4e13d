"""Detection of Jetson boards from their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatapi.system import jetson
from fake_jetson import ORIN_NX, without, write_files


def test_board_is_detected_by_its_files(tmp_path: Path) -> None:
    found = jetson.find(write_files(tmp_path, ORIN_NX))
    assert found == jetson.JetsonBoard(
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        chip="tegra234",
        gpu="sm_87",
        l4t=(36, 4, 3),
        cuda=(12, 6, 68),
        memory=16055396 * 1024,
    )
    assert found.family == "Orin"
    assert jetson.meminfo(tmp_path) == 12_000_000 * 1024


def test_release_is_unknown_in_a_container(tmp_path: Path) -> None:
    found = jetson.find(write_files(tmp_path, without("etc/nv_tegra_release", "usr/local/cuda/version.json")))
    assert found and (found.gpu, found.l4t, found.cuda) == ("sm_87", (), ())


@pytest.mark.parametrize("broken", ["", "{", '{"cuda": []}', '{"cuda": {"version": "twelve"}}'])
def test_cuda_version_without_a_toolkit_is_that_of_the_release(tmp_path: Path, broken: str) -> None:
    found = jetson.find(write_files(tmp_path, {**ORIN_NX, "usr/local/cuda/version.json": broken}))
    assert found and found.cuda == (12, 6)


def test_other_machine_is_not_a_jetson(tmp_path: Path) -> None:
    pi = "raspberrypi,4-model-b\0brcm,bcm2711\0"
    assert jetson.find(tmp_path) is None
    assert jetson.find(write_files(tmp_path, {"proc/device-tree/compatible": pi})) is None


def test_unknown_chip_has_no_known_gpu(tmp_path: Path) -> None:
    files = {**ORIN_NX, "proc/device-tree/compatible": "nvidia,p9999\0nvidia,tegra999\0"}
    found = jetson.find(write_files(tmp_path, files))
    assert found and (found.gpu, found.family) == ("", "")
