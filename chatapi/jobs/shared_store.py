"""The one open store of a data directory in a process: opening a file of SQLite checks all of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatapi.errors import StorageError
from chatapi.jobs.records import JobLimits
from chatapi.jobs.store import JobStore

log = logging.getLogger(__name__)


class SharedStore:
    """Opens the store of a data directory when it is first used, and again when another process replaced its file or
    the file failed. For any thread."""

    def __init__(self, data: Path, limits: JobLimits) -> None:
        self._data, self._limits = data, limits
        self._lock = threading.Lock()
        self._store: JobStore | None = None
        """The one that is given to new users; None: it has to be opened."""
        self._users: dict[JobStore, int] = {}
        """Each open store -> how many use it."""

    def exists(self) -> bool:
        """Whether a job was ever added in the data directory."""
        return JobStore.exists(self._data)

    @contextmanager
    def opened(self) -> Iterator[JobStore]:
        """The store, which stays open inside the context. Raises StorageError, NotReady (jobs_locked)."""
        store = self.take()
        try:
            yield store
        except StorageError:
            # The file may be damaged; opening it again finds out, and sets it aside.
            self._retire(store)
            raise
        finally:
            self.give_back(store)

    def take(self) -> JobStore:
        """The store, open until `give_back`. Raises StorageError, NotReady (jobs_locked)."""
        with self._lock:
            if self._store is not None and self._store.database.replaced():
                self._drop(self._store)
            if self._store is None:
                self._store = JobStore(self._data, self._limits)
                self._users[self._store] = 0
            self._users[self._store] += 1
            return self._store

    def give_back(self, store: JobStore) -> None:
        """End the use of a store that `take` returned."""
        with self._lock:
            self._users[store] -= 1
            if store is not self._store:
                self._close_unused(store)

    def close(self) -> None:
        """Close the store once nothing uses it; a later use opens it again."""
        with self._lock:
            if self._store is not None:
                self._drop(self._store)

    def _retire(self, store: JobStore) -> None:
        with self._lock:
            if store is self._store:
                self._store = None

    def _drop(self, store: JobStore) -> None:
        """With the lock: give the store to no new user."""
        self._store = None
        self._close_unused(store)

    def _close_unused(self, store: JobStore) -> None:
        if self._users.get(store) == 0:
            del self._users[store]
            store.close()
