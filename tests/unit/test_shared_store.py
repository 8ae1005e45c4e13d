"""The one open store of a data directory: shared by threads, opened again after its file was replaced or failed."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatapi.errors import StorageError
from chatapi.jobs import JobLimits, JobRequest, JobStore, SharedStore


@pytest.fixture
def shared(tmp_path: Path) -> SharedStore:
    return SharedStore(tmp_path, JobLimits(unfinished=200))


def test_threads_share_one_store_and_lose_no_job(shared: SharedStore) -> None:
    start, stores = threading.Barrier(8), set()

    def add(_: int) -> None:
        start.wait()
        for _ in range(5):
            with shared.opened() as store:
                stores.add(store)
                store.add(JobRequest("count"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    with shared.opened() as store:
        assert stores == {store} and len(store.find()) == 40
    shared.close()


def test_a_store_is_closed_after_its_last_use_and_opened_again(shared: SharedStore) -> None:
    with shared.opened() as store:
        shared.close()
        assert store.find() == []
    with pytest.raises(StorageError):
        store.find()
    with shared.opened() as again:
        assert again is not store and again.find() == []
    shared.close()


def test_a_replaced_file_is_opened_for_the_next_use(shared: SharedStore, tmp_path: Path) -> None:
    with shared.opened() as store:
        store.add(JobRequest("count"))
        JobStore.file(tmp_path).rename(tmp_path / "aside")
        with shared.opened() as other:
            assert other is not store and other.find() == []
    shared.close()


def test_a_file_that_failed_is_opened_and_checked_again(shared: SharedStore) -> None:
    with pytest.raises(StorageError), shared.opened() as store, store.database.translated():
        raise sqlite3.DatabaseError("database disk image is malformed")
    with shared.opened() as again:
        assert again is not store
    shared.close()
