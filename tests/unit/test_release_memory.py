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
from test_piper import spoken, voice  # noqa: E402

JOE = "en_US-joe-medium"


class Keeper:
    """Fails to give its memory back."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.asked: list[tuple[int, bool]] = []
        self.gave_back = threading.Event()

    def times(self, _: Stop) -> Iterator[int]:
        yield len(self.asked)

    def release_memory(self, stop: Stop) -> None:
        self.asked.append((threading.get_ident(), stop()))
        self.gave_back.set()
        raise MemoryError("not now")


@pytest.mark.anyio
async def test_memory_is_released_once_per_pause_on_the_engines_thread_and_errors_are_survived() -> None:
    worker = Worker("keeper", Keeper)
    engine = await worker.open()
    try:
        for pause in range(2):
            async with worker.stream(Keeper.times) as items:
                assert [times async for times in items] == [pause]
            await until(engine.gave_back.is_set)
            engine.gave_back.clear()
            assert engine.asked == [(engine.thread, False)] * (pause + 1)
    finally:
        await worker.aclose()


def test_every_loaded_voice_releases_memory_unless_a_call_waits(tmp_path: Path) -> None:
    engine = Piper(Settings(), [voice(tmp_path, "anna"), voice(tmp_path, "crowd", speakers=2)])
    spoken(engine, "Hello.", "crowd/person1")
    asked: list[bool] = []
    engine.release_memory(lambda: bool(asked.append(True)))
    assert len(asked) == LOADED_VOICES + 1
    engine.release_memory(lambda: bool(asked.append(True)) or True)
    assert len(asked) == LOADED_VOICES + 2
    assert len(spoken(engine, "Hello.")) == 1


@pytest.mark.real
def test_the_memory_of_a_long_sentence_is_released() -> None:
    engine = Piper(Settings(), [installed_model(JOE)])
    spoken(engine, "The museum that opens at nine and closes at six in the evening sells its tickets at the desk.", JOE)
    before = psutil.Process().memory_info().rss
    engine.release_memory()
    assert psutil.Process().memory_info().rss < before - 20e6
    assert spoken(engine, "It goes on.", JOE)
