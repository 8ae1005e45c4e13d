"""The monitors that clients started, which go on after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatapi.services.stream_monitoring.database import MonitoringDatabase, ms


@dataclass(frozen=True)
class StoredMonitor:
    """A monitor that a client started."""

    place: str
    table: Mapping[str, Any]
    """Its configuration, as it was sent."""
    created: float
    """Seconds since 1970."""
    creator: str
    """Owner id of the client."""
    paused: bool = False
    ended: bool = False
    """Whether its recording was monitored to the end."""


class MonitorList:
    """The stored monitors. For any thread; all methods block, and raise StorageError."""

    def __init__(self, database: MonitoringDatabase) -> None:
        self._database = database

    def all(self) -> list[StoredMonitor]:
        """By the time at which they were started."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT place, config, created, creator, paused, ended FROM monitors ORDER BY created, place"
            ).fetchall()
        return [
            StoredMonitor(place, json.loads(config), created / 1000, creator, bool(paused), bool(ended))
            for place, config, created, creator, paused, ended in rows
        ]

    def add(self, tables: Mapping[str, Mapping[str, Any]], creator: str) -> list[StoredMonitor]:
        """Store new monitors: place -> configuration; all or none."""
        made = [StoredMonitor(place, table, time.time(), creator) for place, table in tables.items()]
        with self._database.writing() as db:
            for each in made:
                values = (each.place, json.dumps(each.table), ms(each.created), creator)
                db.execute("INSERT INTO monitors (place, config, created, creator) VALUES (?, ?, ?, ?)", values)
        return made

    def set(self, place: str, paused: bool, ended: bool) -> None:
        with self._database.writing() as db:
            db.execute("UPDATE monitors SET paused = ?, ended = ? WHERE place = ?", (int(paused), int(ended), place))

    def remove(self, place: str) -> None:
        with self._database.writing() as db:
            db.execute("DELETE FROM monitors WHERE place = ?", (place,))
