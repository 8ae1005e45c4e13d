"""A Jetson's sensors: GPU load, power and temperatures.

The files are those of L4T 35 and 36, as NVIDIA's Jetson Linux Developer Guide ("Platform Power and Performance": power
monitors, thermal zones) and the kernel's documentation (hwmon/ina3221.rst, ABI/testing/sysfs-class-thermal) name them,
and as jetson_stats 7.2 reads them (jtop/core/gpu.py, power.py, memory.py). Every user can read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatapi.system import jetson

LOADS = (
    "sys/class/devfreq/*.gpu/device/load",
    "sys/class/devfreq/*.ga10b/device/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/gpu.0/load",
)
"""Files with the GPU's load, in thousandths: of L4T 36, 35, and older releases."""
CLOCKS = ("sys/class/devfreq/*.gpu/cur_freq", "sys/class/devfreq/*.ga10b/cur_freq")
"""Files with the GPU's clock frequency, in Hz."""
MONITORS = ("ina3221", "ina238")
"""hwmon names of the power monitors of an Orin and a Thor."""
UNUSED = ("NC", "sum of shunt voltages")
"""Labels of a monitor's channels that are not rails."""
ALERT = "-throttle-alert"


@dataclass(frozen=True)
class SensorReadings:
    """Readings of a board's sensors; an unknown value is None or missing."""

    gpu_load: float | None = None
    """Load of the GPU, 0 to 1."""
    gpu_hertz: float | None = None
    """Clock frequency of the GPU, in Hz."""
    power: Mapping[str, float] = field(default_factory=dict)
    """Rail -> power, in watts."""
    temperatures: Mapping[str, float] = field(default_factory=dict)
    """Thermal zone -> temperature, in °C."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Thermal zone -> temperature from which clocks are lowered, in °C."""
    throttled: Mapping[str, bool] = field(default_factory=dict)
    """Part -> whether its clocks are lowered now because of its temperature."""
    memory_total: float | None = None
    """Memory of CPU and GPU together, in bytes."""
    memory_available: float | None = None
    """Available memory, in bytes."""
    memory_gpu: float | None = None
    """Memory held by the GPU, in bytes."""


def read(root: Path = Path("/")) -> SensorReadings:
    """Read the sensors from the files under `root`."""
    zones = {name: zone for zone in root.glob("sys/class/thermal/thermal_zone*") if (name := _text(zone / "type"))}
    heat = {name: value for name, zone in zones.items() if (value := _number(zone / "temp")) is not None}
    return SensorReadings(
        gpu_load=_scaled(_first(root, LOADS), 1 / 1000),
        gpu_hertz=_first(root, CLOCKS),
        power=_power(root),
        temperatures={name: millidegrees / 1000 for name, millidegrees in heat.items()},
        limits={name: limit for name in heat if (limit := _passive(zones[name])) is not None},
        throttled=_throttled(root),
        memory_total=jetson.meminfo(root, "MemTotal") or None,
        memory_available=jetson.meminfo(root, "MemAvailable") or None,
        memory_gpu=jetson.meminfo(root, "NvMapMemUsed") or None,
    )


def _power(root: Path) -> dict[str, float]:
    """Power of all rails. A monitor has millivolts and milliamperes per channel, or microwatts of its only channel."""
    found: dict[str, float] = {}
    for monitor in root.glob("sys/class/hwmon/hwmon*"):
        if _text(monitor / "name") not in MONITORS:
            continue
        for file in monitor.glob("in*_label"):
            channel, rail = file.name[2:].removesuffix("_label"), _text(file)
            volts, amperes = _number(monitor / f"in{channel}_input"), _number(monitor / f"curr{channel}_input")
            if rail and rail not in UNUSED and volts is not None and amperes is not None:
                found[rail] = volts * amperes / 1e6
        if (watts := _number(monitor / "power1_input")) is not None:
            found[_text(monitor / "label") or monitor.name] = watts / 1e6
    return found


def _passive(zone: Path) -> float | None:
    """The lowest trip point from which the zone's parts are throttled, in °C."""
    points = (file.with_name(file.name.replace("_type", "_temp")) for file in zone.glob("trip_point_*_type")
              if _text(file) == "passive")  # fmt: skip
    return min((value / 1000 for point in points if (value := _number(point)) is not None and value > 0), default=None)


def _throttled(root: Path) -> dict[str, bool]:
    found = {}
    for device in root.glob("sys/class/thermal/cooling_device*"):
        if (kind := _text(device / "type")).endswith(ALERT):
            found[kind.removesuffix(ALERT)] = bool(_number(device / "cur_state"))
    return found


def _first(root: Path, patterns: tuple[str, ...]) -> float | None:
    found = (_number(file) for pattern in patterns for file in sorted(root.glob(pattern)))
    return next((value for value in found if value is not None), None)


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


def _number(file: Path) -> float | None:
    """The number in a file; None if it cannot be read, also because the sensor is off."""
    try:
        return float(_text(file))
    except ValueError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""
