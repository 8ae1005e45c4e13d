"""Checks a Jetson's power mode, clocks, temperature and software.

The files are those of NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance" (nvpmodel, jetson_clocks,
thermal zones, over-current events), and those that jtop of jetson_stats and users' logs show on L4T 35 and 36.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.system.jetson import CUDA_OF_L4T

NEAR = 5.0
"""Distance from the throttling temperature that is reported, in °C."""
OVER_CURRENT = {"oc1": "the supply's voltage fell too low", "oc2": "more current was drawn than the board may take"}
"""Over-current events of the SoC. A third one counts very short spikes, which the fastest modes have all the time."""


def power(context: CheckContext) -> Iterator[Finding]:
    """The power mode: nvpmodel writes "pmode:0002" and reads "< POWER_MODEL ID=2 NAME=MAXN_SUPER >"."""
    now = re.search(r"pmode:(\d+)", context.text("var/lib/nvpmodel/status"))
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", context.text("etc/nvpmodel.conf"), re.MULTILINE)
    modes = {int(number): name for number, name in found}
    if context.board is None or now is None or int(now[1]) not in modes:
        return
    # The fastest mode is the one without a limit, or the one with the highest power; not the highest number.
    best = max(modes, key=lambda number: _watts(modes[number]))
    mode = modes[int(now[1])]
    if _watts(mode) >= _watts(modes[best]):
        yield Finding("good", "power mode", f"{mode}, the fastest this board has")
    else:
        yield Finding("note", "power mode", f"{mode}; {modes[best]} is faster: sudo nvpmodel -m {best}")


def _watts(mode: str) -> float:
    found = re.search(r"(\d+)W", mode)
    return float("inf") if mode.startswith("MAXN") else float(found[1]) if found else 0.0


def clocks(context: CheckContext) -> Iterator[Finding]:
    """Whether the clocks follow the load; jetson_clocks fixes them at the maximum."""
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    lowest, highest = (context.number(f"{folder}/scaling_{end}_freq") for end in ("min", "max"))
    governor = context.text(f"{folder}/scaling_governor")
    if context.board is None or lowest is None or highest is None:
        return
    if lowest == highest:
        yield Finding("good", "clocks", f"fixed at {highest / 1e6:.2f} GHz")
    else:
        message = f"they follow the load ({governor}), which delays answers"
        yield Finding("note", "clocks", f"{message}: sudo jetson_clocks fixes them at the maximum until the next start")


def heat(context: CheckContext) -> Iterator[Finding]:
    """Temperatures against the first passive trip point, from which clocks are lowered; sysfs has millidegrees.

    The throttle-alert cooling devices (cpu-, gpu-, soc0-...) are on while the board lowers its clocks.
    """
    if context.board is None:
        return
    alerts = [
        context.text(f"{place}/type").removesuffix("-throttle-alert")
        for place in context.glob("sys/class/thermal/cooling_device*")
        if context.text(f"{place}/type").endswith("-throttle-alert") and context.number(f"{place}/cur_state")
    ]
    zones = [zone for place in context.glob("sys/class/thermal/thermal_zone*") if (zone := _zone(context, place))]
    name, now, limit = min(zones, key=lambda zone: zone[2] - zone[1], default=("", 0.0, 0.0))
    remedy = "use a fan, a larger heat sink or a lower power mode"
    if alerts or (zones and now >= limit):
        which = f" ({', '.join(alerts)})" if alerts else ""
        yield Finding("note", "heat", f"the board is throttled because it is too hot{which}: {remedy}")
    elif zones and now >= limit - NEAR:
        yield Finding("note", "heat", f"{name} has {now:.0f} °C and the board throttles at {limit:.0f} °C: {remedy}")
    elif zones:
        yield Finding("good", "heat", f"{name} has {now:.0f} °C, the board throttles at {limit:.0f} °C")


def _zone(context: CheckContext, place: str) -> tuple[str, float, float] | None:
    """Name, temperature and throttling temperature of a zone, in °C; None if one of them is missing."""
    # The file of a zone that is off cannot be read.
    now = context.number(f"{place}/temp")
    trips = [
        value / 1000
        for kind in context.glob(f"{place}/trip_point_*_type")
        if context.text(kind) == "passive"
        and (value := context.number(kind.removesuffix("type") + "temp"))
        and value > 0
    ]
    return (context.text(f"{place}/type"), now / 1000, min(trips)) if now is not None and trips else None


def current(context: CheckContext) -> Iterator[Finding]:
    """Number of over-current events since the board was started: hwmon "soctherm_oc" of L4T 35 and later."""
    for place in context.glob("sys/class/hwmon/hwmon*") if context.board is not None else ():
        if context.text(f"{place}/name") != "soctherm_oc":
            continue
        for event, meaning in OVER_CURRENT.items():
            if times := context.number(f"{place}/{event}_event_cnt"):
                message = f"{meaning} {times} times since the start, and the board was throttled"
                yield Finding("note", "supply", f"{message}: use the board's own supply, or a lower power mode")


def release(context: CheckContext) -> Iterator[Finding]:
    """The board's L4T and CUDA, and whether they match the image (L4T_VERSION in its environment)."""
    board = context.board
    if board is None:
        return
    level: Level = "bad" if context.needs_gpu else "note"
    l4t, cuda = (".".join(map(str, version)) for version in (board.l4t, board.cuda))
    made_for = re.match(r"[rR]?(\d+)\.", context.environ.get("L4T_VERSION", ""))
    brings = CUDA_OF_L4T.get(board.l4t[0]) if board.l4t else None
    if board.l4t and made_for and int(made_for[1]) != board.l4t[0]:
        message = f"the image is for L4T r{made_for[1]} and the board has r{l4t}"
        yield Finding(level, "image", f"{message}: use the image whose name ends in -r{board.l4t[0]}")
    elif brings and board.cuda[:1] != brings[:1]:
        message = f"CUDA {cuda} is installed and L4T r{l4t} has the driver of CUDA {brings[0]}.{brings[1]}"
        yield Finding(level, "image", f"{message}: use the image whose name ends in -r{board.l4t[0]}")
    else:
        text = f"{board.model}, {board.gpu or 'unknown GPU'}"
        yield Finding("good", "board", text + (f", L4T r{l4t}" if l4t else "") + (f", CUDA {cuda}" if cuda else ""))
    if board.fault:
        yield Finding("note", "GPU memory", board.fault)
    if board.chip and not board.gpu:
        yield Finding("note", "board", f"the chip {board.chip} is not supported: use a newer chatapi")
