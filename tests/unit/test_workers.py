"""Engines on their threads: streaming, stopping, failing, hanging."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest

from chatapi.engines import Stop
from chatapi.errors import Busy, EngineFailed, ModelError, NotReady
from chatapi.runtime import engine_threads
from chatapi.runtime.admission import Priority
from chatapi.runtime.engine_threads import AHEAD
from chatapi.runtime.workers import Preempted, Worker, YieldPolicy
from chatapi.system import malloc_trim
from conftest import TIMEOUT, until

pytestmark = pytest.mark.anyio


class Counter:
    """A fake engine that counts until it is stopped."""

    built = 0

    def __init__(self) -> None:
        type(self).built += 1
        self.thread = threading.get_ident()
        self.produced = 0
        self.stopped = threading.Event()
        self.hang = threading.Event()
        self.hanging = threading.Event()
        self.closed = False

    def count(self, stop: Stop, most: int = 10**9) -> Iterator[int]:
        try:
            for number in range(most):
                if stop():
                    return
                self.produced += 1
                yield number
        finally:
            self.stopped.set()

    def stuck(self, _: Stop) -> Iterator[int]:
        yield 0
        self.hanging.set()
        self.hang.wait(20)

    def close(self) -> None:
        self.closed = True
        self.hang.set()


@asynccontextmanager
async def opened(slots: int = 1, step_seconds: float = 5) -> AsyncIterator[Worker[Counter]]:
    worker = Worker("counter", Counter, slots, step_seconds)
    await worker.open()
    try:
        yield worker
    finally:
        await worker.aclose()


async def test_items_come_in_order_and_the_slot_is_free_afterwards() -> None:
    async with opened() as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop, 300)) as numbers:
            assert [number async for number in numbers] == list(range(300))
        await until(lambda: worker.admission.used == 0)


async def test_pace_is_reported_only_for_jobs_that_never_waited_for_their_caller() -> None:
    reports: list[str] = []
    worker = Worker("counter", Counter, report=lambda what, _: reports.append(what))
    await worker.open()
    try:
        for most, expected in ((10, ["busy", "pace"]), (AHEAD + 5, ["busy"])):
            reports.clear()
            async with worker.stream(lambda engine, stop, most=most: engine.count(stop, most)) as numbers:  # type: ignore[misc]
                await until(lambda most=most: worker.engine.produced >= min(most, AHEAD + 1))  # type: ignore[misc]
                assert [number async for number in numbers] == list(range(most))
            await until(lambda: worker.admission.used == 0)
            assert reports == expected
            worker.engine.produced = 0
    finally:
        await worker.aclose()


async def test_an_engine_runs_on_the_thread_that_built_it() -> None:
    async with opened() as worker:
        built, here = await worker.call(lambda engine: (engine.thread, threading.get_ident()))
        assert built == here != threading.get_ident()


async def test_engine_waits_for_a_slow_caller() -> None:
    async with opened() as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop)) as numbers:
            assert await anext(numbers) == 0
            await until(lambda: worker.engine.produced >= AHEAD)
            await anyio.sleep(0.05)
            assert worker.engine.produced <= AHEAD + 2
        assert worker.engine.stopped.wait(60)


async def test_early_exit_stops_the_engine_and_frees_its_slot() -> None:
    async with opened() as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop)) as numbers:
            async for number in numbers:
                if number == 5:
                    break
        await until(lambda: worker.admission.used == 0)
        assert worker.engine.stopped.is_set()
        assert await worker.call(lambda engine: engine.thread)


async def test_cancelled_call_stops_the_engine() -> None:
    async with opened() as worker:
        with anyio.move_on_after(0.05):
            async with worker.stream(lambda engine, stop: engine.count(stop)) as numbers:
                async for _ in numbers:
                    await anyio.sleep(0.001)
        await until(lambda: worker.admission.used == 0)
        assert worker.engine.stopped.is_set()


async def test_exception_of_an_engine_becomes_one_error_and_the_next_call_works() -> None:
    def broken(_: Counter, __: Stop) -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("no")

    async with opened() as worker:
        with pytest.raises(EngineFailed) as failed:
            async with worker.stream(broken) as numbers:
                _ = [number async for number in numbers]
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        assert await worker.call(lambda engine: engine.produced) == 0


async def test_exception_of_an_engine_is_logged_and_not_sent_to_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Counter, __: Stop) -> Iterator[int]:
        raise OSError("/root/.local/share/secret.bin cannot be read")
        yield 1

    async with opened() as worker:
        with pytest.raises(EngineFailed) as failed:
            async with worker.stream(broken) as numbers:
                _ = [number async for number in numbers]
    assert failed.value.message == "the counter engine failed; the log says why"
    assert "secret.bin cannot be read" in caplog.text


async def test_failed_build_is_raised_by_open() -> None:
    def build() -> Counter:
        raise ModelError("the model is damaged")

    worker = Worker("counter", build)
    with pytest.raises(ModelError, match="damaged"):
        await worker.open()
    assert worker.state == "failed"
    await worker.aclose()


async def test_worker_that_is_not_open_rejects_calls() -> None:
    with pytest.raises(NotReady):
        await Worker("counter", Counter).call(lambda engine: engine.produced)


class FakeAudio:
    """Fake audio, held by the closure and the items of a job."""


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Disables the garbage collector: objects are freed only by their reference counts."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def synthesis(how: str, held: list[weakref.ref[FakeAudio]]) -> Callable[[Counter, Stop], Iterator[FakeAudio]]:
    """A job that holds fake audio and yields more; `held` gets weak references to all of it."""
    audio = FakeAudio()
    held.append(weakref.ref(audio))

    def generate(_: Counter, stop: Stop) -> Iterator[FakeAudio]:
        captured = audio
        for _number in range(AHEAD + 5):
            if stop():
                return
            chunk = FakeAudio()
            held.append(weakref.ref(chunk))
            yield chunk
        if how == "raises":
            raise ValueError(captured is audio)
        if how == "ours":
            raise EngineFailed("the voice is hoarse")

    return generate


async def consume(worker: Worker[Counter], how: str, held: list[weakref.ref[FakeAudio]]) -> None:
    async with worker.stream(synthesis(how, held)) as chunks:
        if how == "unread":
            return
        async for _ in chunks:
            if how == "abandoned":
                return


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("how", ["ends", "abandoned", "unread", "raises", "ours"])
async def test_finished_job_holds_no_audio(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps log records, with the error and its frames.
    monkeypatch.setattr(engine_threads.log, "disabled", True)
    held: list[weakref.ref[FakeAudio]] = []
    async with opened(step_seconds=TIMEOUT) as worker:
        with pytest.raises(EngineFailed) if how in ("raises", "ours") else nullcontext():
            await consume(worker, how, held)
        await until(lambda: worker.admission.used == 0)
        await until(lambda: not any(each() is not None for each in held), TIMEOUT / 2)


async def test_as_many_callers_as_slots_are_served_at_once() -> None:
    async with opened(slots=2) as worker:
        async with (
            worker.stream(lambda e, stop: e.count(stop)) as first,
            worker.stream(lambda e, stop: e.count(stop)) as second,
        ):
            assert await anext(first) == 0
            assert await anext(second) == 0
            assert worker.admission.used == 2
        await until(lambda: worker.admission.used == 0)


async def test_closing_ends_the_threads() -> None:
    async with opened() as worker:
        thread = worker.engine.thread
    assert thread not in {alive.ident for alive in threading.enumerate()} or await _gone(thread)


async def _gone(ident: int) -> bool:
    await until(lambda: ident not in {alive.ident for alive in threading.enumerate()})
    return True


class Stepper:
    """A fake engine that counts in slow steps, and counts its starts."""

    def __init__(self) -> None:
        self.starts = 0

    def count(self, steps: int, stop: Stop, all_at_once: bool = False) -> Iterator[int]:
        self.starts += 1
        done = []
        for number in range(steps):
            if stop():
                return
            time.sleep(0.01)
            if all_at_once:
                done.append(number)
            else:
                yield number
        yield from done


async def run_job(
    worker: Worker[Stepper], steps: int, priority: Priority, yields: YieldPolicy, at_once: bool
) -> list[int]:
    async with worker.stream(lambda engine, stop: engine.count(steps, stop, at_once), priority, yields) as items:
        return [item async for item in items]


async def test_job_of_lower_priority_is_preempted_and_restarted() -> None:
    worker = Worker("test", Stepper)
    engine = await worker.open()
    order = []

    async def job(name: str, *how: Any) -> None:
        found = await run_job(worker, *how)
        order.append((name, len(found)))

    async with anyio.create_task_group() as group:
        group.start_soon(job, "bulk", 100, Priority.BULK, YieldPolicy.RESTART, True)
        await until(lambda: engine.starts == 1)
        group.start_soon(job, "live", 3, Priority.LIVE, YieldPolicy.RESTART, True)
    assert order == [("live", 3), ("bulk", 100)]
    assert engine.starts == 3
    assert worker.admission.used == 0
    await worker.aclose()


async def test_job_that_yielded_items_is_not_restarted() -> None:
    worker = Worker("test", Stepper)
    engine = await worker.open()
    found: list[int] = []

    async def bulk() -> None:
        async with worker.stream(
            lambda engine, stop: engine.count(30, stop), Priority.BULK, YieldPolicy.RESTART
        ) as items:
            async for item in items:
                found.append(item)  # noqa: PERF401 - what came so far counts

    async with anyio.create_task_group() as group:
        group.start_soon(bulk)
        await until(lambda: len(found) > 1)
        assert len(await run_job(worker, 3, Priority.LIVE, YieldPolicy.NEVER, True)) == 3
    assert engine.starts == 2
    await worker.aclose()


async def test_preempted_job_can_raise_instead_of_restarting() -> None:
    worker = Worker("test", Stepper)
    await worker.open()
    found = []

    async def bulk() -> None:
        with pytest.raises(Preempted):
            async with worker.stream(
                lambda engine, stop: engine.count(100, stop), Priority.REQUEST, YieldPolicy.RAISE
            ) as items:
                async for item in items:
                    found.append(item)  # noqa: PERF401 - what came before the error counts

    async with anyio.create_task_group() as group:
        group.start_soon(bulk)
        await until(lambda: len(found) > 1)
        assert len(await run_job(worker, 3, Priority.LIVE, YieldPolicy.NEVER, True)) == 3
    assert 1 < len(found) < 100 and found == list(range(len(found)))
    await worker.aclose()


async def test_any_work_preempts_a_probe_and_a_probe_preempts_none() -> None:
    worker = Worker("test", Stepper)
    await worker.open()
    found: list[int] = []

    async def probe() -> None:
        async with worker.stream(
            lambda engine, stop: engine.count(100, stop), Priority.PROBE, YieldPolicy.RAISE
        ) as items:
            async for item in items:
                found.append(item)  # noqa: PERF401 - what came so far counts

    async def preempted() -> None:
        with pytest.raises(Preempted):
            await probe()

    async with anyio.create_task_group() as group:
        group.start_soon(preempted)
        await until(lambda: len(found) > 1)
        assert len(await run_job(worker, 3, Priority.TRAINING, YieldPolicy.NEVER, True)) == 3
    async with worker.stream(lambda engine, stop: engine.count(5, stop), Priority.TRAINING, YieldPolicy.RAISE) as items:
        with pytest.raises(Busy, match="in use"):
            await probe()
        assert [item async for item in items] == list(range(5))
    await worker.aclose()


async def test_engine_is_freed_before_its_worker_counts_as_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is still freed when Python ends aborts the process."""
    built: list[weakref.ref[Counter]] = []
    freed = []

    def build() -> Counter:
        engine = Counter()
        built.append(weakref.ref(engine))
        return engine

    # Called by the last thread once it has let the engine go.
    monkeypatch.setattr(malloc_trim, "trim", lambda: freed.append(built[0]() is None))
    worker = Worker("counter", build)
    await worker.open()
    await worker.aclose()
    assert freed == [True]


async def test_items_that_arrive_together_wake_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wakes = 0
    call_in = engine_threads.call_in

    def counted(loop: Any, function: Callable[[], object]) -> None:
        nonlocal wakes
        wakes += getattr(function, "__name__", "") == "_wake"
        call_in(loop, function)

    monkeypatch.setattr(engine_threads, "call_in", counted)
    async with opened() as worker, worker.stream(lambda engine, stop: engine.count(stop, 20)) as numbers:
        # The event loop is blocked until the engine has finished.
        assert worker.engine.stopped.wait(TIMEOUT)
        assert [number async for number in numbers] == list(range(20))
    assert wakes <= 2
