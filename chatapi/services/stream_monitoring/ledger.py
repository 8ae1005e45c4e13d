"""The coverage ledger: for every second of each place whether it was heard, why it is missing, and what scored it.

Stretches are stored, not seconds: a stretch that continues the one before lengthens it, so a year without a gap is one
row. Times are whole milliseconds since 1970. The ledger also has the detections until they are stored, and how far
each place is, all in one transaction: after a power cut nothing is lost, and nothing counts twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from chatapi.services.stream_monitoring.database import MonitoringDatabase, detection_id, ms

State = Literal["scored", "heard", "missing", "unmonitored"]
"""heard: but not scored; unmonitored: nothing is known, because no monitor ran."""
RANK = {"scored": 3, "heard": 2, "missing": 1}
"""Of two stretches that overlap, after a restart or a second run, the one of the higher rank counts."""
ReviewState = Literal["unreviewed", "positive", "negative", "unknown"]
"""What a moderator says about a detection."""
COLUMNS = (
    "place, start, model, name, confidence, stored, id, seconds, state, tags, comments, moderator, moderated, mute,"
    " record_due"
)


@dataclass(frozen=True)
class Stretch:
    """A part of a place's time."""

    start: float
    """Seconds since 1970."""
    end: float
    state: State
    detail: str = ""
    """The model of a scored stretch, the reason of a missing one."""


@dataclass(frozen=True)
class Review:
    """A moderator's judgement."""

    state: ReviewState = "unreviewed"
    tags: tuple[str, ...] = ()
    comments: str = ""
    moderator: str = ""
    at: float = 0.0
    """Seconds since 1970; 0: never."""


@dataclass(frozen=True)
class Detection:
    """A positive clip."""

    place: str
    start: float
    """Seconds since 1970."""
    model: str
    name: str
    """Of its files, without suffix."""
    confidence: float
    """0 to 100."""
    stored: bool = False
    seconds: float = 0.0
    """Length of the clip; 0: not known."""
    mute: str = ""
    """Id of the mute that it fell under; such a detection has no files. Empty: none."""
    review: Review = Review()
    record_due: bool = False
    """Whether its stored record does not have the review yet."""

    @property
    def id(self) -> str:
        """The same however often it is made."""
        return detection_id(self.place, ms(self.start), self.model)


@dataclass(frozen=True)
class Position:
    """How far a place was judged."""

    at: float
    """Seconds since 1970."""
    folder: str
    """Folder of its HLS tree."""


class CoverageLedger(MonitoringDatabase):
    """What was heard and scored, and the detections."""

    def add(self, place: str, stretches: Sequence[Stretch]) -> None:
        """Store what was heard or is missing. Raises StorageError, NotReady."""
        with self.writing() as db:
            for each in stretches:
                self._insert(db, place, each)

    def judged(
        self,
        place: str,
        stretches: Sequence[Stretch],
        position: Position,
        detection: Detection | None = None,
        fingerprints: bytes = b"",
    ) -> None:
        """Store that a clip was scored, with the detection, if it is one, and where to resume. Raises StorageError."""
        with self.writing() as db:
            for each in stretches:
                self._insert(db, place, each)
            if detection is not None:
                _insert_detection(db, detection, fingerprints)
            db.execute(
                "INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT (place) DO UPDATE"
                " SET at = excluded.at, folder = excluded.folder WHERE excluded.at >= at",
                (place, ms(position.at), position.folder),
            )

    def position(self, place: str) -> Position | None:
        """Where to resume; None: the place was never judged."""
        with self.reading() as db:
            row = db.execute("SELECT at, folder FROM positions WHERE place = ?", (place,)).fetchone()
        return Position(row[0] / 1000, row[1]) if row else None

    def to_store(self, most: int = 100) -> list[Detection]:
        """Detections whose files are not stored yet, the oldest first."""
        return self._detections("stored = 0 ORDER BY start LIMIT ?", (most,))

    def waiting(self) -> int:
        """Number of detections whose files are not stored yet."""
        with self.reading() as db:
            return int(db.execute("SELECT count(*) FROM detections WHERE stored = 0").fetchone()[0])

    def mark_stored(self, detection: Detection) -> None:
        with self.writing() as db:
            db.execute(
                "UPDATE detections SET stored = 1 WHERE place = ? AND start = ? AND model = ?",
                (detection.place, ms(detection.start), detection.model),
            )

    def is_stored(self, detection: Detection) -> bool:
        """Whether the same detection is stored already."""
        where = "stored = 1 AND place = ? AND start = ? AND model = ?"
        return bool(self._detections(where, (detection.place, ms(detection.start), detection.model)))

    def detections(self, place: str, start: float, end: float) -> list[Detection]:
        """Those that begin in a stretch of time, in seconds since 1970, in order."""
        where = "place = ? AND start >= ? AND start < ? ORDER BY start"
        return self._detections(where, (place, ms(start), ms(end)))

    def places(self) -> list[str]:
        """Names of the places that were ever monitored."""
        with self.reading() as db:
            return [row[0] for row in db.execute("SELECT DISTINCT place FROM stretches ORDER BY place")]

    def coverage(self, place: str, start: float, end: float) -> list[Stretch]:
        """The time from `start` to `end`, in seconds since 1970, without holes and overlaps, in order."""
        first, last = ms(start), ms(end)
        with self.reading() as db:
            rows = db.execute(
                "SELECT start, end, state, detail FROM stretches WHERE place = ? AND end > ? AND start < ?",
                (place, first, last),
            ).fetchall()
        return list(_partitioned(rows, first, last))

    def _detections(self, where: str, values: tuple[object, ...]) -> list[Detection]:
        with self.reading() as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM detections WHERE {where}", values)  # noqa: S608 - constants
            return [detection_of(row) for row in rows]

    def _insert(self, db: sqlite3.Connection, place: str, each: Stretch) -> None:
        """Inside a transaction: lengthen the stretch that this one continues, or add it."""
        start, end = ms(each.start), ms(each.end)
        if end <= start:
            return
        row = db.execute(
            "SELECT rowid, end FROM stretches WHERE place = ? AND end BETWEEN ? AND ? AND start <= ? AND state = ?"
            " AND detail = ? ORDER BY end DESC LIMIT 1",
            (place, start - 1, end, start, each.state, each.detail),
        ).fetchone()
        if row is not None:
            db.execute("UPDATE stretches SET end = max(end, ?) WHERE rowid = ?", (end, row[0]))
            return
        values = (place, start, end, each.state, each.detail)
        db.execute("INSERT INTO stretches VALUES (?, ?, ?, ?, ?)", values)


def detection_of(row: tuple[Any, ...]) -> Detection:
    """The detection of a row of COLUMNS."""
    place, start, model, name, confidence, stored, _, seconds, state, tags, comments, moderator, moderated, *rest = row
    review = Review(state, tuple(json.loads(tags)), comments, moderator, moderated / 1000)
    mute, due = rest
    return Detection(place, start / 1000, model, name, confidence, bool(stored), seconds, mute, review, bool(due))


def _insert_detection(db: sqlite3.Connection, each: Detection, fingerprints: bytes) -> None:
    """One that was muted counts as stored: it has no files."""
    names = "place, start, model, name, confidence, id, seconds, mute, stored, fingerprints"
    values = (each.place, ms(each.start), each.model, each.name, each.confidence, each.id, each.seconds, each.mute)
    added = db.execute(
        f"INSERT OR IGNORE INTO detections ({names}) VALUES ({', '.join('?' * 10)})",  # noqa: S608 - constants
        (*values, int(bool(each.mute)), fingerprints or None),
    )
    if each.mute and added.rowcount:
        db.execute("UPDATE mutes SET muted = muted + 1, last = ? WHERE id = ?", (ms(each.start), each.mute))


def _partitioned(rows: Sequence[tuple[int, int, str, str]], first: int, last: int) -> Iterator[Stretch]:
    """The stretches of the highest rank at every moment, equal neighbours joined."""
    edges = sorted({first, last, *(max(first, row[0]) for row in rows), *(min(last, row[1]) for row in rows)})
    waiting = sorted(rows)
    active: list[tuple[int, int, str, str]] = []
    current: Stretch | None = None
    for start, end in pairwise(edges):
        while waiting and waiting[0][0] <= start:
            active.append(waiting.pop(0))
        active = [row for row in active if row[1] > start]
        best = max(active, key=lambda row: (RANK.get(row[2], 0), row[3]), default=None)
        state, detail = (best[2], best[3]) if best is not None else ("unmonitored", "")
        if current is not None and (current.state, current.detail) == (state, detail):
            current = Stretch(current.start, end / 1000, current.state, detail)
            continue
        if current is not None:
            yield current
        current = Stretch(start / 1000, end / 1000, state, detail)  # type: ignore[arg-type]  # as it was stored
    if current is not None:
        yield current
