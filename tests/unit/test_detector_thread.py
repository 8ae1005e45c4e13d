"""The detectors' thread: order, bounds, cancelled, failing and stuck calls, and live sessions that use it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.engines import VAD_FRAME
from chatapi.errors import EngineFailed
from chatapi.runtime import detector_thread
from chatapi.runtime.detector_thread import MOST_STUCK, PIECE_FRAMES, DetectorStream, DetectorThread
from chatapi.services.live import SessionOptions
from conftest import RunAppliance, tone, until

pytestmark = pytest.mark.anyio


class Recorder:
    """A detector's stream that records what it gets; the probability is the sum so far, so its order counts."""

    def __init__(self, log: list[tuple[object, float]] | None = None) -> None:
        self.log = [] if log is None else log
        self.total = 0.0
        self.threads: set[int] = set()

    def probability(self, samples: Samples) -> float:
        self.threads.add(threading.get_ident())
        self.total = self.total / 2 + float(samples[0])
        self.log.append((self, float(samples[0])))
        return self.total


class Gate(Recorder):
    """Waits in each frame until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def probability(self, samples: Samples) -> float:
        self.entered.set()
        assert self.opened.wait(30)
        return super().probability(samples)


def frames(count: int, seed: int = 0) -> list[Samples]:
    return list(np.random.default_rng(seed).random((count, VAD_FRAME), np.float32))


def judged_here(blocks: list[Samples]) -> list[float]:
    recorder = Recorder()
    return [recorder.probability(block) for block in blocks]


@contextmanager
def opened(gate: Gate) -> Iterator[None]:
    """Opens the gate in the end, so that no thread is left behind."""
    try:
        yield
    finally:
        gate.opened.set()


async def test_many_streams_keep_their_order_and_do_not_mix() -> None:
    thread = DetectorThread()
    found: dict[int, list[float]] = {number: [] for number in range(16)}
    recorders = [Recorder() for _ in found]

    async def judge(number: int) -> None:
        stream = DetectorStream(recorders[number], thread)
        audio = frames(60, number)
        at = 0
        while at < len(audio):
            size = 1 + (number + at) % 11
            found[number] += await stream.probabilities(audio[at : at + size])
            at += size

    async with anyio.create_task_group() as group:
        for number in found:
            group.start_soon(judge, number)
    assert found == {number: judged_here(frames(60, number)) for number in found}
    used = set.union(*(each.threads for each in recorders))
    assert len(used) == 1 and threading.get_ident() not in used


async def test_event_loop_goes_on_while_a_detector_computes() -> None:
    thread, gate = DetectorThread(), Gate()
    with opened(gate):
        async with anyio.create_task_group() as group:
            group.start_soon(DetectorStream(gate, thread).probabilities, frames(1))
            # This task only gets to open the gate if the loop does not wait for the detector.
            await until(gate.entered.is_set)
            gate.opened.set()
    assert len(gate.log) == 1


async def test_short_block_does_not_wait_for_a_long_one() -> None:
    thread, log, order = DetectorThread(), list[tuple[object, float]](), list[str]()
    long, short = DetectorStream(Recorder(log), thread), DetectorStream(Recorder(log), thread)

    async def judge(name: str, stream: DetectorStream, count: int) -> None:
        await stream.probabilities(frames(count))
        order.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(judge, "long", long, 20 * PIECE_FRAMES)
        group.start_soon(judge, "short", short, 1)
    assert order == ["short", "long"]
    assert len(log) == 20 * PIECE_FRAMES + 1


async def test_reader_waits_for_its_frames_and_queues_one_piece() -> None:
    thread, gate = DetectorThread(), Gate()
    stream, received = DetectorStream(gate, thread), 0

    async def read() -> None:
        nonlocal received
        for _ in range(5):
            await stream.probabilities(frames(10 * PIECE_FRAMES))
            received += 1

    with opened(gate):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(gate.entered.is_set)
            await anyio.wait_all_tasks_blocked()
            assert (received, thread.waiting) == (0, 0)
            gate.opened.set()
    assert received == 5 and len(gate.log) == 50 * PIECE_FRAMES


async def test_cancelled_call_that_waits_does_not_run() -> None:
    thread, gate, recorder = DetectorThread(), Gate(), Recorder()
    with opened(gate):
        async with anyio.create_task_group() as group:
            group.start_soon(DetectorStream(gate, thread).probabilities, frames(1))
            await until(gate.entered.is_set)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(DetectorStream(recorder, thread).probabilities, frames(1))
                    await anyio.wait_all_tasks_blocked()
                    assert thread.waiting == 1
                    scope.cancel()
            gate.opened.set()
    assert await DetectorStream(Recorder(), thread).probabilities(frames(2)) == judged_here(frames(2))
    assert recorder.log == [] and thread.waiting == 0


async def test_stream_goes_on_after_its_caller_was_cancelled_while_it_computed() -> None:
    thread, gate = DetectorThread(), Gate()
    stream = DetectorStream(gate, thread)
    with opened(gate):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(stream.probabilities, frames(1))
                await until(gate.entered.is_set)
                scope.cancel()
        gate.opened.set()
        # The frame that was being judged counts; the next one comes after it.
        assert await stream.probabilities(frames(3)[1:]) == judged_here(frames(3))[1:]


async def test_error_of_a_detector_reaches_its_caller_only() -> None:
    class Failing(Recorder):
        def probability(self, samples: Samples) -> float:
            raise EngineFailed("it broke")

    thread = DetectorThread()
    with pytest.raises(EngineFailed, match="it broke"):
        await DetectorStream(Failing(), thread).probabilities(frames(1))
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 / 0)
    assert await DetectorStream(Recorder(), thread).probabilities(frames(20)) == judged_here(frames(20))
    assert thread.stuck == 0


async def test_stuck_thread_is_replaced_and_the_other_streams_go_on() -> None:
    thread, gate = DetectorThread(stuck_seconds=0.2), Gate()
    stuck = DetectorStream(gate, thread)
    with opened(gate):
        async with anyio.create_task_group() as group:

            async def hang() -> None:
                with pytest.raises(EngineFailed, match=r"no progress for 0\.2 seconds") as raised:
                    await stuck.probabilities(frames(1))
                assert raised.value.code == "engine_stuck"

            group.start_soon(hang)
            await until(gate.entered.is_set)
            assert await DetectorStream(Recorder(), thread).probabilities(frames(20)) == judged_here(frames(20))
        assert thread.stuck == 1
        with pytest.raises(EngineFailed, match="the detector of this stream is stuck"):
            await stuck.probabilities(frames(1))
        gate.opened.set()
        await until(lambda: thread.stuck == 0)
    assert len(await stuck.probabilities(frames(3))) == 3


async def test_too_many_stuck_threads_fail_calls_until_one_returns() -> None:
    thread, gates = DetectorThread(stuck_seconds=0.05), [Gate() for _ in range(MOST_STUCK + 1)]
    for gate in gates:
        with pytest.raises(EngineFailed):
            await DetectorStream(gate, thread).probabilities(frames(1))
    assert thread.stuck == len(gates)
    with pytest.raises(EngineFailed, match="no progress"):
        await DetectorStream(Recorder(), thread).probabilities(frames(1))
    for gate in gates:
        gate.opened.set()
    await until(lambda: thread.stuck == 0)
    assert await DetectorStream(Recorder(), thread).probabilities(frames(1)) == judged_here(frames(1))


# Live sessions


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> DetectorThread:
    """A thread of this test alone, in place of that of the process."""
    found = DetectorThread()
    monkeypatch.setattr(detector_thread, "shared", found)
    return found


def detected_by(monkeypatch: pytest.MonkeyPatch, appliance: Any, make: Callable[[], Recorder]) -> None:
    monkeypatch.setattr(appliance.engines.vad.engine, "stream", make)


@asynccontextmanager
async def session_of(appliance: Any) -> AsyncIterator[Any]:
    async with appliance.live.session(SessionOptions(detect=False, answer=False, partials=False)) as (session, _):
        yield session


def detector_threads() -> set[int | None]:
    return {each.ident for each in threading.enumerate() if each.name == "detectors"}


async def test_closed_sessions_leave_no_thread_and_no_call(
    fake_appliance: RunAppliance, thread: DetectorThread
) -> None:
    async with fake_appliance() as appliance:
        async with session_of(appliance) as session:
            await session.feed(tone(0.5))
        before = detector_threads()
        for _ in range(20):
            async with anyio.create_task_group() as group, session_of(appliance) as session:
                group.start_soon(session.feed, tone(0.5))
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        assert detector_threads() == before
        await thread.run(lambda: None)
        assert thread.waiting == 0


async def test_session_closes_while_its_detector_computes(
    fake_appliance: RunAppliance, thread: DetectorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with fake_appliance() as appliance:
        with opened(gate):
            detected_by(monkeypatch, appliance, lambda: gate)
            async with anyio.create_task_group() as group:
                async with session_of(appliance) as session:
                    group.start_soon(session.feed, tone(0.5))
                    await until(gate.entered.is_set)
                    group.cancel_scope.cancel()
            assert appliance.live.sessions == 0
        await thread.run(lambda: None)
        assert len(gate.log) <= PIECE_FRAMES


async def test_error_of_the_detector_ends_the_feed(
    fake_appliance: RunAppliance, thread: DetectorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Recorder):
        def probability(self, samples: Samples) -> float:
            raise EngineFailed("Silero VAD failed; the log says why")

    async with fake_appliance() as appliance:
        detected_by(monkeypatch, appliance, Failing)
        with pytest.raises(EngineFailed, match="Silero VAD failed"):
            async with session_of(appliance) as session:
                await session.feed(tone(0.5))
        assert appliance.live.sessions == 0


async def test_committed_turn_has_the_samples_that_are_still_judged(
    fake_appliance: RunAppliance, thread: DetectorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with fake_appliance() as appliance:
        with opened(gate):
            detected_by(monkeypatch, appliance, lambda: gate)
            async with session_of(appliance) as session:
                async with anyio.create_task_group() as group:
                    group.start_soon(session.feed, np.concatenate([tone(0.8), np.zeros(RATE // 5, np.float32)]))
                    await until(gate.entered.is_set)
                    committed: list[bool] = []

                    async def commit() -> None:
                        committed.append(await session.commit())

                    group.start_soon(commit)
                    await anyio.wait_all_tasks_blocked()
                    assert committed == []
                    gate.opened.set()
                assert committed == [True]
                assert session.pending and session.seconds == pytest.approx(1.0, abs=VAD_FRAME / RATE)
