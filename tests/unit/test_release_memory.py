"""Memory that engines keep between calls, released while there are none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from chatapi.engines import Stop
from chatapi.runtime.workers import Worker
from chatapi.settings import Settings
from conftest import installed_model, until

piper = pytest.importorskip("piper")
from chatapi.engines.tts.piper import LOADED_VOICES, Piper  # noqa: E402
from test_piper import make_voice, synthesize  # noqa: E402

JOE = "en_US-joe-medium"


class FailingEngine:
    """A fake engine that fails to release its memory."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.calls: list[tuple[int, bool]] = []
        self.released = threading.Event()

    def times(self, _: Stop) -> Iterator[int]:
        yield len(self.calls)

    def release_memory(self, stop: Stop) -> None:
        self.calls.append((threading.get_ident(), stop()))
        self.released.set()
        raise MemoryError("not now")


@pytest.mark.anyio
async def test_memory_is_released_once_per_pause_on_the_engines_thread_and_errors_are_survived() -> None:
    worker = Worker("engine", FailingEngine)
    engine = await worker.open()
    try:
        for pause in range(2):
            async with worker.stream(FailingEngine.times) as items:
                assert [times async for times in items] == [pause]
            await until(engine.released.is_set)
            engine.released.clear()
            assert engine.calls == [(engine.thread, False)] * (pause + 1)
    finally:
        await worker.aclose()


def test_every_loaded_voice_releases_memory_unless_a_call_waits(tmp_path: Path) -> None:
    engine = Piper(Settings(), [make_voice(tmp_path, "anna"), make_voice(tmp_path, "crowd", speakers=2)])
    synthesize(engine, "Hello.", "crowd/person1")
    calls: list[bool] = []
    engine.release_memory(lambda: bool(calls.append(True)))
    assert len(calls) == LOADED_VOICES + 1
    engine.release_memory(lambda: bool(calls.append(True)) or True)
    assert len(calls) == LOADED_VOICES + 2
    assert len(synthesize(engine, "Hello.")) == 1


@pytest.mark.real
def test_the_memory_of_a_long_sentence_is_released() -> None:
    engine = Piper(Settings(), [installed_model(JOE)])
    synthesize(
        engine, "The museum that opens at nine and closes at six in the evening sells its tickets at the desk.", JOE
    )
    before = psutil.Process().memory_info().rss
    engine.release_memory()
    assert psutil.Process().memory_info().rss < before - 20e6
    assert synthesize(engine, "It goes on.", JOE)
