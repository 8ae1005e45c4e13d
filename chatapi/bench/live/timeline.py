"""Timelines as SVG: the simulated speaker above the line, the box below it, and events as marks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from chatapi.audio import INAUDIBLE
from chatapi.bench.live.harness import Harness, blocks_of
from chatapi.events import Interrupted, LiveEvent, ResponseStarted, Resumed, SpeechStopped

WIDTH, STRIP, LEFT = 1200, 84, 150
"""Width of the picture, height of a strip, and width of the names before the strips, in pixels."""
SECONDS = 20.0
"""Duration of a strip, in seconds."""
MARKS: dict[type[LiveEvent], tuple[str, str]] = {
    SpeechStopped: ("#888", "end of turn"),
    ResponseStarted: ("#2a7", "answer"),
    Interrupted: ("#c33", "interrupted"),
    Resumed: ("#a6c", "resumed"),
}


@dataclass(frozen=True)
class Timeline:
    """What is drawn of one harness; times are seconds of its clock. Its audio, which is large, is not kept."""

    name: str
    seconds: float
    """Duration, in seconds."""
    utterances: Sequence[tuple[float, float, str]]
    played: Sequence[tuple[float, float, str]]
    """Each 20 ms in which the box played audio; without text."""
    marks: Sequence[tuple[float, type[LiveEvent]]]


def timeline(name: str, harness: Harness) -> Timeline:
    """The timeline so far."""
    blocks = enumerate(blocks_of(harness.speaker.audio()))
    played = [(at / 50, at / 50 + 0.02, "") for at, block in blocks if np.abs(block).max() > INAUDIBLE]
    marks = [(at, type(event)) for at, event in harness.events if type(event) in MARKS]
    return Timeline(name, harness.now, tuple(harness.utterances), played, marks)


def drawn(timelines: Iterable[Timeline]) -> str:
    """The picture of all timelines, in strips of 20 seconds."""
    strips = [strip for each in timelines for strip in _strips(each)]
    height = STRIP * len(strips) + 40
    rows = [f'<g transform="translate(0 {40 + STRIP * row})">{strip}</g>' for row, strip in enumerate(strips)]
    legend = [("#37c", "speaker"), ("#e91", "the box"), *MARKS.values()]
    keys = [
        f'<rect x="{LEFT + 130 * place}" y="12" width="12" height="12" fill="{colour}"/>'
        f'<text x="{LEFT + 130 * place + 18}" y="22">{word}</text>'
        for place, (colour, word) in enumerate(legend)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(keys)}{"".join(rows)}</svg>\n'
    )


def _strips(line: Timeline) -> Iterator[str]:
    begun = 0.0
    while begun < line.seconds:
        spans = "".join(
            _span(start, end, begun, y, colour, words)
            for y, colour, found in ((14, "#37c", line.utterances), (42, "#e91", line.played))
            for start, end, words in found
        )
        marks = "".join(
            f'<line x1="{_x(at - begun)}" x2="{_x(at - begun)}" y1="8" y2="68" stroke="{MARKS[kind][0]}"/>'
            for at, kind in line.marks
            if begun <= at < begun + SECONDS
        )
        axis = f'<line x1="{LEFT}" x2="{WIDTH}" y1="40" y2="40" stroke="#ccc"/>'
        label = f'<text x="6" y="44">{escape(line.name)}, {begun:.0f} s</text>'
        yield label + axis + spans + marks
        begun += SECONDS


def _span(start: float, end: float, begun: float, y: int, colour: str, words: str) -> str:
    low, high = max(start, begun), min(end, begun + SECONDS)
    if high <= low:
        return ""
    x, width = _x(low - begun), max(1.0, (high - low) * (WIDTH - LEFT) / SECONDS)
    label = f'<text x="{x}" y="{y - 3}" fill="#555">{escape(words[:40])}</text>' if words and low == start else ""
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="24" fill="{colour}"/>{label}'


def _x(seconds: float) -> float:
    return round(LEFT + seconds * (WIDTH - LEFT) / SECONDS, 1)
