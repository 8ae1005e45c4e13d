"""Which Jetson this is, from files as the boards have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatapi.system import jetson

ORIN_NX = {
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "proc/meminfo": "MemTotal:       16055396 kB\nMemFree:         9000000 kB\nMemAvailable:   12000000 kB\n",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
}


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def without(*names: str) -> dict[str, str]:
    return {name: text for name, text in ORIN_NX.items() if name not in names}


def test_a_board_is_known_by_its_files(tmp_path: Path) -> None:
    found = jetson.find(written(tmp_path, ORIN_NX))
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


def test_in_a_container_the_release_is_not_told(tmp_path: Path) -> None:
    found = jetson.find(written(tmp_path, without("etc/nv_tegra_release", "usr/local/cuda/version.json")))
    assert found and (found.gpu, found.l4t, found.cuda) == ("sm_87", (), ())


@pytest.mark.parametrize("broken", ["", "{", '{"cuda": []}', '{"cuda": {"version": "twelve"}}'])
def test_without_a_toolkit_cuda_is_what_the_release_brings(tmp_path: Path, broken: str) -> None:
    found = jetson.find(written(tmp_path, {**ORIN_NX, "usr/local/cuda/version.json": broken}))
    assert found and found.cuda == (12, 6)


def test_another_machine_is_no_board(tmp_path: Path) -> None:
    pi = "raspberrypi,4-model-b\0brcm,bcm2711\0"
    assert jetson.find(tmp_path) is None
    assert jetson.find(written(tmp_path, {"proc/device-tree/compatible": pi})) is None


def test_a_chip_to_come_has_no_gpu_that_we_know(tmp_path: Path) -> None:
    files = {**ORIN_NX, "proc/device-tree/compatible": "nvidia,p9999\0nvidia,tegra999\0"}
    found = jetson.find(written(tmp_path, files))
    assert found and (found.gpu, found.family) == ("", "")
