"""Idle engines: unloaded, and loaded again for the next call."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from chatapi.engines import Stop
from chatapi.errors import EngineFailed, ModelError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker
from conftest import TIMEOUT, until

pytestmark = pytest.mark.anyio
IDLE_SECONDS = 0.5


class FakeEngine:
    """A fake engine that counts its instances and can fail to build."""

    alive = 0
    most = 0
    build_error: Exception | None = None

    def __init__(self) -> None:
        if self.build_error is not None:
            raise self.build_error
        self.languages = ("en", "de")
        FakeEngine.alive += 1
        FakeEngine.most = max(FakeEngine.most, FakeEngine.alive)

    def word(self) -> str:
        return "hello"

    def close(self) -> None:
        time.sleep(0.05)
        FakeEngine.alive -= 1


@pytest.fixture
async def worker() -> AsyncIterator[Worker[FakeEngine]]:
    """A worker whose engine is unloaded after IDLE_SECONDS."""
    FakeEngine.alive = FakeEngine.most = 0
    reports: list[str] = []
    worker = Worker("fake", FakeEngine, idle_seconds=IDLE_SECONDS, report=lambda what, _: reports.append(what))
    await worker.open()
    yield worker
    assert reports.count("unloaded") == worker.unloaded
    await worker.aclose()
    FakeEngine.build_error = None


async def test_idle_engine_is_unloaded_and_loaded_for_the_next_call(worker: Worker[FakeEngine]) -> None:
    await until(lambda: worker.state == "idle")
    await until(lambda: FakeEngine.alive == 0)
    assert worker.engine.languages == ("en", "de")
    assert await worker.call(lambda engine: engine.word()) == "hello"
    assert (worker.state, worker.unloaded, FakeEngine.alive) == ("ready", 1, 1)
    await until(lambda: worker.state == "idle")
    assert worker.unloaded == 2


async def test_an_engine_in_use_is_not_idle(worker: Worker[FakeEngine]) -> None:
    def slowly(engine: FakeEngine, _: Stop) -> Iterator[str]:
        time.sleep(0.8)
        yield engine.word()

    async with worker.stream(slowly) as words:
        assert [word async for word in words] == ["hello"]
    assert worker.state == "ready"
    pauses, used = [], time.monotonic()
    for _ in range(14):
        await anyio.sleep(0.05)
        pauses.append(time.monotonic() - used)
        used = time.monotonic()
        await worker.call(lambda engine: engine.word())
    # A busy machine may pause for longer.
    assert worker.unloaded == 0 or max(pauses) > IDLE_SECONDS


async def test_health_probes_do_not_prevent_unloading(worker: Worker[FakeEngine]) -> None:
    with anyio.fail_after(TIMEOUT):
        while worker.state == "ready":
            await worker.call(lambda engine: engine.word(), Priority.PROBE)
            await anyio.sleep(0.01)
    assert worker.unloaded == 1


async def test_concurrent_calls_load_the_engine_once(worker: Worker[FakeEngine]) -> None:
    await until(lambda: worker.state == "idle")
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(worker.call, lambda engine: engine.word())
    assert (FakeEngine.alive, FakeEngine.most) == (1, 1)
    await until(lambda: worker.admission.used == 0)


async def test_failed_load_is_reported_and_retried(worker: Worker[FakeEngine]) -> None:
    await until(lambda: worker.state == "idle")
    FakeEngine.build_error = ModelError("no memory is left")
    for _ in range(2):
        with pytest.raises(ModelError, match="no memory"):
            await worker.call(lambda engine: engine.word())
        assert (worker.state, worker.admission.used) == ("idle", 0)
    FakeEngine.build_error = OSError("gone")
    with pytest.raises(EngineFailed, match="could not be loaded again"):
        await worker.call(lambda engine: engine.word())
    FakeEngine.build_error = None
    assert await worker.call(lambda engine: engine.word()) == "hello"


async def test_call_cancelled_during_the_load_lets_the_engine_become_idle_again(worker: Worker[FakeEngine]) -> None:
    await until(lambda: worker.state == "idle")
    with anyio.move_on_after(0.001):
        await worker.call(lambda engine: engine.word())
    await until(lambda: worker.admission.used == 0 and FakeEngine.alive == 0 and worker.state == "idle")
    assert await worker.call(lambda engine: engine.word()) == "hello"


async def test_preload_loads_the_engine_before_a_call(worker: Worker[FakeEngine]) -> None:
    await until(lambda: worker.state == "idle" and FakeEngine.alive == 0)
    await anyio.sleep(0.01)
    worker.preload()
    worker.preload()
    await until(lambda: worker.state == "ready")
    assert (FakeEngine.alive, await worker.call(lambda engine: engine.word())) == (1, "hello")
