"""`chatapi bench`: measures, shows a table, or gives JSON."""

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
from chatapi.bench import Row, devices, http, live, process, recognition, speed, turns
from chatapi.bench.bare import Bare
from chatapi.errors import BadInput
from chatapi.runtime import engine_selection
from chatapi.settings import Settings

INSIDE = {"turns": turns.measure, "hearing": recognition.measure, "speed": speed.measure, "live": live.measure}
"""Measured in this process, on one appliance beside the bare engines."""
OUTSIDE = {"http": http.measure, "process": process.measure, "devices": devices.measure}
DOOR = "realtime"
"""How `live` reaches the box unless asked otherwise: as users do."""
PARTS = (*INSIDE, *OUTSIDE)


@dataclass(frozen=True)
class SceneList:
    """How `live` is played."""

    door: str | None = None
    """How it reaches the box; None: as users do."""
    chosen: Sequence[str] = ()
    """Of `live.SCENES`; empty: all."""
    hurry: bool = False
    """Whether time passes as if computing took none."""


async def bench(
    settings: Settings, parts: Sequence[str], rounds: int, as_json: bool, scenes: SceneList = SceneList()
) -> int:
    """Measures the parts, or all.

    Status 0; whether a target was met is in the figures, and a busy machine is no failure. Raises BadInput.
    """
    for part in parts:
        if part not in PARTS:
            raise BadInput(f"there is no part {part!r}; there are: {', '.join(PARTS)}")
    if scenes != SceneList() and "live" not in (parts or PARTS):
        raise BadInput("--door is how `bench live` reaches the box, --scene what it plays; no other part has one")
    console = Console(stderr=True)
    rows: list[Row] = []
    async for row in _measured(settings, parts or PARTS, rounds, scenes):
        rows.append(row)
        console.print(f"[dim]{row.part}: {row.what}: {_shown(row.value)} {row.unit}")
    if as_json:
        print(json.dumps([{**asdict(row), "met": row.met} for row in rows], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_table(rows))
    return 0


async def _measured(settings: Settings, parts: Sequence[str], rounds: int, scenes: SceneList) -> AsyncIterator[Row]:
    if set(parts) & set(INSIDE):
        async with Appliance(await engine_selection.resolve_engines_async(settings)).running() as appliance:
            await appliance.load()
            bare = Bare(appliance)
            staged = partial(live.measure, door=scenes.door or DOOR, chosen=scenes.chosen, hurry=scenes.hurry)
            for name in INSIDE:
                if name in parts:
                    how = staged if name == "live" else INSIDE[name]
                    async for row in how(appliance, bare, rounds):
                        yield row
    for name in OUTSIDE:
        if name in parts:
            async for row in OUTSIDE[name](settings, rounds):
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
