"""Moderation: what people say about detections, in the database and in the stored records."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from chatapi.engines.sound_detector import orcahello
from chatapi.errors import BadInput, NotFound, StorageError
from chatapi.services.stream_monitoring.database import ms
from chatapi.services.stream_monitoring.ledger import (
    COLUMNS,
    CoverageLedger,
    Detection,
    Review,
    ReviewState,
    detection_of,
)

MOST_TAGS, TAG_CHARS, COMMENT_CHARS = 20, 50, 2000
FOUND: dict[ReviewState, str] = {"positive": "yes", "negative": "no", "unknown": "don't know", "unreviewed": ""}
"""The word of OrcaHello's records in schema v1, `SRKWFound`."""
STATES: dict[ReviewState, str] = {
    "positive": "Positive", "negative": "Negative", "unknown": "Unknown", "unreviewed": "Unreviewed",
}  # fmt: skip
"""The state of records in schema v2."""


@dataclass(frozen=True)
class DetectionFilter:
    """Which detections are wanted."""

    places: tuple[str, ...] = ()
    """Empty: of all places."""
    start: float = 0.0
    """Seconds since 1970."""
    end: float = 1e11
    state: str = ""
    """A state of a review; empty: any."""
    muted: bool = False
    """Whether those that fell under a mute are wanted, or the others."""


class Moderation:
    """The detections and their reviews. For any thread; all methods block, and raise StorageError."""

    def __init__(self, ledger: CoverageLedger) -> None:
        self._ledger = ledger

    def get(self, id_: str) -> Detection:
        """Raises NotFound (unknown_detection)."""
        with self._ledger.reading() as db:
            row = db.execute(f"SELECT {COLUMNS} FROM detections WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        if row is None:
            raise NotFound(f"there is no detection {id_!r}", code="unknown_detection")
        return detection_of(row)

    def find(self, wanted: DetectionFilter, most: int, before: str = "") -> list[Detection]:
        """The newest first; `before`: id of the last one of the page before. Raises NotFound (unknown_detection)."""
        where, values = _where(wanted)
        if before:
            last = self.get(before)
            where += " AND (start, id) < (?, ?)"
            values += [ms(last.start), last.id]
        query = f"SELECT {COLUMNS} FROM detections WHERE {where} ORDER BY start DESC, id DESC LIMIT ?"  # noqa: S608
        with self._ledger.reading() as db:
            return [detection_of(row) for row in db.execute(query, (*values, most)).fetchall()]

    def counts(self, wanted: DetectionFilter) -> dict[str, int]:
        """State of the review -> number of detections."""
        where, values = _where(wanted)
        query = f"SELECT state, count(*) FROM detections WHERE {where} GROUP BY state"  # noqa: S608 - constants
        with self._ledger.reading() as db:
            return dict(db.execute(query, values).fetchall())

    def review(self, id_: str, review: Review) -> Detection:
        """Store a moderator's judgement; the stored record follows. Raises NotFound (unknown_detection)."""
        review = checked(review)
        with self._ledger.writing() as db:
            changed = db.execute(
                "UPDATE detections SET state = ?, tags = ?, comments = ?, moderator = ?, moderated = ?, record_due = 1"
                " WHERE id = ?",
                (review.state, json.dumps(review.tags), review.comments, review.moderator, ms(time.time()), id_),
            )
            if not changed.rowcount:
                raise NotFound(f"there is no detection {id_!r}", code="unknown_detection")
        return self.get(id_)

    def due(self, most: int = 100) -> list[Detection]:
        """Detections whose stored record does not have their review yet."""
        query = f"SELECT {COLUMNS} FROM detections WHERE record_due = 1 AND stored = 1 LIMIT ?"  # noqa: S608
        with self._ledger.reading() as db:
            return [detection_of(row) for row in db.execute(query, (most,)).fetchall()]

    def settle(self, detection: Detection) -> None:
        """The stored record has this review, unless there is another one meanwhile."""
        with self._ledger.writing() as db:
            db.execute(
                "UPDATE detections SET record_due = 0 WHERE id = ? AND moderated = ?",
                (detection.id, ms(detection.review.at)),
            )

    def update_records(self, store: Any) -> None:
        """Bring the reviews into the stored records; what is written twice is the same. Raises StorageError."""
        while waiting := self.due():
            for each in waiting:
                _rewrite(store, each)
                self.settle(each)


def checked(review: Review) -> Review:
    """Raises BadInput (bad_review)."""
    tags = tuple(dict.fromkeys(" ".join(each.split()) for each in review.tags if each.strip()))
    if len(tags) > MOST_TAGS or any(len(each) > TAG_CHARS or ";" in each or "," in each for each in tags):
        raise BadInput(
            f"at most {MOST_TAGS} tags of {TAG_CHARS} characters, without commas and semicolons", code="bad_review"
        )
    if len(review.comments) > COMMENT_CHARS:
        raise BadInput(f"a comment has at most {COMMENT_CHARS} characters", code="bad_review")
    return Review(review.state, tags, review.comments.strip(), review.moderator)


def reviewed(document: dict[str, Any], detection: Detection) -> dict[str, Any]:
    """A record with the review of its detection, in the record's own schema."""
    review = detection.review
    moment = datetime.fromtimestamp(review.at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    common = {"comments": review.comments or None, "dateModerated": moment, "moderator": review.moderator}
    if "state" in document:
        return {**document, **common, "state": STATES[review.state], "tags": list(review.tags)}
    return {
        **document, **common, "reviewed": review.state != "unreviewed", "SRKWFound": FOUND[review.state],
        "tags": ";".join(review.tags),
    }  # fmt: skip


def _where(wanted: DetectionFilter) -> tuple[str, list[object]]:
    where = f"start >= ? AND start < ? AND mute {'<>' if wanted.muted else '='} ''"
    values: list[object] = [ms(wanted.start), ms(wanted.end)]
    if wanted.places:
        where += f" AND place IN ({', '.join('?' * len(wanted.places))})"
        values += wanted.places
    if wanted.state:
        where += " AND state = ?"
        values.append(wanted.state)
    return where, values


def _rewrite(store: Any, detection: Detection) -> None:
    """Raises StorageError."""
    name = f"{orcahello.RECORD_CONTAINER}/{detection.name}.json"
    with tempfile.TemporaryDirectory(prefix="chatapi-record-") as folder:
        file = Path(folder) / "record.json"
        try:
            store.get(name, file)
            document = json.loads(file.read_text("utf-8"))
        except NotFound:
            return
        except ValueError as error:
            raise StorageError(f"the record {name} is damaged: {error}") from error
        file.write_text(json.dumps(reviewed(document, detection), indent=2) + "\n", "utf-8")
        store.put(file, name)
