"""The gate: slots, priorities, a bounded queue."""

from __future__ import annotations

import anyio
import pytest

from chatapi.errors import Busy
from chatapi.runtime.admission import Admission, Priority
from conftest import until

pytestmark = pytest.mark.anyio


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    admission = Admission("queue", slots=1, queue=1)
    async with admission.admitted(), anyio.create_task_group() as group:
        group.start_soon(admission.acquire)
        await until(lambda: admission.waiting == 1)
        with pytest.raises(Busy) as refused:
            await admission.acquire()
        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
        group.cancel_scope.cancel()
    assert (admission.used, admission.waiting) == (0, 0)


async def test_a_live_turn_goes_before_those_that_came_earlier() -> None:
    admission, order = Admission("queue", slots=1), list[str]()

    async def enter(name: str, priority: Priority) -> None:
        async with admission.admitted(priority):
            order.append(name)

    async with anyio.create_task_group() as group:
        async with admission.admitted():
            for number, (name, priority) in enumerate(
                [
                    ("bulk", Priority.BULK),
                    ("first", Priority.REQUEST),
                    ("second", Priority.REQUEST),
                    ("live", Priority.LIVE),
                ]
            ):
                group.start_soon(enter, name, priority)
                await until(lambda number=number: admission.waiting == number + 1)
    assert order == ["live", "first", "second", "bulk"]


async def test_whoever_gives_up_waiting_leaves_no_trace() -> None:
    admission = Admission("queue", slots=1)
    async with admission.admitted():
        with anyio.move_on_after(0.01):
            await admission.acquire()
        assert admission.waiting == 0
    assert admission.used == 0
    await admission.acquire()
    assert admission.used == 1


async def test_a_slot_handed_to_someone_cancelled_at_that_moment_is_not_lost() -> None:
    admission = Admission("queue", slots=1)
    await admission.acquire()

    async def hold() -> None:
        async with admission.admitted():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await until(lambda: admission.waiting == 1)
        admission.release()
        group.cancel_scope.cancel()
    assert admission.used == 0


async def test_a_slot_is_kept_for_somebody_who_speaks() -> None:
    admission = Admission("recogniser", slots=2)
    await admission.acquire(Priority.BULK)
    admission.reserve_live()
    async with anyio.create_task_group() as group:
        group.start_soon(admission.acquire, Priority.BULK)
        await until(lambda: admission.waiting == 1)
        await admission.acquire(Priority.LIVE)
        assert (admission.used, admission.waiting) == (2, 1)
        admission.release()
        assert (admission.used, admission.waiting) == (1, 1)
        admission.release()
        await until(lambda: admission.waiting == 0)
    assert admission.used == 1


async def test_the_only_slot_is_kept_for_nobody() -> None:
    admission = Admission("recogniser", slots=1)
    admission.reserve_live()
    await admission.acquire(Priority.BULK)
    assert admission.used == 1


async def test_a_probe_takes_a_free_slot_and_waits_for_none() -> None:
    admission = Admission("engine", slots=2)
    await admission.acquire(Priority.PROBE)
    await admission.acquire(Priority.TRAINING)
    with pytest.raises(Busy, match="the engine is in use"):
        await admission.acquire(Priority.PROBE)
    assert (admission.used, admission.waiting) == (2, 0)


async def test_a_probe_leaves_the_reserved_slot_to_live_work() -> None:
    admission = Admission("engine", slots=2)
    await admission.acquire(Priority.BULK)
    admission.reserve_live()
    with pytest.raises(Busy):
        await admission.acquire(Priority.PROBE)
    await admission.acquire(Priority.LIVE)
