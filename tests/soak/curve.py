"""The resource usage of a server over time, as CSV and SVG files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

WIDTH, HEIGHT, EDGE = 900, 180, 60
"""Pixels of one curve's panel, and of the room beside it."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


@dataclass(frozen=True)
class Sample:
    """The resource usage at one time."""

    seconds: float
    """Since the start of the traffic."""
    pss_mib: float
    rss_mib: float
    descriptors: int
    threads: int
    latency_ms: float
    """Median of the text turns since the last sample."""


class Curve:
    """Samples in chronological order."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def growth(self, warm: float) -> float:
        """Growth of the memory as a fraction: from the first fifth after `warm` to the last, by their medians."""
        values = [each.pss_mib for each in self.samples if each.seconds >= warm]
        if len(values) < 5:
            return 0.0
        fifth = max(len(values) // 5, 1)
        return _median(values[-fifth:]) / _median(values[:fifth]) - 1

    def write(self, folder: Path) -> None:
        """`soak.csv` and `soak.svg`."""
        names = [each.name for each in fields(Sample)]
        with (folder / "soak.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(astuple(each) for each in self.samples)
        (folder / "soak.svg").write_text(self.picture(), encoding="utf-8")

    def picture(self) -> str:
        """A panel for each quantity, one below the other, over the same time."""
        names = [each.name for each in fields(Sample)][1:]
        panels = [self._panel(name, at) for at, name in enumerate(names)]
        height = len(names) * HEIGHT
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">'
        return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *panels, "</svg>\n"])

    def _panel(self, name: str, at: int) -> str:
        values = [float(getattr(each, name)) for each in self.samples] or [0.0]
        times = [each.seconds for each in self.samples] or [0.0]
        most, last = max(values) * 1.1 or 1.0, times[-1] or 1.0
        top, inner = at * HEIGHT + 30, HEIGHT - 50

        def place(time: float, value: float) -> str:
            x = EDGE + time / last * (WIDTH - 2 * EDGE)
            return f"{x:.1f},{top + inner - value / most * inner:.1f}"

        line = " ".join(place(time, value) for time, value in zip(times, values, strict=True))
        base = f'<path d="M{EDGE},{top} V{top + inner} H{WIDTH - EDGE}" fill="none" stroke="#999"/>'
        words = (
            f"{name}: {values[0]:g} at first, {values[-1]:g} at last, {max(values):g} at most; {last / 60:.1f} minutes"
        )
        return (
            f'<text x="{EDGE}" y="{top - 10}" font-size="13">{words}</text>{base}'
            f'<polyline points="{line}" fill="none" stroke="{COLOURS[at % len(COLOURS)]}" stroke-width="1.5"/>'
            f'<text x="{EDGE - 8}" y="{top + 8}" font-size="11" text-anchor="end">{most:.0f}</text>'
            f'<text x="{EDGE - 8}" y="{top + inner}" font-size="11" text-anchor="end">0</text>'
        )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


median = _median
