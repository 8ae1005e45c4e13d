"""What was heard at a place between two times: the answer to "was it running?"."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection, Stretch

SHORTEST_GAP = 1.0
"""Gaps that are shorter are only counted, in seconds."""


@dataclass(frozen=True)
class PlaceReport:
    """A place's time. All times in seconds."""

    place: str
    start: float
    """Seconds since 1970."""
    end: float
    heard: float
    """Scored or not."""
    scored: dict[str, float]
    """Model -> seconds."""
    missing: dict[str, float]
    """Reason -> seconds."""
    unmonitored: float
    gaps: list[Stretch] = field(default_factory=list)
    """Missing or unmonitored stretches of at least SHORTEST_GAP."""
    detections: list[Detection] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {
            "place": self.place, "from": self.start, "to": self.end, "heard_seconds": self.heard,
            "scored_seconds": self.scored, "missing_seconds": self.missing, "unmonitored_seconds": self.unmonitored,
            "gaps": [{"from": each.start, "to": each.end, "reason": each.detail or each.state} for each in self.gaps],
            "detections": [
                {"at": each.start, "confidence": each.confidence, "model": each.model, "name": each.name,
                 "stored": each.stored} for each in self.detections
            ],
        }  # fmt: skip


def report(ledger: CoverageLedger, place: str, start: float, end: float) -> PlaceReport:
    """`start` and `end` in seconds since 1970. Raises StorageError."""
    found = ledger.coverage(place, start, end)
    sums: Counter[tuple[str, str]] = Counter()
    for each in found:
        sums[each.state, each.detail] += round((each.end - each.start) * 1000)
    seconds = {key: value / 1000 for key, value in sums.items()}
    return PlaceReport(
        place,
        start,
        end,
        round(sum(value for (state, _), value in seconds.items() if state in ("heard", "scored")), 3),
        {detail: value for (state, detail), value in seconds.items() if state == "scored"},
        {detail: value for (state, detail), value in seconds.items() if state == "missing"},
        seconds.get(("unmonitored", ""), 0.0),
        [each for each in found if _is_gap(each)],
        ledger.detections(place, start, end),
    )


def _is_gap(each: Stretch) -> bool:
    return each.state in ("missing", "unmonitored") and each.end - each.start >= SHORTEST_GAP
