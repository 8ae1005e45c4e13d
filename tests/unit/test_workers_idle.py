"""Engines nobody uses: closed, and built again by the next who needs them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from chatapi.engines import Stop
from chatapi.errors import EngineFailed, ModelError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker
from conftest import until

pytestmark = pytest.mark.anyio


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
    worker = Worker("linguist", Linguist, idle_seconds=0.5, report=lambda what, _: told.append(what))
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
            await idler.call(lambda engine: engine.word(), Priority.PROBE)
            await anyio.sleep(0.01)
    assert idler.unloaded == 1


async def test_it_comes_back_once_for_many_and_never_beside_the_one_that_leaves(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(idler.call, lambda engine: engine.word())
    assert (Linguist.alive, Linguist.most) == (1, 1)
    await until(lambda: idler.admission.used == 0)


async def test_what_keeps_it_from_coming_back_is_told_and_tried_again(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    Linguist.refuses = ModelError("no memory is left")
    for _ in range(2):
        with pytest.raises(ModelError, match="no memory"):
            await idler.call(lambda engine: engine.word())
        assert (idler.state, idler.admission.used) == ("idle", 0)
    Linguist.refuses = OSError("gone")
    with pytest.raises(EngineFailed, match="could not be loaded again"):
        await idler.call(lambda engine: engine.word())
    Linguist.refuses = None
    assert await idler.call(lambda engine: engine.word()) == "hello"


async def test_who_leaves_while_it_comes_back_leaves_it_to_become_idle_again(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle")
    with anyio.move_on_after(0.001):
        await idler.call(lambda engine: engine.word())
    await until(lambda: idler.admission.used == 0 and Linguist.alive == 0 and idler.state == "idle")
    assert await idler.call(lambda engine: engine.word()) == "hello"


async def test_one_that_will_be_needed_soon_comes_back_before_it_is_asked(idler: Worker[Linguist]) -> None:
    await until(lambda: idler.state == "idle" and Linguist.alive == 0)
    await anyio.sleep(0.01)
    idler.preload()
    idler.preload()
    await until(lambda: idler.state == "ready")
    assert (Linguist.alive, await idler.call(lambda engine: engine.word())) == (1, "hello")
