"""Workers whose engine is swapped: what calls get before, meanwhile and afterwards, and what remains of a failure."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from chatapi.engines import Stop, never
from chatapi.engines.call import EngineCall
from chatapi.errors import Busy, EngineFailed, ModelError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import LateCall, Replacement, Worker
from conftest import until

pytestmark = pytest.mark.anyio


class Named:
    """A fake engine with a name, which counts how many are loaded at once."""

    alive = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, name: str, error: Exception | None = None) -> None:
        time.sleep(0.01)
        if error is not None:
            raise error
        self.name = name
        self.languages = (name,)
        self.go_on = threading.Event()
        with self.lock:
            Named.alive += 1
            Named.most = max(Named.most, Named.alive)

    def say(self, stop: Stop = never) -> Iterator[str]:
        yield self.name

    def wait(self, stop: Stop = never) -> Iterator[str]:
        """Its name, twice; the second time once it may continue."""
        yield self.name
        while not self.go_on.wait(0.005):
            if stop():
                return
        yield self.name

    def stick(self, stop: Stop = never) -> Iterator[str]:
        yield self.name
        self.go_on.wait(20)

    def fail(self, stop: Stop = never) -> Iterator[str]:
        raise ZeroDivisionError

    def close(self) -> None:
        with self.lock:
            Named.alive -= 1
        self.go_on.set()


def engine(name: str, error: Exception | None = None, slots: int = 1, warm_up: str = "say") -> Replacement[Named]:
    return Replacement(lambda: Named(name, error), slots, lambda _: EngineCall(warm_up, ()))


@asynccontextmanager
async def opened(
    slots: int = 1, step_seconds: float = 10, load: Callable[[], Named] = lambda: Named("old"), idle_seconds: float = 0
) -> AsyncIterator[Worker[Named]]:
    Named.alive = Named.most = 0
    worker = Worker("named", load, slots, step_seconds, idle_seconds)
    await worker.open()
    try:
        yield worker
    finally:
        await worker.aclose()
        assert Named.alive == 0


async def said(worker: Worker[Named]) -> str:
    [name] = await worker.collect(EngineCall("say", ()))
    return name


def waiting(worker: Worker[Named]) -> Any:
    return worker.stream(EngineCall[str]("wait", ()))


async def test_call_in_flight_ends_on_the_old_engine_and_the_next_one_has_the_new() -> None:
    async with opened(slots=2) as worker:
        old = worker.engine
        async with waiting(worker) as names:
            assert await anext(names) == "old"
            await worker.swap(engine("new", slots=2), beside=True, drain_seconds=1)
            assert (await said(worker), worker.engine.languages) == ("new", ("new",))
            assert (Named.alive, Named.most) == (2, 2)
            old.go_on.set()
            assert [name async for name in names] == ["old"]
        await until(lambda: Named.alive == 1)
        assert (worker.state, worker.rebuilt) == ("ready", 0)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("new", "kind", "words"),
    [
        (engine("new", ModelError("it is damaged", code="model_damaged")), ModelError, "damaged"),
        (engine("new", OSError("no such library")), OSError, "library"),
        (engine("new", warm_up="fail"), EngineFailed, "engine failed"),
    ],
)
async def test_engine_that_fails_leaves_the_old_one(
    beside: bool, new: Replacement[Named], kind: type[Exception], words: str
) -> None:
    async with opened() as worker:
        with pytest.raises(kind, match=words):
            await worker.swap(new, beside, drain_seconds=1)
        assert (await said(worker), worker.state, worker.rebuild_delay) == ("old", "ready", 0)
        await until(lambda: Named.alive == 1)


async def test_two_engines_are_never_loaded_at_once_without_memory_for_both() -> None:
    async with opened(slots=2) as worker:
        old, found = worker.engine, []

        async def call() -> None:
            found.append(await said(worker))

        async with waiting(worker) as names, anyio.create_task_group() as group:
            await anext(names)
            group.start_soon(worker.swap, engine("new", slots=2), False, 30)
            await until(lambda: worker.lifetime.is_held)
            for _ in range(3):
                group.start_soon(call)
            await anyio.sleep(0.05)
            assert (found, worker.state) == ([], "ready")
            with pytest.raises(Busy):
                await worker.call(lambda engine: engine.name, Priority.PROBE)
            old.go_on.set()
            assert [name async for name in names] == ["old"]
        assert (found, Named.most) == (["new"] * 3, 1)


async def test_calls_get_the_old_engine_where_the_new_one_fails() -> None:
    async with opened(slots=2) as worker:
        found, states = [], []

        async def swap() -> None:
            with pytest.raises(ModelError):
                await worker.swap(engine("new", ModelError("it is damaged")), False, 30)

        async def call() -> None:
            await until(lambda: worker.lifetime.is_held)
            states.append(worker.state)
            found.append(await said(worker))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(swap)
        assert (found, states, worker.engine.name) == (["old"], ["reloading"], "old")


async def test_old_engine_that_cannot_be_loaded_again_is_tried_by_the_next_call() -> None:
    faults: list[Exception | None] = [None, ModelError("no memory is left"), None]
    async with opened(load=lambda: Named("old", faults.pop(0))) as worker:
        with pytest.raises(EngineFailed, match="it is damaged; the old one could not be loaded again: no memory"):
            await worker.swap(engine("new", ModelError("it is damaged")), False, 1)
        assert worker.state == "idle"
        assert (await said(worker), worker.load_error) == ("old", None)


async def test_calls_that_do_not_end_keep_the_old_engine() -> None:
    async with opened(slots=2) as worker:
        async with waiting(worker) as names:
            await anext(names)
            with pytest.raises(Busy, match="did not end") as busy:
                await worker.swap(engine("new"), False, 0.05)
            assert (busy.value.code, await said(worker)) == ("engine_in_use", "old")


@pytest.mark.parametrize("slots", [1, 4])
async def test_engine_may_have_more_or_fewer_slots(slots: int) -> None:
    async with opened(slots=2) as worker:
        async with waiting(worker) as first, waiting(worker) as second:
            assert [await anext(first), await anext(second)] == ["old", "old"]
            old = worker.engine
            await worker.swap(engine("new", slots=slots), True, 1)
            old.go_on.set()
            assert ([name async for name in first], [name async for name in second]) == (["old"], ["old"])
        await until(lambda: worker.admission.used == 0)
        assert worker.admission.slots == slots
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(said, worker)


async def test_stuck_call_of_a_swapped_engine_costs_only_its_caller() -> None:
    async with opened(slots=2, step_seconds=0.3) as worker:
        old = worker.engine
        async with worker.stream(EngineCall[str]("stick", ())) as names:
            await anext(names)
            await worker.swap(engine("new", slots=2), True, 1)
            with pytest.raises(EngineFailed, match="made no progress"):
                await anext(names)
        assert (await said(worker), worker.rebuilt) == ("new", 0)
        old.go_on.set()
        await until(lambda: Named.alive == 1 and worker.admission.used == 0)


async def test_idle_engine_is_swapped_and_becomes_idle_again() -> None:
    async with opened(idle_seconds=0.1) as worker:
        await until(lambda: worker.state == "idle")
        for beside in (True, False):
            name = f"new {beside}"
            await worker.swap(engine(name), beside, 1)
            await until(lambda: worker.state == "idle")
            assert worker.engine.languages == (name,)


async def test_late_call_is_made_for_the_engine_that_runs_it() -> None:
    async with opened() as worker:
        call: LateCall[Any] = LateCall(lambda engine: EngineCall("say" if "new" in engine.languages else "fail", ()))
        async with anyio.create_task_group() as group:
            group.start_soon(worker.swap, engine("new"), False, 30)
            await until(lambda: worker.lifetime.is_held)
            async with worker.stream(call) as names:
                assert [name async for name in names] == ["new"]


async def test_worker_that_ends_during_a_swap_leaves_no_engine() -> None:
    for beside in (True, False):
        async with opened() as worker, anyio.create_task_group() as group:
            group.start_soon(worker.swap, engine("new"), beside, 30)
            await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        await until(lambda: Named.alive == 0)


async def test_no_call_fails_while_engines_are_swapped_over_and_over() -> None:
    chance, ended, found = random.Random(5), False, []
    async with opened(slots=2) as worker:

        async def caller() -> None:
            while not ended:
                found.append(await said(worker))
                await anyio.sleep(chance.random() / 500)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(caller)
            for number in range(16):
                error = ModelError("it is damaged") if number % 5 == 4 else None
                try:
                    await worker.swap(engine(str(number), error, slots=1 + number % 3), chance.random() < 0.5, 30)
                except ModelError:
                    assert error is not None
                else:
                    await until(lambda number=number: str(number) in found)  # type: ignore[misc]
            ended = True
        assert not {"4", "9", "14"} & set(found) and worker.engine.name == "15"
        await until(lambda: Named.alive == 1 and worker.admission.used == 0)
