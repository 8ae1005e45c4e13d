"""Kinds of sound that are muted at a place, because moderators rejected them: visible, and removable."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from chatapi.errors import NotFound, Unprocessable, WrongMode
from chatapi.services.stream_monitoring.database import MonitoringDatabase, ms
from chatapi.services.stream_monitoring.fingerprint import Fingerprints, same_kind, unpacked

MOST_MUTES = 100
"""Most mutes of a place."""


@dataclass(frozen=True)
class Mute:
    """A kind of sound of one place whose detections are neither stored nor said."""

    id: str
    place: str
    detection: str
    """Id of the rejected detection that has the sound."""
    name: str
    """Of that detection's clip."""
    created: float
    """Seconds since 1970."""
    moderator: str
    muted: int
    """Detections that fell under it."""
    last: float
    """When the last of them began, in seconds since 1970; 0: there was none."""


class Mutes:
    """The mutes of all places. For any thread; all methods block, and raise StorageError."""

    def __init__(self, database: MonitoringDatabase) -> None:
        self._database = database
        self._known: dict[str, list[tuple[str, Fingerprints]]] = {}
        """Place -> its mutes, as they were read last."""

    def all(self, place: str = "") -> list[Mute]:
        """Those of a place, or all, the newest first."""
        columns = "id, place, detection, name, created, moderator, muted, last"
        with self._database.reading() as db:
            rows = db.execute(
                f"SELECT {columns} FROM mutes WHERE ? IN ('', place) ORDER BY created DESC",  # noqa: S608 - constants
                (place,),
            ).fetchall()
        return [
            Mute(id_, where, detection, name, created / 1000, moderator, muted, last / 1000)
            for id_, where, detection, name, created, moderator, muted, last in rows
        ]

    def add(self, detection: str, moderator: str) -> Mute:
        """Mute the kind of sound of a rejected detection at its place.

        Raises NotFound (unknown_detection), WrongMode (not_rejected, already_muted), Unprocessable (no_fingerprint,
        too_many_mutes).
        """
        with self._database.writing() as db:
            row = db.execute(
                "SELECT place, name, state, fingerprints FROM detections WHERE id = ?", (detection,)
            ).fetchone()
            if row is None:
                raise NotFound(f"there is no detection {detection!r}", code="unknown_detection")
            place, name, state, prints = row
            if state != "negative":
                raise WrongMode("only the sound of a rejected detection can be muted; reject it first",
                                code="not_rejected")  # fmt: skip
            if not prints:
                raise Unprocessable("the detection was made by an older chatapi, without a fingerprint of its sound",
                                    code="no_fingerprint")  # fmt: skip
            if db.execute("SELECT 1 FROM mutes WHERE detection = ?", (detection,)).fetchone():
                raise WrongMode("the sound of this detection is muted already", code="already_muted")
            (count,) = db.execute("SELECT count(*) FROM mutes WHERE place = ?", (place,)).fetchone()
            if count >= MOST_MUTES:
                raise Unprocessable(f"{place} has {count} mutes, which is the limit; remove one",
                                    code="too_many_mutes")  # fmt: skip
            made = Mute(f"mute_{secrets.token_hex(8)}", place, detection, name, time.time(), moderator, 0, 0.0)
            db.execute(
                "INSERT INTO mutes (id, place, detection, name, created, moderator, fingerprints)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (made.id, place, detection, name, ms(made.created), moderator, prints),
            )
        self._known.pop(place, None)
        return made

    def remove(self, id_: str) -> None:
        """Raises NotFound (unknown_mute)."""
        with self._database.writing() as db:
            if not db.execute("DELETE FROM mutes WHERE id = ?", (id_,)).rowcount:
                raise NotFound(f"there is no mute {id_!r}, or it has been removed", code="unknown_mute")
        self._known.clear()

    def matching(self, place: str, rows: Fingerprints) -> str:
        """Id of the mute under which a clip with these fingerprints falls; empty: none."""
        known = self._known.get(place)
        if known is None:
            known = self._known[place] = self._read(place)
        return next((id_ for id_, prints in known if same_kind(rows, prints)), "")

    def _read(self, place: str) -> list[tuple[str, Fingerprints]]:
        with self._database.reading() as db:
            rows = db.execute("SELECT id, fingerprints FROM mutes WHERE place = ? ORDER BY created", (place,))
            return [(id_, unpacked(prints)) for id_, prints in rows]
