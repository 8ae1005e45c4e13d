"""Where the time between the end of speech and the first audio goes, as rows and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape

import numpy as np

from chatapi.bench import Row
from chatapi.events import TurnTimings

WIDTH, BAR, LEFT = 1000, 26, 190
"""Width of the picture, height of a bar, and width of the names before the bars, in pixels."""
TITLES = {
    "transcript": "transcript, and whether it is complete",
    "first_token": "first token",
    "first_clause": "rest of the first clause",
    "synthesis": "first audio of the clause",
    "endpoint": "silence until the turn is over",
    "transport": "detection of silence, transport and playback",
}
COLOURS = dict(zip(TITLES, ("#37c", "#2a7", "#7b3", "#e91", "#999", "#a6c"), strict=True))


@dataclass(frozen=True)
class Budget:
    """The parts of one answer's latency, in seconds, one after another.

    An answer is prepared while the silence lasts, so `endpoint` is only what remains of it after the first audio is
    synthesized. `transport` is what the server does not see: from the last sound to the last frame that counts as
    speech, and from the first audio that is sent to the first sample that is played.
    """

    transcript: float
    first_token: float
    first_clause: float
    synthesis: float
    endpoint: float
    transport: float

    @classmethod
    def of(cls, latency: float, timings: TurnTimings) -> Budget | None:
        """The budget of an answer; None where a stage is not known, as over some transports."""
        stages = (timings.transcript, timings.first_token, timings.first_sentence, timings.first_audio)
        known = [each for each in (*stages, timings.endpoint) if each is not None]
        if len(known) < len(stages) + 1:
            return None
        *reached, endpoint = known
        transcript, token, clause, audio = map(float, np.diff([0.0, *np.maximum.accumulate(reached)]))
        prepared = max(reached)
        waited = max(0.0, endpoint - prepared)
        return cls(transcript, token, clause, audio, waited, latency - prepared - waited)

    @property
    def parts(self) -> list[float]:
        return [getattr(self, each.name) for each in fields(self)]


def rows(budgets: Sequence[Budget]) -> list[Row]:
    """A row for each part of the budget: its mean, because means add up to the mean latency; none without budgets."""
    if not budgets:
        return []
    means = np.mean([each.parts for each in budgets], axis=0)
    pairs = zip(TITLES.values(), means, strict=True)
    return [Row("live", f"of the latency, mean: {title}", float(mean), "s") for title, mean in pairs]


def drawn(budgets: Sequence[Budget]) -> str:
    """The picture: a bar for the mean, and one for each answer, the fastest first."""
    ordered = sorted(budgets, key=lambda each: sum(each.parts))
    bars = [("mean", list(np.mean([each.parts for each in ordered], axis=0)) if ordered else [])]
    bars += [(f"question {number}", each.parts) for number, each in enumerate(ordered, 1)]
    longest = max((sum(max(0.0, part) for part in parts) for _, parts in bars), default=0.0) or 1.0
    scale = (WIDTH - LEFT - 80) / longest
    drawn_bars = "".join(_bar(name, parts, 110 + row * (BAR + 6), scale) for row, (name, parts) in enumerate(bars))
    keys = "".join(
        f'<rect x="{x}" y="{y}" width="14" height="14" fill="{COLOURS[name]}"/>'
        f'<text x="{x + 20}" y="{y + 12}">{escape(title)}</text>'
        for place, (name, title) in enumerate(TITLES.items())
        for x, y in [(20 + 330 * (place % 3), 14 + 26 * (place // 3))]
    )
    title = "From the end of speech to the first audio, in milliseconds"
    height = 120 + len(bars) * (BAR + 6)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>{keys}'
        f'<text x="20" y="92" font-weight="bold">{title}</text>{drawn_bars}</svg>\n'
    )


def _bar(name: str, parts: Sequence[float], y: int, scale: float) -> str:
    x, shapes = float(LEFT), [f'<text x="20" y="{y + 17}">{escape(name)}</text>']
    for colour, part in zip(COLOURS.values(), parts, strict=False):
        width = max(0.0, part) * scale
        shapes.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
        if width > 34:
            label = f'<text x="{x + 4:.1f}" y="{y + 17}" fill="white">{1000 * part:.0f}</text>'
            shapes.append(label)
        x += width
    shapes.append(f'<text x="{x + 6:.1f}" y="{y + 17}">{1000 * sum(parts):.0f}</text>')
    return "".join(shapes)
