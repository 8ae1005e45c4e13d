"""Engines in child processes: the same results, and faults of native code that cost only the calls in flight."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import psutil
import pytest

import fragile_engine
from chatapi.audio import Audio
from chatapi.engines import PromptMessage, Sampling, Segment, Tool, Word, registry
from chatapi.engines.call import EngineCall
from chatapi.errors import Busy, EngineFailed, NotFound, NotReady
from chatapi.events import ToolCall
from chatapi.runtime import rebuild_limit
from chatapi.runtime.admission import Priority
from chatapi.runtime.engine_errors import EngineFault
from chatapi.runtime.engine_process import WINDOW, ChosenEngine, EngineProcess
from chatapi.runtime.engine_threads import AHEAD
from chatapi.runtime.rebuild_limit import REBUILDS
from chatapi.runtime.workers import Preempted, Worker, YieldPolicy
from chatapi.settings import Settings
from conftest import TIMEOUT, until
from fake_plugins import plug_ins_in
from fragile_engine import FragileSettings, Measure

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(autouse=True)
def plugged_in(tmp_path: Path) -> Iterator[None]:
    """The role `fragile` is installed."""
    with pytest.MonkeyPatch.context() as patch:
        fragile_engine.install(plug_ins_in(tmp_path / "plugins", patch))
        yield
    registry.reset()


def fragile_settings(fault: str = "") -> Settings:
    return registry.tables.tables().tree(fragile=FragileSettings(fault=fault))


@asynccontextmanager
async def opened(slots: int = 1, step_seconds: float = TIMEOUT, idle_seconds: float = 0) -> AsyncIterator[Worker[Any]]:
    def load() -> EngineProcess:
        return EngineProcess(ChosenEngine("fragile", "native", [], slots), fragile_settings())

    worker: Worker[Any] = Worker("fragile", load, slots, step_seconds, idle_seconds)
    await worker.open()
    try:
        yield worker
    finally:
        await worker.aclose()


async def items(worker: Worker[Any], method: str, *arguments: Any) -> list[Any]:
    async with worker.stream(EngineCall(method, arguments)) as found:
        return [item async for item in found]


def gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


# Calls


async def test_engine_runs_in_another_process_and_declares_what_it_is() -> None:
    async with opened() as worker:
        assert worker.engine.process != os.getpid()
        assert worker.engine.shape == {"all": (1, 2)}
        assert await items(worker, "count", 3 * (AHEAD + WINDOW)) == list(range(3 * (AHEAD + WINDOW)))
        assert await worker.collect(EngineCall("count", (5,))) == [0, 1, 2, 3, 4]
        process = worker.engine.process
    assert gone(process)


SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", None, 1.5]}}}


VALUES: tuple[Any, ...] = (
    None,
    [True, 1, 1.5, "ä\ud800", b"\0\xff", b""],
    {1: -2.5, "key": ("a", ["b"])},
    frozenset({"top_p", "schema"}),
    Path("/models/a"),
    [PromptMessage("assistant", "", (ToolCall("1", "weather", "{}"),))],
    Sampling(logit_bias={7: 1.0}, schema=SCHEMA, tools=(Tool("weather", "Tells it.", SCHEMA),), stop_texts=("a",)),
    Segment("two words", 0.5, 1.5, -0.25, "en", (Word("two", 0.5, 1.0), Word("words", 1.0, 1.5))),
)


async def test_values_arrive_as_they_were() -> None:
    async with opened() as worker:
        for value in VALUES:
            assert await items(worker, "echo", value) == [value]


async def test_arrays_arrive_as_they_were_and_aligned() -> None:
    async with opened() as worker:
        for array in (np.arange(7, dtype=np.float32), np.zeros(0, np.float32), np.ones((2, 3), np.int16)[:, ::2]):
            [[_, found]] = await items(worker, "echo", [b"odd", array])
            assert found.dtype == array.dtype and np.array_equal(found, array) and found.flags.aligned
        [measure] = await items(worker, "echo", Measure("m", np.arange(3, dtype=np.float32)))
        assert (measure.name, measure.values.tolist()) == ("m", [0, 1, 2])
        samples = np.random.default_rng(0).normal(0, 0.1, 3_000_000).astype(np.float32)
        [audio] = await items(worker, "echo", Audio(samples, 16_000))
        assert np.array_equal(audio.samples, samples)


async def test_value_of_an_unknown_class_is_refused_and_the_next_call_works() -> None:
    async with opened() as worker:
        with pytest.raises(EngineFailed) as failed:
            await items(worker, "echo", object())
        assert isinstance(failed.value.__cause__, TypeError)
        with pytest.raises(EngineFailed):
            async with worker.stream(lambda engine, stop: iter(())) as found:
                _ = [item async for item in found]
        assert await items(worker, "echo", 1) == [1]
        assert worker.rebuilt == 0


async def test_errors_are_those_of_an_engine_on_threads(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as worker:
        with pytest.raises(NotFound) as caller:
            await items(worker, "fail", "caller")
        assert (caller.value.code, caller.value.details) == ("unknown_voice", {"voice": "x"})
        with pytest.raises(EngineFailed, match=r"^the voice is hoarse$"):
            await items(worker, "fail", "internal")
        # The log comes over a pipe of its own.
        await until(lambda: "of the voice" in caplog.text)
        with pytest.raises(EngineFailed) as fault:
            await items(worker, "fail", "library")
        assert fault.value.message == "the fragile engine failed; the log says why"
        await until(lambda: "secret.bin cannot be read" in caplog.text and "in fail" in caplog.text)
        assert worker.rebuilt == 0


async def test_log_of_the_child_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatapi")
    async with opened():
        await until(lambda: any(each.name == "chatapi.fragile" for each in caplog.records))
        [record] = [each for each in caplog.records if each.name == "chatapi.fragile"]
        assert record.getMessage() == "fragile engine loaded"
        assert vars(record)["number"] == 7 and vars(record)["key"] == "/"


async def test_as_many_calls_as_slots_run_at_once() -> None:
    async with opened(slots=2) as worker, anyio.create_task_group() as group:
        group.start_soon(items, worker, "think", TIMEOUT)
        await until(lambda: worker.admission.used == 1)
        assert await items(worker, "count", 3) == [0, 1, 2]
        group.cancel_scope.cancel()


# Bounds and cancellation


async def test_child_does_not_run_ahead_of_a_slow_reader() -> None:
    async with opened(slots=2) as worker, worker.stream(EngineCall[int]("count", (10**9,))) as numbers:
        assert await anext(numbers) == 0
        seen = -1
        while seen != (seen := (await items(worker, "state"))[0][0]):
            await anyio.sleep(0.1)
        # One more is ready in the child, and one on each thread.
        assert AHEAD <= seen <= AHEAD + WINDOW + 3


@pytest.mark.parametrize("method", ["count", "think"])
async def test_cancelled_call_stops_the_engine_at_its_next_step(method: str) -> None:
    async with opened() as worker:
        with anyio.move_on_after(0.1):
            await items(worker, method, 10**9)
        assert (await items(worker, "state"))[0][1]
        assert await items(worker, "echo", 1) == [1]
        assert worker.rebuilt == 0


async def test_live_work_preempts_a_probe_in_the_child() -> None:
    async with opened() as worker, anyio.create_task_group() as group:

        async def probe() -> None:
            call = EngineCall[str]("think", (TIMEOUT,))
            with pytest.raises((Busy, Preempted)):
                async with worker.stream(call, Priority.PROBE, YieldPolicy.RAISE) as found:
                    _ = [item async for item in found]

        group.start_soon(probe)
        await until(lambda: worker.admission.used == 1)
        assert await items(worker, "echo", 1) == [1]


async def test_engine_that_asks_stop_is_not_stuck() -> None:
    async with opened(step_seconds=2) as worker:
        assert await items(worker, "think", 4.0) == ["thought"]
        assert worker.rebuilt == 0


# Faults


async def test_crash_costs_only_the_calls_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as worker:
        process = worker.engine.process
        with pytest.raises(EngineFailed, match="SIGSEGV") as failed:
            await items(worker, "crash")
        assert failed.value.code == "engine_crashed"
        assert await items(worker, "count", 2) == [0, 1]
        assert worker.engine.process != process and gone(process)
        assert (worker.state, worker.rebuilt) == ("ready", 1)
    await until(lambda: any(getattr(record, "cause", "") == "SIGSEGV" for record in caplog.records))


async def test_engine_that_crashes_over_and_over_rests_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as worker:
        for _ in range(REBUILDS + 1):
            with pytest.raises(EngineFailed, match="SIGSEGV"):
                await items(worker, "crash")
        with pytest.raises(NotReady) as rests:
            await items(worker, "count", 1)
        assert rests.value.code == "engine_gone"
        assert 0 < worker.rebuild_delay <= rebuild_limit.CRASH_SECONDS
        monkeypatch.setattr(rebuild_limit, "CRASH_SECONDS", 0.0)
        assert await items(worker, "count", 1) == [0]


async def test_engine_that_dies_while_idle_costs_no_call() -> None:
    async with opened() as worker:
        os.kill(worker.engine.process, signal.SIGKILL)
        await until(lambda: worker.rebuilt == 1)
        assert await items(worker, "count", 2) == [0, 1]


async def test_stuck_child_is_killed_and_the_engine_rebuilt() -> None:
    async with opened(step_seconds=1) as worker:
        process = worker.engine.process
        with pytest.raises(EngineFailed) as failed:
            await items(worker, "hang")
        assert failed.value.code == "engine_stuck"
        await until(lambda: worker.state == "ready")
        assert gone(process)
        assert await items(worker, "count", 2) == [0, 1]


async def test_stuck_child_without_a_reader_is_killed() -> None:
    async with opened(step_seconds=1) as worker:
        process = worker.engine.process
        async with worker.stream(EngineCall[int]("hang")) as numbers:
            assert await anext(numbers) == 0
        await until(lambda: gone(process) and worker.state == "ready")
        assert (worker.rebuilt, worker.admission.used) == (1, 0)


async def test_idle_engine_ends_its_process_and_is_loaded_again() -> None:
    async with opened(idle_seconds=0.2) as worker:
        process = worker.engine.process
        await until(lambda: worker.state == "idle" and gone(process))
        assert worker.engine.shape == {"all": (1, 2)}
        assert await items(worker, "count", 1) == [0]
        assert worker.engine.process != process and worker.rebuilt == 0


@pytest.mark.parametrize(
    ("fault", "kind", "code"), [("raise", NotFound, "no_such_model"), ("crash", EngineFailed, "engine_crashed")]
)
async def test_fault_of_the_constructor_is_raised_by_open(fault: str, kind: type[Exception], code: str) -> None:
    before = children()
    worker: Worker[Any] = Worker(
        "fragile", lambda: EngineProcess(ChosenEngine("fragile", "native", [], 1), fragile_settings(fault))
    )
    with pytest.raises(kind) as raised:
        await worker.open()
    assert getattr(raised.value, "code", None) == code
    assert worker.state == "failed"
    await worker.aclose()
    assert children() == before


async def test_engine_that_crashes_while_it_is_loaded_again_is_not_tried_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults, loads = [""], []

    def load() -> EngineProcess:
        loads.append(faults[0])
        return EngineProcess(ChosenEngine("fragile", "native", [], 1), fragile_settings(faults[0]))

    worker: Worker[Any] = Worker("fragile", load)
    process = (await worker.open()).process
    faults[0] = "crash"
    os.kill(process, signal.SIGKILL)
    await until(lambda: len(loads) == 2 and worker.state == "idle")
    for _ in range(REBUILDS - 1):
        with pytest.raises(EngineFailed, match="crashed while it was loading") as failed:
            await items(worker, "count", 1)
        assert failed.value.code == "engine_crashed"
    for _ in range(3):
        with pytest.raises(NotReady):
            await items(worker, "count", 1)
    assert loads == ["", *["crash"] * REBUILDS]
    faults[0] = ""
    monkeypatch.setattr(rebuild_limit, "CRASH_SECONDS", 0.0)
    assert await items(worker, "count", 2) == [0, 1]
    await worker.aclose()


async def test_engine_killed_while_loading_costs_one_call() -> None:
    faults = ["hang", ""]
    worker: Worker[Any] = Worker(
        "fragile", lambda: EngineProcess(ChosenEngine("fragile", "native", [], 1), fragile_settings(faults.pop(0)))
    )

    async def killed() -> None:
        with pytest.raises(EngineFailed, match="SIGKILL"):
            await worker.open()

    before = children()
    async with anyio.create_task_group() as group:
        group.start_soon(killed)
        await until(lambda: len(children() - before) == 1)
        # As the kernel does where memory has run out.
        [process] = children() - before
        os.kill(process, signal.SIGKILL)
    assert await items(worker, "count", 2) == [0, 1]
    await worker.aclose()


async def test_engine_that_does_not_exist_is_a_fault() -> None:
    with pytest.raises((EngineFault, KeyError)):
        EngineProcess(ChosenEngine("no_role", "native", [], 1), fragile_settings())


def children() -> set[int]:
    """Engine processes of this one."""
    return {
        each.pid
        for each in psutil.Process().children()
        if each.status() != psutil.STATUS_ZOMBIE and "chatapi.runtime.engine_child" in each.cmdline()
    }


def test_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import os, signal, sys, time
        from chatapi.engines.call import EngineCall
        from chatapi.engines import never
        from chatapi.runtime.engine_process import ChosenEngine, EngineProcess
        from chatapi.settings import plugins
        host = EngineProcess(ChosenEngine("fragile", "native", [], 1), plugins.tables().tree())
        # It holds the Python lock of the child, so that only the kernel can end it.
        call = host.call(EngineCall("hang"), never)
        next(call)
        print(host.engine.process, flush=True)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    paths = os.pathsep.join(str(Path(each).resolve()) for each in sys.path)
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    process = int(run.stdout)
    anyio.run(until, lambda: gone(process))


def test_secrets_of_the_server_stay_in_the_server(fake_settings: Callable[..., Settings]) -> None:
    from chatapi.runtime.engine_process import _tree

    tree = _tree(fake_settings("server.api_key=sesame-open-now", "openai_upstream.api_key=upstream-key"))
    assert "sesame" not in str(tree)
    assert tree["openai_upstream"]["api_key"] == "upstream-key"
    assert type(fake_settings()).model_validate(tree).server.api_key is None
