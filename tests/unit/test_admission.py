"""Admission: slots, priorities and a bounded queue."""

from __future__ import annotations

import anyio
import pytest

from chatapi.errors import Busy
from chatapi.runtime.admission import Admission, Priority
from conftest import TIMEOUT, until

pytestmark = pytest.mark.anyio


async def test_full_queue_rejects_with_retry_after() -> None:
    admission = Admission("queue", slots=1, queue=1)
    async with admission.admitted(), anyio.create_task_group() as group:
        group.start_soon(admission.acquire)
        await until(lambda: admission.waiting == 1)
        with pytest.raises(Busy) as raised:
            await admission.acquire()
        assert raised.value.retry_after is not None
        assert raised.value.retry_after >= 1
        group.cancel_scope.cancel()
    assert (admission.used, admission.waiting) == (0, 0)


async def test_live_turn_is_admitted_before_earlier_requests() -> None:
    admission, order = Admission("queue", slots=1), list[str]()

    async def admit(name: str, priority: Priority) -> None:
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
                group.start_soon(admit, name, priority)
                await until(lambda number=number: admission.waiting == number + 1)
    assert order == ["live", "first", "second", "bulk"]


async def test_cancelled_wait_leaves_the_queue() -> None:
    admission = Admission("queue", slots=1)
    async with admission.admitted():
        with anyio.move_on_after(0.01):
            await admission.acquire()
        assert admission.waiting == 0
    assert admission.used == 0
    await admission.acquire()
    assert admission.used == 1


async def test_slot_given_to_a_request_cancelled_at_that_moment_is_released() -> None:
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


async def test_slot_is_reserved_for_a_live_session() -> None:
    admission = Admission("asr", slots=2)
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


async def test_only_slot_is_not_reserved() -> None:
    admission = Admission("asr", slots=1)
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


async def test_a_waiter_gets_the_reserved_slot_when_the_reservation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.runtime.admission.RESERVATION_SECONDS", 0.2)
    admission = Admission("asr", slots=2)
    await admission.acquire(Priority.BULK)
    admission.reserve_live()
    await anyio.sleep(0.1)
    # A second reservation prolongs the first.
    admission.reserve_live()
    with anyio.fail_after(TIMEOUT):
        await admission.acquire(Priority.BULK)
    assert admission.used == 2
