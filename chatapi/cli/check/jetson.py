"""A Jetson's power, heat and software: whether it gives what it could, and fits the image.

The files are those of NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance" (nvpmodel, jetson_clocks,
thermal zones, over-current events), as jtop of jetson_stats and many users' logs show them on L4T 35 and 36.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.system.jetson import CUDA_OF_L4T

NEAR = 5.0
"""Degrees below the temperature of throttling from which it is worth a word."""
OVER_CURRENT = {"oc1": "the supply's voltage fell too low", "oc2": "more current was drawn than the board may take"}
"""Events of the SoC's guard. A third one counts spikes of an instant, which the fastest modes have all the time."""


def power(scene: CheckContext) -> Iterator[Finding]:
    """The power mode: nvpmodel writes "pmode:0002" and reads "< POWER_MODEL ID=2 NAME=MAXN_SUPER >"."""
    now = re.search(r"pmode:(\d+)", scene.text("var/lib/nvpmodel/status"))
    told = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", scene.text("etc/nvpmodel.conf"), re.MULTILINE)
    modes = {int(number): name for number, name in told}
    if scene.board is None or now is None or int(now[1]) not in modes:
        return
    # The fastest has not the highest number, and where none is without a limit it is the one that may take most.
    best = max(modes, key=lambda number: _watts(modes[number]))
    mode = modes[int(now[1])]
    if _watts(mode) >= _watts(modes[best]):
        yield Finding("good", "power mode", f"{mode}, the fastest this board has")
    else:
        yield Finding("note", "power mode", f"{mode}; {modes[best]} is faster: sudo nvpmodel -m {best}")


def _watts(mode: str) -> float:
    found = re.search(r"(\d+)W", mode)
    return float("inf") if mode.startswith("MAXN") else float(found[1]) if found else 0.0


def clocks(scene: CheckContext) -> Iterator[Finding]:
    """Whether the clocks follow the load; jetson_clocks holds them at their highest."""
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    lowest, highest = (scene.number(f"{folder}/scaling_{end}_freq") for end in ("min", "max"))
    governor = scene.text(f"{folder}/scaling_governor")
    if scene.board is None or lowest is None or highest is None:
        return
    if lowest == highest:
        yield Finding("good", "clocks", f"held at {highest / 1e6:.2f} GHz")
    else:
        told = f"they follow the load ({governor}), which costs answers their first moments: sudo jetson_clocks holds"
        yield Finding("note", "clocks", f"{told} them at their highest until the next start")


def heat(scene: CheckContext) -> Iterator[Finding]:
    """Temperatures against the first passive trip point, where clocks begin to be lowered; sysfs has millidegrees.

    The throttle-alert cooling devices (cpu-, gpu-, soc0-...) are on while the board does lower them.
    """
    if scene.board is None:
        return
    alerts = [
        scene.text(f"{place}/type").removesuffix("-throttle-alert")
        for place in scene.glob("sys/class/thermal/cooling_device*")
        if scene.text(f"{place}/type").endswith("-throttle-alert") and scene.number(f"{place}/cur_state")
    ]
    zones = [zone for place in scene.glob("sys/class/thermal/thermal_zone*") if (zone := _zone(scene, place))]
    name, now, limit = min(zones, key=lambda zone: zone[2] - zone[1], default=("", 0.0, 0.0))
    cooler = "give it air, a fan or a larger heat sink, or a lower power mode"
    if alerts or (zones and now >= limit):
        which = f" ({', '.join(alerts)})" if alerts else ""
        yield Finding("note", "heat", f"the board is slowed down because it is too hot{which}: {cooler}")
    elif zones and now >= limit - NEAR:
        yield Finding("note", "heat", f"{name} has {now:.0f} °C and the board is slowed down at {limit:.0f}: {cooler}")
    elif zones:
        yield Finding("good", "heat", f"{name} has {now:.0f} °C, the board is slowed down at {limit:.0f}")


def _zone(scene: CheckContext, place: str) -> tuple[str, float, float] | None:
    """Name, temperature and where throttling begins, in °C; None for a zone without the one or the other."""
    # A zone that is off cannot be read.
    now = scene.number(f"{place}/temp")
    trips = [
        value / 1000
        for kind in scene.glob(f"{place}/trip_point_*_type")
        if scene.text(kind) == "passive" and (value := scene.number(kind.removesuffix("type") + "temp")) and value > 0
    ]
    return (scene.text(f"{place}/type"), now / 1000, min(trips)) if now is not None and trips else None


def current(scene: CheckContext) -> Iterator[Finding]:
    """Times the guard of the supply stepped in since the board was started: hwmon "soctherm_oc" of L4T 35 and later."""
    for place in scene.glob("sys/class/hwmon/hwmon*") if scene.board is not None else ():
        if scene.text(f"{place}/name") != "soctherm_oc":
            continue
        for event, meaning in OVER_CURRENT.items():
            if times := scene.number(f"{place}/{event}_event_cnt"):
                told = f"{meaning} {times} times since the start, and the board was slowed down"
                yield Finding("note", "supply", f"{told}: use the supply that it came with, or a lower power mode")


def release(scene: CheckContext) -> Iterator[Finding]:
    """The board's L4T and CUDA, and whether the image was made for them (L4T_VERSION in its environment)."""
    board = scene.board
    if board is None:
        return
    level: Level = "bad" if scene.needs_gpu else "note"
    l4t, cuda = (".".join(map(str, version)) for version in (board.l4t, board.cuda))
    made_for = re.match(r"[rR]?(\d+)\.", scene.environ.get("L4T_VERSION", ""))
    brings = CUDA_OF_L4T.get(board.l4t[0]) if board.l4t else None
    if board.l4t and made_for and int(made_for[1]) != board.l4t[0]:
        told = f"the image is made for L4T r{made_for[1]} and the board has r{l4t}"
        yield Finding(level, "image", f"{told}: take the image whose name ends in -r{board.l4t[0]}")
    elif brings and board.cuda[:1] != brings[:1]:
        told = f"CUDA {cuda} is here and L4T r{l4t} has the driver of CUDA {brings[0]}.{brings[1]}"
        yield Finding(level, "image", f"{told}: take the image whose name ends in -r{board.l4t[0]}")
    else:
        has = f"{board.model}, {board.gpu or 'a GPU that is not known'}"
        yield Finding("good", "board", has + (f", L4T r{l4t}" if l4t else "") + (f", CUDA {cuda}" if cuda else ""))
    if board.chip and not board.gpu:
        yield Finding("note", "board", f"the chip {board.chip} is not known to chatapi: take a newer chatapi")
