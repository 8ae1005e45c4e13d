"""`chatapi bench`: runs the measurements and prints a table or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chatapi.appliance import Appliance
from chatapi.bench import Row, commands, devices, http, lag, live, process, recognition, speed, turns
from chatapi.bench.bare import Bare
from chatapi.bench.lag import LagOptions
from chatapi.errors import BadInput
from chatapi.runtime import engine_selection
from chatapi.settings import Settings

IN_PROCESS = {
    "turns": turns.measure,
    "hearing": recognition.measure,
    "commands": commands.measure,
    "speed": speed.measure,
    "live": live.measure,
}
"""Parts measured in this process, on one appliance beside the bare engines."""
OUTSIDE = {"lag": lag.measure, "http": http.measure, "process": process.measure, "devices": devices.measure}
"""Parts measured on an appliance of their own, `lag` in this process and the others in another."""
TRANSPORT = "realtime"
"""Default transport of `live`, the one that users have."""
PARTS = (*IN_PROCESS, *OUTSIDE)


@dataclass(frozen=True)
class LiveOptions:
    """Options of `live`."""

    transport: str | None = None
    """Of `transport.NAMES`; None: TRANSPORT."""
    scenarios: Sequence[str] = ()
    """Of `live.SCENARIOS`; empty: all."""
    hurry: bool = False
    """Whether time passes as if computing took none."""


async def bench(
    settings: Settings,
    parts: Sequence[str],
    rounds: int,
    as_json: bool,
    options: LiveOptions = LiveOptions(),
    lag_options: LagOptions = lag.DEFAULTS,
) -> int:
    """Run the measurements of these parts, or of all.

    Status 0, also for missed targets: a busy machine is not a failure. Raises BadInput.
    """
    for part in parts:
        if part not in PARTS:
            raise BadInput(f"part {part!r} is not supported ({', '.join(PARTS)})")
    if options != LiveOptions() and "live" not in (parts or PARTS):
        raise BadInput("--transport, --scenario and --hurry are only used by `bench live`")
    if lag_options != lag.DEFAULTS and "lag" not in (parts or PARTS):
        raise BadInput("--streams, --seconds, --detector and --asleep are only used by `bench lag`")
    console = Console(stderr=True)
    rows: list[Row] = []
    async for row in _measured(settings, parts or PARTS, rounds, options, lag_options):
        rows.append(row)
        console.print(f"[dim]{row.part}: {row.what}: {_shown(row.value)} {row.unit}")
    if as_json:
        print(json.dumps([{**asdict(row), "met": row.met} for row in rows], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_table(rows))
    return 0


async def _measured(
    settings: Settings, parts: Sequence[str], rounds: int, options: LiveOptions, lag_options: LagOptions
) -> AsyncIterator[Row]:
    if set(parts) & set(IN_PROCESS):
        async with Appliance(await engine_selection.resolve_engines_async(settings)).running() as appliance:
            await appliance.load()
            bare = Bare(appliance)
            measure_live = partial(
                live.measure,
                transport=options.transport or TRANSPORT,
                chosen=options.scenarios,
                hurry=options.hurry,
            )
            for name in IN_PROCESS:
                if name in parts:
                    measure = measure_live if name == "live" else IN_PROCESS[name]
                    async for row in measure(appliance, bare, rounds):
                        yield row
    for name in OUTSIDE:
        if name in parts:
            measure_outside = partial(lag.measure, options=lag_options) if name == "lag" else OUTSIDE[name]
            async for row in measure_outside(settings, rounds):
                yield row


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("part", "what", "value", "target", ""):
        table.add_column(column, justify="right" if column in ("value", "target") else "left", no_wrap=column != "what")
    for row in rows:
        target = "" if row.target is None else f"{'>=' if row.at_least else '<='} {_shown(row.target)}"
        met = {None: "", True: "[green]met", False: "[red]missed"}[row.met]
        what = f"{escape(row.what)}\n[dim]{escape(row.note)}[/]" if row.note else escape(row.what)
        table.add_row(row.part, what, f"{_shown(row.value)} {row.unit}", target, met)
    return table


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
