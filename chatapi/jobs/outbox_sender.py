"""Sends the state changes of jobs, in order, until the receiver accepts them.

Each change is sent at least once. What fails is sent again with growing pauses, and given up after ATTEMPTS. Changes
wait in the outbox of the store, also while the process does not run.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection

import anyio
import anyio.to_thread

from chatapi.errors import ChatapiError
from chatapi.jobs.database import JobDatabase
from chatapi.jobs.outbox import NextChange, OutboxReader, StateChange

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Interval between checks for new changes, in seconds: another process may make them."""
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 3600.0
"""Time before the second attempt, doubled for each further one, and its upper bound, in seconds."""
ATTEMPTS = 16
"""Number of attempts after which a change is given up: about seven hours."""
RESULTS = ("delivered", "failed", "dropped")
"""What becomes of an attempt; dropped: the change is given up."""


class NotDelivered(Exception):
    """Why an attempt failed, without the URL, which may hold a secret."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        """`pause`: time that the receiver asks for, in seconds."""
        super().__init__(reason)
        self.pause = pause


class OutboxSender:
    """Sends state changes to one receiver. `run` belongs to one event loop."""

    def __init__(self, title: str, target: str, host: str, events: Collection[str], family: str = "") -> None:
        """`title`: what it sends, for the log; `target`: the receiver, which may be secret: a new one begins with the
        next change; `host`: of the receiver, for the log; `family`: of its name in the outbox, empty: the title."""
        self._name = f"{family or title}:{hashlib.sha256(target.encode()).hexdigest()[:16]}"
        self._title, self._host, self._events = title, host, events
        self._reader: OutboxReader | None = None
        self.database: JobDatabase | None = None
        """That of the changes, while it runs."""
        self.results = Counter(dict.fromkeys(RESULTS, 0))
        """Result -> number of attempts."""

    @property
    def name(self) -> str:
        """Of what waits for the receiver: the same after a restart, and without its secrets."""
        return self._name

    async def prepare(self) -> None:
        """Called once before the first attempt."""

    async def send(self, change: StateChange) -> None:
        """One attempt. Raises NotDelivered."""
        raise NotImplementedError

    async def run(self, database: JobDatabase, new_store: bool = False) -> None:
        """Send changes until cancelled: those that no earlier process has sent, then each new one. `new_store`: the
        store was made while this process ran, so that all its changes are new."""
        reader = OutboxReader(database, self._name)
        self.database = database
        await self.prepare()
        while True:
            try:
                if self._reader is None:
                    await anyio.to_thread.run_sync(reader.begin, new_store)
                    self._reader = reader
                found = await anyio.to_thread.run_sync(reader.next)
                if found is not None and found.seconds <= 0:
                    await self._handle(reader, found)
                    continue
                await anyio.sleep(POLL_SECONDS if found is None else min(found.seconds, POLL_SECONDS))
            except ChatapiError as error:
                log.warning("%ss wait for the store: %s", self._title, error.message)
                await anyio.sleep(PAUSE_SECONDS)

    def pending(self) -> int:
        """Number of changes that are not sent yet. Blocking; for any thread. Raises StorageError, NotReady."""
        reader = self._reader
        return 0 if reader is None else reader.pending()

    async def _handle(self, reader: OutboxReader, found: NextChange) -> None:
        """Send a change, or pass it by when nobody asked for it."""
        change = found.change
        if change.name not in self._events:
            await anyio.to_thread.run_sync(reader.pass_by, change)
            return
        about = {"job": change.job, "event": change.name, "host": self._host, "attempt": found.attempts + 1}
        try:
            await self.send(change)
        except NotDelivered as error:
            if found.attempts + 1 < ATTEMPTS:
                pause = min(MAX_PAUSE_SECONDS, max(error.pause, PAUSE_SECONDS * 2**found.attempts))
                await anyio.to_thread.run_sync(reader.postpone, pause)
                self.results["failed"] += 1
                log.warning("%s not delivered: %s", self._title, error, extra={**about, "retry_seconds": pause})
                return
            log.error("%s given up: %s", self._title, error, extra=about)  # noqa: TRY400 - the reason is enough
            result = "dropped"
        else:
            result = "delivered"
        # A shutdown now must not send it again.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(reader.pass_by, change)
        self.results[result] += 1
