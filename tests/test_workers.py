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
from conftest import PATIENCE, until

from chatapi import workers
from chatapi.engines import Stop, still_wanted
from chatapi.errors import EngineFailed, ModelFault, NotReady
from chatapi.gate import Priority
from chatapi.workers import AHEAD, REBUILDS, Preempted, Worker, Yields

pytestmark = pytest.mark.anyio


class Counter:
    """Counts as long as it is let."""

    built = 0

    def __init__(self) -> None:
        type(self).built += 1
        self.thread = threading.get_ident()
        self.given = 0
        self.stopped = threading.Event()
        self.hang = threading.Event()
        self.closed = False

    def count(self, stop: Stop, most: int = 10**9) -> Iterator[int]:
        try:
            for number in range(most):
                if stop():
                    return
                self.given += 1
                yield number
        finally:
            self.stopped.set()

    def stuck(self, _: Stop) -> Iterator[int]:
        yield 0
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
        await until(lambda: worker.gate.used == 0)


async def test_how_fast_it_gives_is_told_of_jobs_that_did_not_wait_for_their_caller() -> None:
    told: list[str] = []
    worker = Worker("counter", Counter, tell=lambda what, _: told.append(what))
    await worker.open()
    try:
        for most, taken in ((10, ["busy", "pace"]), (AHEAD + 5, ["busy"])):
            told.clear()
            async with worker.stream(lambda engine, stop, most=most: engine.count(stop, most)) as numbers:  # type: ignore[misc]
                await until(lambda most=most: worker.engine.given >= min(most, AHEAD + 1))  # type: ignore[misc]
                assert [number async for number in numbers] == list(range(most))
            await until(lambda: worker.gate.used == 0)
            assert told == taken
            worker.engine.given = 0
    finally:
        await worker.aclose()


async def test_an_engine_runs_on_the_thread_that_built_it() -> None:
    async with opened() as worker:
        built, here = await worker.call(lambda engine: (engine.thread, threading.get_ident()))
        assert built == here != threading.get_ident()


async def test_an_engine_waits_for_a_caller_who_does_not_take() -> None:
    async with opened() as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop)) as numbers:
            assert await anext(numbers) == 0
            await until(lambda: worker.engine.given >= AHEAD)
            await anyio.sleep(0.05)
            assert worker.engine.given <= AHEAD + 2
        assert worker.engine.stopped.wait(60)


async def test_leaving_stops_the_engine_and_frees_its_slot() -> None:
    async with opened() as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop)) as numbers:
            async for number in numbers:
                if number == 5:
                    break
        await until(lambda: worker.gate.used == 0)
        assert worker.engine.stopped.is_set()
        assert await worker.call(lambda engine: engine.thread)


async def test_a_cancelled_caller_stops_the_engine() -> None:
    async with opened() as worker:
        with anyio.move_on_after(0.05):
            async with worker.stream(lambda engine, stop: engine.count(stop)) as numbers:
                async for _ in numbers:
                    await anyio.sleep(0.001)
        await until(lambda: worker.gate.used == 0)
        assert worker.engine.stopped.is_set()


async def test_what_an_engine_raises_becomes_one_error_and_the_next_call_works() -> None:
    def broken(_: Counter, __: Stop) -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("no")

    async with opened() as worker:
        with pytest.raises(EngineFailed) as failed:
            async with worker.stream(broken) as numbers:
                _ = [number async for number in numbers]
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        assert await worker.call(lambda engine: engine.given) == 0


async def test_what_an_engine_raises_goes_to_the_log_and_not_to_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Counter, __: Stop) -> Iterator[int]:
        raise OSError("/root/.local/share/secret.bin cannot be read")
        yield 1

    async with opened() as worker:
        with pytest.raises(EngineFailed) as failed:
            async with worker.stream(broken) as numbers:
                _ = [number async for number in numbers]
    assert failed.value.message == "the counter engine failed; the log says why"
    assert "secret.bin cannot be read" in caplog.text


async def test_what_keeps_an_engine_from_being_built_is_raised_by_open() -> None:
    def build() -> Counter:
        raise ModelFault("the model is damaged")

    worker = Worker("counter", build)
    with pytest.raises(ModelFault, match="damaged"):
        await worker.open()
    assert worker.state == "failed"
    await worker.aclose()


async def test_an_engine_that_is_not_built_refuses_with_a_time_to_come_back() -> None:
    with pytest.raises(NotReady):
        await Worker("counter", Counter).call(lambda engine: engine.given)


async def test_a_stuck_engine_is_named_left_behind_and_built_anew() -> None:
    async with opened(step_seconds=0.2) as worker:
        before = worker.engine
        with pytest.raises(EngineFailed, match=r"gave nothing for 0\.2 seconds") as failed:
            async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
                _ = [number async for number in numbers]
        assert failed.value.code == "engine_stuck"
        await until(lambda: worker.state == "ready")
        assert worker.engine is not before
        assert worker.rebuilt == 1
        assert await worker.call(lambda engine: engine.given) == 0
        before.hang.set()


async def test_an_engine_stuck_after_its_caller_left_is_built_anew_too() -> None:
    async with opened(step_seconds=0.2) as worker:
        before = worker.engine
        async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
            await anext(numbers)
        await until(lambda: worker.rebuilt == 1 and worker.state == "ready")
        assert worker.gate.used == 0
        before.hang.set()


async def stick(worker: Worker[Counter]) -> Counter:
    """The engine, which hangs from now on."""
    await worker.call(lambda engine: engine.given)
    stuck = worker.engine
    with pytest.raises(EngineFailed, match="gave nothing"):
        async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
            _ = [number async for number in numbers]
    return stuck


async def test_an_engine_stuck_too_often_stays_away_and_returns_when_the_window_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(step_seconds=0.05) as worker:
        stuck = [await stick(worker) for _ in range(REBUILDS + 1)]
        assert worker.state == "failed"
        with pytest.raises(NotReady, match="built again in") as refused:
            await worker.call(lambda engine: engine.given)
        assert refused.value.code == "engine_gone"
        assert refused.value.retry_after == pytest.approx(worker.barred, abs=5)
        assert 0 < worker.barred <= workers.REBUILD_SECONDS
        monkeypatch.setattr(workers, "REBUILD_SECONDS", 0.0)
        assert (worker.state, worker.barred) == ("idle", 0)
        assert await worker.call(lambda engine: engine.given) == 0
        assert (worker.state, worker.rebuilt) == ("ready", REBUILDS + 1)
        for each in stuck:
            each.hang.set()


async def test_engines_stuck_long_after_one_another_are_always_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "REBUILD_SECONDS", 0.01)
    async with opened(step_seconds=0.05) as worker:
        for _ in range(2 * REBUILDS):
            (await stick(worker)).hang.set()
        assert worker.rebuilt == 2 * REBUILDS
        assert await worker.call(lambda engine: engine.given) == 0


async def test_an_abandoned_engine_is_closed_and_freed_when_its_thread_comes_back() -> None:
    async with opened(step_seconds=0.05) as worker:
        stuck = [await stick(worker) for _ in range(REBUILDS + 1)]
        assert not any(each.closed for each in stuck)
        for each in stuck:
            each.hang.set()
        await until(lambda: all(each.closed for each in stuck))
        kept = [weakref.ref(each) for each in stuck]
        del each
        stuck.clear()
        await until(lambda: not any(each() for each in kept))


async def test_two_jobs_stuck_in_one_engine_cost_one_engine() -> None:
    async def leave_it(worker: Worker[Counter]) -> None:
        async with worker.stream(lambda engine, stop: engine.stuck(stop)) as numbers:
            await anext(numbers)

    async with opened(slots=2, step_seconds=0.2) as worker:
        before = worker.engine
        async with anyio.create_task_group() as group:
            group.start_soon(leave_it, worker)
            group.start_soon(leave_it, worker)
        await until(lambda: worker.gate.used == 0)
        assert await worker.call(lambda engine: engine.given) == 0
        assert worker.rebuilt == 1
        before.hang.set()


async def test_an_engine_that_asks_whether_it_shall_stop_is_at_work() -> None:
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


async def test_an_engine_that_asks_and_goes_on_after_the_answer_is_stuck() -> None:
    ended = threading.Event()

    def deaf(_: Counter, stop: Stop) -> Iterator[int]:
        yield 1
        while not ended.wait(0.01):
            stop()

    async with opened(step_seconds=0.2) as worker:
        async with worker.stream(deaf) as numbers:
            await anext(numbers)
        await until(lambda: worker.rebuilt == 1)
        ended.set()


async def test_one_that_only_waits_asks_without_a_sign_of_life() -> None:
    ended = threading.Event()

    def waiting(_: Counter, stop: Stop) -> Iterator[int]:
        while still_wanted(stop) and not ended.wait(0.01):
            pass
        yield 1

    async with opened(step_seconds=0.2) as worker:
        with pytest.raises(EngineFailed, match=r"gave nothing for 0\.2 seconds"):
            async with worker.stream(waiting) as numbers:
                await anext(numbers)
        ended.set()


async def test_a_caller_who_comes_back_late_is_no_sign_of_a_stuck_engine() -> None:
    async with opened(step_seconds=0.2) as worker:
        async with worker.stream(lambda engine, stop: engine.count(stop, AHEAD * 3)) as numbers:
            assert await anext(numbers) == 0
            await anyio.sleep(0.4)
            assert [number async for number in numbers] == list(range(1, AHEAD * 3))
        assert worker.rebuilt == 0


class Sound:
    """What a job's closure and its items hold."""


@pytest.fixture
def no_collections() -> Iterator[None]:
    """What is freed is freed because nothing holds it any more, also not in a circle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def speaking(how: str, held: list[weakref.ref[Sound]]) -> Callable[[Counter, Stop], Iterator[Sound]]:
    """A job that holds a sound and gives others; all of them are noted."""
    sound = Sound()
    held.append(weakref.ref(sound))

    def spoken(_: Counter, stop: Stop) -> Iterator[Sound]:
        mine = sound
        for _number in range(AHEAD + 5):
            if stop():
                return
            made = Sound()
            held.append(weakref.ref(made))
            yield made
        if how == "raises":
            raise ValueError(mine is sound)
        if how == "ours":
            raise EngineFailed("the voice is hoarse")

    return spoken


async def hear(worker: Worker[Counter], how: str, held: list[weakref.ref[Sound]]) -> None:
    async with worker.stream(speaking(how, held)) as sounds:
        if how == "unread":
            return
        async for _ in sounds:
            if how == "left":
                return


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("how", ["ends", "left", "unread", "raises", "ours"])
async def test_a_finished_job_holds_no_sound(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps what is logged, with the error and its frames.
    monkeypatch.setattr(workers.log, "disabled", True)
    held: list[weakref.ref[Sound]] = []
    async with opened(step_seconds=PATIENCE) as worker:
        with pytest.raises(EngineFailed) if how in ("raises", "ours") else nullcontext():
            await hear(worker, how, held)
        await until(lambda: worker.gate.used == 0)
        await until(lambda: not any(each() is not None for each in held), PATIENCE / 2)


async def test_as_many_callers_as_slots_are_served_at_once() -> None:
    async with opened(slots=2) as worker:
        async with (
            worker.stream(lambda e, stop: e.count(stop)) as one,
            worker.stream(lambda e, stop: e.count(stop)) as two,
        ):
            assert await anext(one) == 0
            assert await anext(two) == 0
            assert worker.gate.used == 2
        await until(lambda: worker.gate.used == 0)


async def test_closing_ends_the_threads() -> None:
    async with opened() as worker:
        thread = worker.engine.thread
    assert thread not in {alive.ident for alive in threading.enumerate()} or await _gone(thread)


async def _gone(ident: int) -> bool:
    await until(lambda: ident not in {alive.ident for alive in threading.enumerate()})
    return True


class Stepper:
    """Counts, a step at a time, and remembers how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0

    def count(self, steps: int, stop: Stop, all_at_once: bool = False) -> Iterator[int]:
        self.begun += 1
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


async def taken(worker: Worker[Stepper], steps: int, priority: Priority, yields: Yields, at_once: bool) -> list[int]:
    async with worker.stream(lambda engine, stop: engine.count(steps, stop, at_once), priority, yields) as items:
        return [item async for item in items]


async def test_a_less_urgent_job_makes_room_and_is_done_again() -> None:
    worker = Worker("test", Stepper)
    engine = await worker.open()
    order = []

    async def job(name: str, *how: Any) -> None:
        found = await taken(worker, *how)
        order.append((name, len(found)))

    async with anyio.create_task_group() as group:
        group.start_soon(job, "bulk", 100, Priority.BULK, Yields.AGAIN, True)
        await anyio.sleep(0.1)
        group.start_soon(job, "live", 3, Priority.LIVE, Yields.AGAIN, True)
    assert order == [("live", 3), ("bulk", 100)]
    assert engine.begun == 3
    assert worker.gate.used == 0
    await worker.aclose()


async def test_one_that_has_given_something_is_not_begun_again() -> None:
    worker = Worker("test", Stepper)
    engine = await worker.open()
    async with anyio.create_task_group() as group:
        group.start_soon(taken, worker, 30, Priority.BULK, Yields.AGAIN, False)
        await anyio.sleep(0.1)
        assert len(await taken(worker, 3, Priority.LIVE, Yields.NEVER, True)) == 3
    assert engine.begun == 2
    await worker.aclose()


async def test_who_would_rather_know_is_told_that_it_made_room() -> None:
    worker = Worker("test", Stepper)
    await worker.open()
    found = []

    async def bulk() -> None:
        with pytest.raises(Preempted):
            async with worker.stream(
                lambda engine, stop: engine.count(100, stop), Priority.REQUEST, Yields.RAISES
            ) as items:
                async for item in items:
                    found.append(item)  # noqa: PERF401 - what came before the error counts

    async with anyio.create_task_group() as group:
        group.start_soon(bulk)
        await anyio.sleep(0.1)
        assert len(await taken(worker, 3, Priority.LIVE, Yields.NEVER, True)) == 3
    assert 1 < len(found) < 100 and found == list(range(len(found)))
    await worker.aclose()


class Linguist:
    """Declares what it knows, counts how many of it there are at once, and can be kept from being built."""

    alive = 0
    most = 0
    refuses: Exception | None = None

    def __init__(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.languages = ("en", "de")
        Linguist.alive += 1
        Linguist.most = max(Linguist.most, Linguist.alive)

    def word(self) -> str:
        return "hello"

    def close(self) -> None:
        time.sleep(0.05)
        Linguist.alive -= 1


@pytest.fixture
async def idler() -> AsyncIterator[Worker[Linguist]]:
    """An engine that is let go after half a second."""
    Linguist.alive = Linguist.most = 0
    told: list[str] = []
    worker = Worker("linguist", Linguist, idle_seconds=0.5, tell=lambda what, _: told.append(what))
    await worker.open()
    yield worker
    assert told.count("unloaded") == worker.unloaded
    await worker.aclose()
    Linguist.refuses = None


async def test_an_idle_engine_is_closed_and_comes_back_for_the_next_call(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    await until(lambda: Linguist.alive == 0)
    assert idler.engine.languages == ("en", "de")
    assert await idler.call(lambda engine: engine.word()) == "hello"
    assert (idler.state, idler.unloaded, Linguist.alive) == ("ready", 1, 1)
    await until(lambda: idler.state == "idle")
    assert idler.unloaded == 2


async def test_an_engine_in_use_is_not_idle(idler: Worker[Linguist]) -> None:
    def slowly(engine: Linguist, _: Stop) -> Iterator[str]:
        time.sleep(0.8)
        yield engine.word()

    async with idler.stream(slowly) as words:
        assert [word async for word in words] == ["hello"]
    assert idler.state == "ready"
    for _ in range(14):
        await anyio.sleep(0.05)
        await idler.call(lambda engine: engine.word())
    assert idler.unloaded == 0


async def test_who_looks_whether_it_works_does_not_keep_it_busy(idler: Worker[Linguist]) -> None:
    with anyio.fail_after(3):
        while idler.state == "ready":
            await idler.call(lambda engine: engine.word(), Priority.TRAINING)
            await anyio.sleep(0.01)
    assert idler.unloaded == 1


async def test_it_comes_back_once_for_many_and_never_beside_the_one_that_leaves(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(idler.call, lambda engine: engine.word())
    assert (Linguist.alive, Linguist.most) == (1, 1)
    await until(lambda: idler.gate.used == 0)


async def test_what_keeps_it_from_coming_back_is_told_and_tried_again(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    Linguist.refuses = ModelFault("no memory is left")
    for _ in range(2):
        with pytest.raises(ModelFault, match="no memory"):
            await idler.call(lambda engine: engine.word())
        assert (idler.state, idler.gate.used) == ("idle", 0)
    Linguist.refuses = OSError("gone")
    with pytest.raises(EngineFailed, match="could not be loaded again"):
        await idler.call(lambda engine: engine.word())
    Linguist.refuses = None
    assert await idler.call(lambda engine: engine.word()) == "hello"


async def test_who_leaves_while_it_comes_back_leaves_it_to_become_idle_again(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    with anyio.move_on_after(0.001):
        await idler.call(lambda engine: engine.word())
    await until(lambda: idler.gate.used == 0 and Linguist.alive == 0 and idler.state == "idle")
    assert await idler.call(lambda engine: engine.word()) == "hello"


async def test_one_that_will_be_needed_soon_comes_back_before_it_is_asked(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle" and Linguist.alive == 0)
    await anyio.sleep(0.01)
    idler.rouse()
    idler.rouse()
    await until(lambda: idler.state == "ready")
    assert (Linguist.alive, await idler.call(lambda engine: engine.word())) == (1, "hello")
