"""Stuck engines: reported, abandoned and rebuilt, and failed for a while when stuck too often."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import anyio
import pytest

from chatapi.engines import Stop, still_wanted
from chatapi.errors import EngineFailed, NotReady
from chatapi.runtime import rebuild_limit
from chatapi.runtime.engine_threads import AHEAD
from chatapi.runtime.rebuild_limit import REBUILDS
from chatapi.runtime.workers import Worker
from conftest import until
from test_workers import Counter, opened

pytestmark = pytest.mark.anyio


async def test_stuck_engine_is_reported_abandoned_and_rebuilt() -> None:
    async with opened(step_seconds=0.2) as worker:
        before = worker.engine
        with pytest.raises(EngineFailed, match=r"made no progress for 0\.2 seconds") as failed:
            async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
                _ = [number async for number in numbers]
        assert failed.value.code == "engine_stuck"
        await until(lambda: worker.state == "ready")
        assert worker.engine is not before
        assert worker.rebuilt == 1
        assert await worker.call(lambda engine: engine.produced) == 0
        before.hang.set()


async def test_engine_stuck_after_its_caller_disconnected_is_rebuilt() -> None:
    async with opened(step_seconds=0.2) as worker:
        before = worker.engine
        async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
            await anext(numbers)
            # A cancelled engine that is not asked for its next item would end.
            await until(before.hanging.is_set)
        await until(lambda: worker.rebuilt == 1 and worker.state == "ready")
        assert worker.admission.used == 0
        before.hang.set()


async def make_stuck(worker: Worker[Counter]) -> Counter:
    """Makes the engine hang and returns it."""
    await worker.call(lambda engine: engine.produced)
    stuck = worker.engine
    with pytest.raises(EngineFailed, match="made no progress"):
        async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
            _ = [number async for number in numbers]
    return stuck


async def test_engine_stuck_too_often_fails_until_the_window_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(step_seconds=0.05) as worker:
        stuck = [await make_stuck(worker) for _ in range(REBUILDS + 1)]
        assert worker.state == "failed"
        with pytest.raises(NotReady, match="rebuilt in") as raised:
            await worker.call(lambda engine: engine.produced)
        assert raised.value.code == "engine_gone"
        assert raised.value.retry_after == pytest.approx(worker.rebuild_delay, abs=5)
        assert 0 < worker.rebuild_delay <= rebuild_limit.REBUILD_SECONDS
        monkeypatch.setattr(rebuild_limit, "REBUILD_SECONDS", 0.0)
        assert (worker.state, worker.rebuild_delay) == ("idle", 0)
        assert await worker.call(lambda engine: engine.produced) == 0
        assert (worker.state, worker.rebuilt) == ("ready", REBUILDS + 1)
        for each in stuck:
            each.hang.set()


async def test_engine_stuck_rarely_is_always_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild_limit, "REBUILD_SECONDS", 0.01)
    async with opened(step_seconds=0.05) as worker:
        for _ in range(2 * REBUILDS):
            (await make_stuck(worker)).hang.set()
        assert worker.rebuilt == 2 * REBUILDS
        assert await worker.call(lambda engine: engine.produced) == 0


async def test_abandoned_engine_is_closed_and_freed_when_its_thread_returns() -> None:
    async with opened(step_seconds=0.05) as worker:
        stuck = [await make_stuck(worker) for _ in range(REBUILDS + 1)]
        assert not any(each.closed for each in stuck)
        for each in stuck:
            each.hang.set()
        await until(lambda: all(each.closed for each in stuck))
        references = [weakref.ref(each) for each in stuck]
        del each
        stuck.clear()
        await until(lambda: not any(each() for each in references))


async def test_two_jobs_stuck_in_one_engine_cause_one_rebuild() -> None:
    async def abandon(worker: Worker[Counter], stuck: Counter) -> None:
        async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
            await anext(numbers)
            await until(stuck.hanging.is_set)

    async with opened(slots=2, step_seconds=0.2) as worker:
        before = worker.engine
        async with anyio.create_task_group() as group:
            group.start_soon(abandon, worker, before)
            group.start_soon(abandon, worker, before)
        await until(lambda: worker.admission.used == 0)
        assert await worker.call(lambda engine: engine.produced) == 0
        assert worker.rebuilt == 1
        before.hang.set()


async def test_engine_that_polls_stop_is_not_stuck() -> None:
    def long(_: Counter, stop: Stop) -> Iterator[int]:
        for _ in range(12):
            time.sleep(0.1)
            if stop():
                return
        yield 1

    async with opened(step_seconds=0.5) as worker:
        async with worker.stream(long) as numbers:
            assert [number async for number in numbers] == [1]
        assert worker.rebuilt == 0


async def test_engine_that_ignores_stop_is_stuck() -> None:
    inside, ended = threading.Event(), threading.Event()

    def ignore_stop(_: Counter, stop: Stop) -> Iterator[int]:
        yield 1
        inside.set()
        while not ended.wait(0.01):
            stop()

    async with opened(step_seconds=0.2) as worker:
        async with worker.stream(ignore_stop) as numbers:
            await anext(numbers)
            # A job that is cancelled before its next step ends without it.
            await until(inside.is_set)
        await until(lambda: worker.rebuilt == 1)
        ended.set()


async def test_polling_while_waiting_is_no_sign_of_life() -> None:
    ended = threading.Event()

    def waiting(_: Counter, stop: Stop) -> Iterator[int]:
        while still_wanted(stop) and not ended.wait(0.01):
            pass
        yield 1

    async with opened(step_seconds=0.2) as worker:
        with pytest.raises(EngineFailed, match=r"made no progress for 0\.2 seconds"):
            async with worker.stream(waiting) as numbers:
                await anext(numbers)
        ended.set()


async def test_slow_caller_does_not_make_the_engine_stuck() -> None:
    async with opened(step_seconds=0.2) as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop, AHEAD * 3)) as numbers:
            assert await anext(numbers) == 0
            await anyio.sleep(0.4)
            assert [number async for number in numbers] == list(range(1, AHEAD * 3))
        assert worker.rebuilt == 0
