"""The report of a stress test: figures as JSON, pictures as SVG, and both in an HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from chatapi.bench.stress.load import StressResult

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 260, 70, 30, 30
"""Of a picture, and of its margins, in pixels."""
GOOD, BAD, LINE = "#37c", "#c33", "#2a7"
Point = tuple[float, float]


def write(result: StressResult, title: str, folder: Path) -> Path:
    """Writes report.html, report.json, latency.svg and memory.svg; returns the page. Blocking."""
    folder.mkdir(parents=True, exist_ok=True)
    latency, memory = drawn_latency(result), drawn_memory(result)
    (folder / "latency.svg").write_text(latency, encoding="utf-8")
    (folder / "memory.svg").write_text(memory, encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(result.document(), indent=2), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_page(result, title, latency, memory), encoding="utf-8")
    return page


def drawn_latency(result: StressResult) -> str:
    """Each request: when it ended, and its latency; those that failed are red."""
    good = [(each.at, each.seconds) for each in result.samples if not each.error]
    bad = [(each.at, each.seconds) for each in result.samples if each.error]
    dots = _dots(good, bad, _span([*good, *bad]))
    return _picture("latency of each request, in seconds (red: an error)", dots, _span([*good, *bad]))


def drawn_memory(result: StressResult) -> str:
    """The server's memory over time."""
    points = [(at, size / 2**20) for at, size in result.memory]
    if not points:
        return _picture("memory: not measured", "", (1.0, 1.0))
    span = _span(points)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(each, span) for each in points))
    drawn = f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="2"/>'
    return _picture("memory of the server, in MiB", drawn, span)


def _span(points: Sequence[Point]) -> Point:
    """The largest values on both axes."""
    return max((x for x, _ in points), default=1.0) or 1.0, max((y for _, y in points), default=1.0) or 1.0


def _place(point: Point, span: Point) -> Point:
    x = LEFT + point[0] / span[0] * (WIDTH - LEFT - 20)
    return x, HEIGHT - BOTTOM - point[1] / span[1] * (HEIGHT - TOP - BOTTOM)


def _dots(good: Sequence[Point], bad: Sequence[Point], span: Point) -> str:
    return "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
        for points, colour in ((good, GOOD), (bad, BAD))
        for x, y in (_place(each, span) for each in points)
    )


def _picture(title: str, drawn: str, span: Point) -> str:
    ticks = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = _place((share * span[0], share * span[1]), span)
        ticks.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * span[1]:.3g}</text>'
            f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{share * span[0]:.3g} s</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/><text x="{LEFT}" y="18" font-size="13">'
        f"{escape(title)}</text>{''.join(ticks)}{drawn}</svg>\n"
    )


def _page(result: StressResult, title: str, *pictures: str) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(json.dumps(value))}</td></tr>"
        for name, value in result.document().items()
    )
    style = "body{font-family:sans-serif;max-width:940px;margin:2em auto}th{text-align:left;padding-right:2em}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
        f"<h1>{escape(title)}</h1><table>{rows}</table>{''.join(pictures)}</html>\n"
    )
