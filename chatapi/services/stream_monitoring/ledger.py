"""The coverage ledger: for every second of each place whether it was heard, why it is missing, and what scored it.

Stretches are stored, not seconds: a stretch that continues the one before lengthens it, so a year without a gap is one
row. Times are whole milliseconds since 1970. The ledger also has the detections until they are stored, and how far
each place is, all in one transaction: after a power cut nothing is lost, and nothing counts twice.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from chatapi.errors import NotReady, StorageError
from chatapi.storage import sqlite_files
from chatapi.storage.sqlite_errors import kind_of
from chatapi.system import private_files

State = Literal["scored", "heard", "missing", "unmonitored"]
"""heard: but not scored; unmonitored: nothing is known, because no monitor ran."""
RANK = {"scored": 3, "heard": 2, "missing": 1}
"""Of two stretches that overlap, after a restart or a second run, the one of the higher rank counts."""
WAIT_SECONDS = 10.0
"""Longest wait for another process, in seconds."""
VERSION = 1
SCHEMA = (
    """CREATE TABLE stretches (
    place TEXT NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL,
    CHECK (start < end)
    ) STRICT""",
    "CREATE INDEX by_end ON stretches (place, end)",
    """CREATE TABLE detections (
    place TEXT NOT NULL, start INTEGER NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, confidence REAL NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (place, start, model)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX to_store ON detections (stored, start)",
    "CREATE TABLE positions (place TEXT PRIMARY KEY, at INTEGER NOT NULL, folder TEXT NOT NULL) STRICT, WITHOUT ROWID",
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


@dataclass(frozen=True)
class Position:
    """How far a place was judged."""

    at: float
    """Seconds since 1970."""
    folder: str
    """Folder of its HLS tree."""


class CoverageLedger:
    """The file. For any thread of one process; several processes may use it at once."""

    def __init__(self, file: Path) -> None:
        """Raises StorageError, NotReady (ledger_locked)."""
        self.file, self._lock = file, threading.RLock()
        with self._translated():
            private_files.folder(file.parent)
            private_files.touch(file)
            self._db = sqlite3.connect(file, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            with self._transaction():
                self._migrate()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, place: str, stretches: Sequence[Stretch]) -> None:
        """Store what was heard or is missing. Raises StorageError, NotReady."""
        with self._translated(), self._transaction():
            for each in stretches:
                self._insert(place, each)

    def judged(
        self, place: str, stretches: Sequence[Stretch], position: Position, detection: Detection | None = None
    ) -> None:
        """Store that a clip was scored, with the detection, if it is one, and where to resume. Raises StorageError."""
        with self._translated(), self._transaction():
            for each in stretches:
                self._insert(place, each)
            if detection is not None:
                self._db.execute(
                    "INSERT OR IGNORE INTO detections (place, start, model, name, confidence) VALUES (?, ?, ?, ?, ?)",
                    (place, _ms(detection.start), detection.model, detection.name, detection.confidence),
                )
            self._db.execute(
                "INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT (place) DO UPDATE"
                " SET at = excluded.at, folder = excluded.folder WHERE excluded.at >= at",
                (place, _ms(position.at), position.folder),
            )

    def position(self, place: str) -> Position | None:
        """Where to resume; None: the place was never judged."""
        with self._translated():
            row = self._db.execute("SELECT at, folder FROM positions WHERE place = ?", (place,)).fetchone()
        return Position(row[0] / 1000, row[1]) if row else None

    def to_store(self, most: int = 100) -> list[Detection]:
        """Detections whose files are not stored yet, the oldest first."""
        return self._detections("stored = 0 ORDER BY start LIMIT ?", (most,))

    def mark_stored(self, detection: Detection) -> None:
        with self._translated(), self._transaction():
            self._db.execute(
                "UPDATE detections SET stored = 1 WHERE place = ? AND start = ? AND model = ?",
                (detection.place, _ms(detection.start), detection.model),
            )

    def is_stored(self, detection: Detection) -> bool:
        """Whether the same detection is stored already."""
        where = "stored = 1 AND place = ? AND start = ? AND model = ?"
        return bool(self._detections(where, (detection.place, _ms(detection.start), detection.model)))

    def detections(self, place: str, start: float, end: float) -> list[Detection]:
        """Those that begin in a stretch of time, in seconds since 1970, in order."""
        where = "place = ? AND start >= ? AND start < ? ORDER BY start"
        return self._detections(where, (place, _ms(start), _ms(end)))

    def places(self) -> list[str]:
        """Names of the places that were ever monitored."""
        with self._translated():
            return [row[0] for row in self._db.execute("SELECT DISTINCT place FROM stretches ORDER BY place")]

    def coverage(self, place: str, start: float, end: float) -> list[Stretch]:
        """The time from `start` to `end`, in seconds since 1970, without holes and overlaps, in order."""
        first, last = _ms(start), _ms(end)
        with self._translated():
            rows = self._db.execute(
                "SELECT start, end, state, detail FROM stretches WHERE place = ? AND end > ? AND start < ?",
                (place, first, last),
            ).fetchall()
        return list(_partitioned(rows, first, last))

    def _detections(self, where: str, values: tuple[object, ...]) -> list[Detection]:
        columns = "place, start, model, name, confidence, stored"
        with self._translated():
            rows = self._db.execute(f"SELECT {columns} FROM detections WHERE {where}", values)  # noqa: S608 - constants
            return [
                Detection(place, start / 1000, model, name, confidence, bool(stored))
                for place, start, model, name, confidence, stored in rows
            ]

    def _insert(self, place: str, each: Stretch) -> None:
        """Inside a transaction: lengthen the stretch that this one continues, or add it."""
        start, end = _ms(each.start), _ms(each.end)
        if end <= start:
            return
        row = self._db.execute(
            "SELECT rowid, end FROM stretches WHERE place = ? AND end BETWEEN ? AND ? AND start <= ? AND state = ?"
            " AND detail = ? ORDER BY end DESC LIMIT 1",
            (place, start - 1, end, start, each.state, each.detail),
        ).fetchone()
        if row is not None:
            self._db.execute("UPDATE stretches SET end = max(end, ?) WHERE rowid = ?", (end, row[0]))
            return
        values = (place, start, end, each.state, each.detail)
        self._db.execute("INSERT INTO stretches VALUES (?, ?, ?, ?, ?)", values)

    def _migrate(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise StorageError(f"{self.file} was written by a newer chatapi; use that one, or move the file away")
        if version == 0:
            for statement in SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, sqlite_files.transaction(self._db):
            yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (sqlite3.Error, OSError) as error:
            if kind_of(error) == "locked":
                raise NotReady(f"{self.file} is locked by another process", code="ledger_locked") from error
            raise StorageError(f"the coverage ledger {self.file} cannot be used: {error}") from error


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


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
