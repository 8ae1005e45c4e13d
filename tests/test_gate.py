"""The gate: slots, priorities, a bounded queue."""

from __future__ import annotations

import anyio
import pytest
from conftest import until

from chatapi.errors import Busy
from chatapi.runtime.admission import Admission, Priority

pytestmark = pytest.mark.anyio


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    gate = Admission("queue", slots=1, queue=1)
    async with gate.admitted(), anyio.create_task_group() as group:
        group.start_soon(gate.acquire)
        await until(lambda: gate.waiting == 1)
        with pytest.raises(Busy) as refused:
            await gate.acquire()
        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
        group.cancel_scope.cancel()
    assert (gate.used, gate.waiting) == (0, 0)


async def test_a_live_turn_goes_before_those_that_came_earlier() -> None:
    gate, order = Admission("queue", slots=1), list[str]()

    async def enter(name: str, priority: Priority) -> None:
        async with gate.admitted(priority):
            order.append(name)

    async with anyio.create_task_group() as group:
        async with gate.admitted():
            for number, (name, priority) in enumerate(
                [
                    ("bulk", Priority.BULK),
                    ("first", Priority.REQUEST),
                    ("second", Priority.REQUEST),
                    ("live", Priority.LIVE),
                ]
            ):
                group.start_soon(enter, name, priority)
                await until(lambda number=number: gate.waiting == number + 1)
    assert order == ["live", "first", "second", "bulk"]


async def test_whoever_gives_up_waiting_leaves_no_trace() -> None:
    gate = Admission("queue", slots=1)
    async with gate.admitted():
        with anyio.move_on_after(0.01):
            await gate.acquire()
        assert gate.waiting == 0
    assert gate.used == 0
    await gate.acquire()
    assert gate.used == 1


async def test_a_slot_handed_to_someone_cancelled_at_that_moment_is_not_lost() -> None:
    gate = Admission("queue", slots=1)
    await gate.acquire()

    async def hold() -> None:
        async with gate.admitted():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await until(lambda: gate.waiting == 1)
        gate.release()
        group.cancel_scope.cancel()
    assert gate.used == 0


async def test_a_slot_is_kept_for_somebody_who_speaks() -> None:
    gate = Admission("recogniser", slots=2)
    await gate.acquire(Priority.BULK)
    gate.expect()
    async with anyio.create_task_group() as group:
        group.start_soon(gate.acquire, Priority.BULK)
        await until(lambda: gate.waiting == 1)
        await gate.acquire(Priority.LIVE)
        assert (gate.used, gate.waiting) == (2, 1)
        gate.release()
        assert (gate.used, gate.waiting) == (1, 1)
        gate.release()
        await until(lambda: gate.waiting == 0)
    assert gate.used == 1


async def test_the_only_slot_is_kept_for_nobody() -> None:
    gate = Admission("recogniser", slots=1)
    gate.expect()
    await gate.acquire(Priority.BULK)
    assert gate.used == 1
