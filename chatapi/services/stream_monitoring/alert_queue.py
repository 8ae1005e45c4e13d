"""Alerts that are to be sent, on disk until a service has accepted them."""

from __future__ import annotations

import time

from chatapi.services.stream_monitoring.database import MonitoringDatabase, ms

MOST_WAITING = 200
"""Most alerts that wait for one service."""


class AlertQueue:
    """The waiting alerts of all services. For any thread; all methods block, and raise StorageError."""

    def __init__(self, database: MonitoringDatabase) -> None:
        self._database = database

    def put(self, service: str, text: str) -> bool:
        """Store an alert. False: too many wait already."""
        with self._database.writing() as db:
            (count,) = db.execute("SELECT count(*) FROM alerts WHERE service = ?", (service,)).fetchone()
            if count >= MOST_WAITING:
                return False
            values = (service, text, ms(time.time()))
            db.execute("INSERT INTO alerts (service, text, created) VALUES (?, ?, ?)", values)
        return True

    def waiting(self, service: str, most: int = 1) -> list[tuple[int, str]]:
        """Number and text of the alerts of a service, the oldest first."""
        with self._database.reading() as db:
            return db.execute(
                "SELECT number, text FROM alerts WHERE service = ? ORDER BY number LIMIT ?", (service, most)
            ).fetchall()

    def remove(self, last: int, service: str) -> None:
        """Forget the alerts of a service up to a number."""
        with self._database.writing() as db:
            db.execute("DELETE FROM alerts WHERE service = ? AND number <= ?", (service, last))

    def count(self) -> int:
        """Alerts of all services that wait."""
        with self._database.reading() as db:
            return int(db.execute("SELECT count(*) FROM alerts").fetchone()[0])
