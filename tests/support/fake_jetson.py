"""A fake Jetson Orin NX on L4T 36: its files, with sensors and the links that sysfs has.

The rails are those of the kernel's arch/arm64/boot/dts/nvidia/tegra234-p3767.dtsi (an INA3221 with VDD_IN,
VDD_CPU_GPU_CV, VDD_SOC), the GPU's place that of tegra234.dtsi (bus@0, gpu@17000000) as NVIDIA's driver has it under
devfreq, zones and cooling devices those of the Jetson Linux Developer Guide (r36, "Thermal Management"); the sum
of shunt voltages is described in the kernel's Documentation/hwmon/ina3221.rst. Units: mV, mA, m°C, thousandths, Hz.
"""

from __future__ import annotations

from pathlib import Path

ORIN_NX = {
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "proc/meminfo": "MemTotal:       16055396 kB\nMemFree:         9000000 kB\nMemAvailable:   12000000 kB\n",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
}
"""The files that identify a Jetson Orin NX on L4T 36."""
GPU = "sys/devices/platform/bus@0/17000000.gpu"
MONITOR = "sys/devices/platform/bus@0/c240000.i2c/i2c-1/1-0040/hwmon/hwmon1"
RAILS = {"VDD_IN": (5008, 1432), "VDD_CPU_GPU_CV": (4984, 456), "VDD_SOC": (4992, 304)}
ZONES = {"cpu-thermal": 52_468, "gpu-thermal": 49_906, "soc0-thermal": 50_125, "tj-thermal": 52_468}
THROTTLED = {"cpu": 0, "gpu": 1}
MEMORY = ORIN_NX["proc/meminfo"] + "NvMapMemFree:          0 kB\nNvMapMemUsed:    4194304 kB\n"


def write_files(root: Path, files: dict[str, str]) -> Path:
    """Writes files under `root` and returns it."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def without(*names: str) -> dict[str, str]:
    """The files of an Orin NX except these."""
    return {name: text for name, text in ORIN_NX.items() if name not in names}


def board(root: Path) -> Path:
    """Writes the files of the board under `root`."""
    files = {**ORIN_NX, "proc/meminfo": MEMORY, f"{GPU}/load": "427\n"}
    files[f"{GPU}/devfreq/17000000.gpu/cur_freq"] = "918000000\n"
    files[f"{MONITOR}/name"] = "ina3221\n"
    for number, (rail, (volts, amperes)) in enumerate(RAILS.items(), 1):
        files |= {f"{MONITOR}/in{number}_label": f"{rail}\n", f"{MONITOR}/in{number}_input": f"{volts}\n"}
        files[f"{MONITOR}/curr{number}_input"] = f"{amperes}\n"
    files |= {f"{MONITOR}/in7_label": "sum of shunt voltages\n", f"{MONITOR}/in7_input": "7120\n"}
    for number, (zone, heat) in enumerate(ZONES.items()):
        place = f"sys/devices/virtual/thermal/thermal_zone{number}"
        files |= {f"{place}/type": f"{zone}\n", f"{place}/temp": f"{heat}\n"}
        for point, (kind, limit) in enumerate((("active", 51_000), ("passive", 99_000), ("critical", 104_500))):
            files |= {f"{place}/trip_point_{point}_type": kind, f"{place}/trip_point_{point}_temp": str(limit)}
    # The zone of a unit that is off cannot be read.
    files["sys/devices/virtual/thermal/thermal_zone9/type"] = "cv0-thermal\n"
    for number, (part, state) in enumerate(THROTTLED.items()):
        place = f"sys/devices/virtual/thermal/cooling_device{number}"
        files |= {f"{place}/type": f"{part}-throttle-alert\n", f"{place}/cur_state": f"{state}\n"}
    files["sys/devices/virtual/thermal/cooling_device5/type"] = "pwm-fan\n"
    write_files(root, files)
    _link(root, f"{GPU}/devfreq/17000000.gpu/device", GPU)
    _link(root, "sys/class/devfreq/17000000.gpu", f"{GPU}/devfreq/17000000.gpu")
    _link(root, "sys/class/hwmon/hwmon1", MONITOR)
    for place in (root / "sys/devices/virtual/thermal").iterdir():
        _link(root, f"sys/class/thermal/{place.name}", str(place.relative_to(root)))
    return root


def _link(root: Path, name: str, to: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(root / to)
