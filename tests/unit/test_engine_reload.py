"""Engines that cannot be loaded: the next call tries again, a bounded number of times; callers get the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from chatapi.errors import EngineFailed, ModelError, NotReady
from chatapi.runtime import rebuild_limit
from chatapi.runtime.rebuild_limit import REBUILDS
from chatapi.runtime.workers import Worker
from conftest import until

pytestmark = pytest.mark.anyio


class Fickle:
    """A fake engine whose constructor fails while `error` is set."""

    error: Exception | None = None
    built = 0

    def __init__(self) -> None:
        type(self).built += 1
        if self.error is not None:
            raise self.error
        self.languages = ("en",)

    def word(self) -> str:
        return "hello"


@pytest.fixture
async def worker() -> AsyncIterator[Worker[Fickle]]:
    """A worker whose engine is not loaded yet."""
    Fickle.built, Fickle.error = 0, None
    worker = Worker("fickle", Fickle, slots=2)
    yield worker
    await worker.aclose()


async def call(worker: Worker[Fickle]) -> str:
    return await worker.call(lambda engine: engine.word())


async def test_engine_on_demand_that_failed_is_loaded_by_the_next_call(worker: Worker[Fickle]) -> None:
    Fickle.error = ModelError("the model is damaged")
    with pytest.raises(ModelError, match="damaged"):
        await worker.open()
    assert worker.state == "failed"
    with pytest.raises(ModelError, match="damaged"):
        await call(worker)
    Fickle.error = None
    assert await call(worker) == "hello"
    assert (worker.state, worker.load_error, worker.rebuilt) == ("ready", None, 0)


@pytest.mark.parametrize("how", ["open", "call"])
async def test_engine_that_fails_too_often_is_left_alone_for_a_while(
    worker: Worker[Fickle], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fickle.error = ModelError("the model is damaged")
    with pytest.raises(ModelError):
        await worker.open()
    attempt = worker.open if how == "open" else lambda: call(worker)
    for _ in range(REBUILDS):
        with pytest.raises(ModelError):
            await attempt()
    for _ in range(3):
        with pytest.raises(NotReady, match="could not be loaded 4 times") as raised:
            await attempt()
    assert raised.value.code == "engine_gone"
    assert raised.value.retry_after == pytest.approx(rebuild_limit.CRASH_SECONDS, abs=5)
    assert (Fickle.built, worker.state) == (REBUILDS + 1, "failed")
    Fickle.error = None
    monkeypatch.setattr(rebuild_limit, "CRASH_SECONDS", 0.0)
    assert await call(worker) == "hello"


async def test_calls_that_wait_for_a_load_share_its_error(worker: Worker[Fickle]) -> None:
    Fickle.error = ModelError("the model is damaged")
    with pytest.raises(ModelError):
        await worker.open()
    errors = []

    async def attempt() -> None:
        try:
            await call(worker)
        except ModelError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(attempt)
    assert (len(errors), Fickle.built) == (2, 2)


async def test_error_of_a_library_is_not_told_to_callers(worker: Worker[Fickle]) -> None:
    Fickle.error = OSError("/root/secret.bin cannot be read")
    with pytest.raises(OSError, match="secret"):
        await worker.open()
    with pytest.raises(EngineFailed) as failed:
        await call(worker)
    assert failed.value.message == "the fickle engine could not be loaded again; the log says why"


async def test_failed_preload_counts_and_the_next_call_loads_the_engine() -> None:
    Fickle.built, Fickle.error = 0, None
    worker = Worker("fickle", Fickle, idle_seconds=0.05)
    await worker.open()
    await until(lambda: worker.state == "idle")
    Fickle.error = ModelError("no memory is left")
    for attempt in range(REBUILDS + 1):
        await until(lambda: worker.state == "idle")
        while Fickle.built < attempt + 2:
            # It loads nothing while the engine that was unloaded still closes.
            worker.preload()
            await anyio.sleep(0.005)
        await until(lambda: worker.state != "reloading")
    assert worker.state == "failed"
    worker.preload()
    await anyio.sleep(0.05)
    assert Fickle.built == REBUILDS + 2
    await worker.aclose()
