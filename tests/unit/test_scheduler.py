"""The scheduler: which classes yield, and the minimum share of each, on a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from chatapi.engines import Stop
from chatapi.events import TurnEnded
from chatapi.runtime import engine_threads
from chatapi.runtime.admission import Priority
from chatapi.runtime.scheduler import CLASSES, EXPECTED_SECONDS, LINGER_SECONDS, SHARES, Scheduler
from chatapi.runtime.workers import Worker
from conftest import RunAppliance, tone, until
from test_live import silence, talking

LIVE, REQUEST, BULK, TRAINING = CLASSES


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> Scheduler:
    return Scheduler(clock)


def waiting(scheduler: Scheduler) -> list[Priority]:
    return [priority for priority in Priority if scheduler.must_yield(priority)]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (LIVE, [REQUEST, BULK, TRAINING]),
        (REQUEST, [BULK, TRAINING]),
        (BULK, [TRAINING]),
        (TRAINING, []),
        (Priority.PROBE, []),
    ],
)
def test_less_urgent_work_yields_while_more_urgent_work_runs(
    scheduler: Scheduler, clock: Clock, runs: Priority, expected: list[Priority]
) -> None:
    assert waiting(scheduler) == []
    with scheduler.working(runs):
        assert waiting(scheduler) == expected
        readings = scheduler.readings()
        assert [priority for priority, reading in readings.items() if reading.waits_for is not None] == expected
        assert {readings[priority].waits_for for priority in expected} <= {runs}
    # A live turn pauses between its stages.
    clock.now += LINGER_SECONDS * 0.9
    assert waiting(scheduler) == expected
    clock.now += LINGER_SECONDS * 0.2
    assert waiting(scheduler) == []
    assert all(reading.waits_for is None for reading in scheduler.readings().values())


def test_expected_work_is_yielded_to_for_a_while(scheduler: Scheduler, clock: Clock) -> None:
    scheduler.expect(LIVE)
    assert waiting(scheduler) == [REQUEST, BULK, TRAINING]
    clock.now += EXPECTED_SECONDS
    assert waiting(scheduler) == []


def turns(scheduler: Scheduler, clock: Clock, priority: Priority, seconds: float) -> Iterator[bool]:
    """Whether the class waits, asked twenty times a second."""
    for _ in range(int(seconds * 20)):
        yield scheduler.must_yield(priority)
        clock.now += 0.05


@pytest.mark.parametrize("priority", [REQUEST, BULK, TRAINING])
def test_each_class_gets_its_minimum_share(scheduler: Scheduler, clock: Clock, priority: Priority) -> None:
    share = SHARES[priority]
    period = share.wait_seconds + share.run_seconds
    with scheduler.working(LIVE):
        answers = list(turns(scheduler, clock, priority, period * 5))
    lengths = runs_of(answers)
    assert lengths[0] == (True, pytest.approx(share.wait_seconds, abs=0.15))
    assert lengths[1] == (False, pytest.approx(share.run_seconds, abs=0.15))
    assert answers.count(False) / 20 == pytest.approx(5 * share.run_seconds, rel=0.1)
    yielded = scheduler.readings()[priority].yielded_seconds
    assert yielded == pytest.approx(5 * share.wait_seconds, rel=0.05)


def runs_of(answers: list[bool]) -> list[tuple[bool, float]]:
    """Answer and duration of each run of equal answers, in seconds."""
    found: list[tuple[bool, float]] = []
    for answer in answers:
        if found and found[-1][0] == answer:
            found[-1] = (answer, found[-1][1] + 0.05)
        else:
            found.append((answer, 0.05))
    return found


def test_pauses_of_urgent_work_pay_off_the_waiting(scheduler: Scheduler, clock: Clock) -> None:
    """Work that runs in the pauses of a conversation does not run during its turns as well."""
    share = SHARES[BULK]
    for _ in range(20):
        with scheduler.working(LIVE):
            assert all(turns(scheduler, clock, BULK, share.wait_seconds / 2))
        clock.now += LINGER_SECONDS
        assert not any(turns(scheduler, clock, BULK, share.run_seconds))


def test_work_that_no_longer_asks_is_not_kept_waiting(scheduler: Scheduler, clock: Clock) -> None:
    with scheduler.working(LIVE):
        assert scheduler.must_yield(BULK)
        clock.now += 3600
        assert scheduler.readings()[BULK].waits_for is None
        assert scheduler.must_yield(BULK)
    assert scheduler.readings()[BULK].yielded_seconds <= 1


# Engines


class Stepper:
    """An engine whose items are numbers; it waits for a permit before each."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.made: list[str] = []

    def steps(self, name: str, most: int, stop: Stop) -> Iterator[int]:
        for number in range(most):
            while not self.permits.acquire(timeout=0.01):
                if stop():
                    return
            self.made.append(name)
            yield number


@asynccontextmanager
async def opened(scheduler: Scheduler, slots: int = 1) -> AsyncIterator[Worker[Stepper]]:
    worker = Worker("stepper", Stepper, slots, step_seconds=5)
    worker.scheduler = scheduler
    await worker.open()
    try:
        yield worker
    finally:
        await worker.aclose()


async def steps(worker: Worker[Stepper], name: str, most: int, priority: Priority) -> int:
    async with worker.stream(lambda engine, stop: engine.steps(name, most, stop), priority) as items:
        return len([item async for item in items])


@pytest.mark.anyio
async def test_an_engine_yields_at_its_next_step_and_goes_on(clock: Clock) -> None:
    scheduler = Scheduler(clock)
    async with opened(scheduler) as worker, anyio.create_task_group() as group:
        group.start_soon(steps, worker, "bulk", 100, BULK)
        worker.engine.permits.release(3)
        await until(lambda: len(worker.engine.made) == 3)
        with scheduler.working(LIVE):
            # One step may have begun.
            worker.engine.permits.release(100)
            await until(lambda: scheduler.readings()[BULK].waits_for is LIVE)
            made = len(worker.engine.made)
            assert made <= 4
            await anyio.sleep(0.2)
            assert len(worker.engine.made) == made
        clock.now += LINGER_SECONDS
        await until(lambda: len(worker.engine.made) == 100)


@pytest.mark.anyio
async def test_a_job_does_not_yield_while_it_holds_the_slot_that_urgent_work_waits_for(clock: Clock) -> None:
    """Otherwise live work of another engine, whose turn needs this slot, would wait for itself."""
    scheduler = Scheduler(clock)
    async with opened(scheduler) as worker, anyio.create_task_group() as group:
        group.start_soon(steps, worker, "bulk", 5, BULK)
        await until(lambda: worker.admission.used == 1)
        with scheduler.working(LIVE):
            group.start_soon(steps, worker, "live", 5, LIVE)
            await until(lambda: worker.admission.waiting == 1)
            worker.engine.permits.release(10)
            await until(lambda: len(worker.engine.made) == 10)
        assert worker.engine.made == ["bulk"] * 5 + ["live"] * 5


@pytest.mark.anyio
async def test_a_cancelled_job_that_waits_frees_its_slot(clock: Clock) -> None:
    scheduler = Scheduler(clock)
    async with opened(scheduler) as worker:
        with scheduler.working(LIVE):
            async with anyio.create_task_group() as group:
                group.start_soon(steps, worker, "bulk", 5, BULK)
                await until(lambda: scheduler.readings()[BULK].waits_for is LIVE)
                group.cancel_scope.cancel()
            await until(lambda: worker.admission.used == 0)
        assert worker.engine.made == [] and worker.rebuilt == 0


@pytest.mark.anyio
async def test_engine_work_that_waits_for_its_reader_does_not_count(clock: Clock) -> None:
    scheduler = Scheduler(clock)
    async with opened(scheduler) as worker:
        worker.engine.permits.release(1000)
        async with worker.stream(lambda engine, stop: engine.steps("live", 1000, stop), LIVE) as items:
            assert await anext(items) == 0
            await until(lambda: len(worker.engine.made) > engine_threads.AHEAD)
            await until(lambda: not scheduler._running[LIVE])
            clock.now += LINGER_SECONDS
            assert not scheduler.must_yield(BULK)
        await until(lambda: worker.admission.used == 0)
        assert not scheduler._running[LIVE]


@pytest.mark.anyio
async def test_a_live_turn_has_the_cores_from_the_start_of_speech_and_then_leaves_them(
    fake_appliance: RunAppliance,
) -> None:
    async with talking(fake_appliance) as talk:
        scheduler = talk.appliance.scheduler
        # The engines were warmed up just now.
        await until(lambda: not scheduler.must_yield(BULK))
        await talk.say(silence(0.3), tone(0.3))
        # Before anything is transcribed.
        await until(lambda: scheduler.must_yield(BULK) and scheduler.decisions()["bulk"][1]["live"])
        await talk.say(tone(0.5), silence(0.5))
        await talk.wait_for(TurnEnded)
        await until(lambda: not scheduler.must_yield(BULK))
