"""Models swapped by a change of settings: what is rejected before, what turns get, and what is reported afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import reading_engine
from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.catalog import Catalog
from chatapi.engines import registry
from chatapi.errors import ModelError, NotReady, SettingsError, StorageError
from chatapi.events import Speech, TextDelta, TurnEnded
from chatapi.runtime.model_selection import PROCESS
from chatapi.services.live import SessionOptions
from chatapi.services.turns.completion import Turn
from chatapi.setting_changes import SettingChanges
from chatapi.storage import atomic_files, setting_overrides
from chatapi.system import memory
from conftest import FAKE_ENGINES, serving, until
from engine_processes import engine_processes
from fake_plugins import plug_ins_in
from reading_engine import Reader, add_model

pytestmark = pytest.mark.anyio
TIGHT, AMPLE = 1500, 1 << 40


@pytest.fixture(autouse=True)
def plugged_in(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        reading_engine.install(plug_ins_in(tmp_path / "plugins", patch))
        yield
    registry.reset()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with the models `one` and `two`."""
    add_model(tmp_path / "data", "one", "uno")
    add_model(tmp_path / "data", "two", "due")
    return tmp_path / "data"


def sources(data: Path, *more: str) -> settings.Loaded:
    chosen = ("llm.engine=reading", "llm.model=one", *more)
    environ = {
        f"CHATAPI_{key.replace('.', '_').upper()}": value
        for key, _, value in (each.partition("=") for each in (*FAKE_ENGINES, *chosen))
    }
    return setting_overrides.applied(settings.load(environ={**environ, "CHATAPI_DATA": str(data)}))


@asynccontextmanager
async def changing(data: Path, *more: str) -> AsyncIterator[tuple[Appliance, SettingChanges]]:
    loaded = sources(data, *more)
    async with Appliance(loaded.settings).running() as appliance:
        await appliance.load()
        yield appliance, SettingChanges(appliance, loaded)
    assert Reader.alive == 0


async def said(appliance: Appliance) -> str:
    """The word of an answer, all of whose words are the same."""
    async with appliance.completions.run(Turn(prompt="hello")) as events:
        text = "".join([event.text async for event in events if isinstance(event, TextDelta)])
    [word] = {each.strip(".") for each in text.split()}
    return word


def stored(data: Path) -> str:
    file = data / "overrides.toml"
    return file.read_text() if file.exists() else ""


async def test_new_model_answers_and_every_part_names_it(data: Path) -> None:
    with serving(sources(data).settings) as server:
        before = server.client.get("/health").json()["engines"]["llm"]
        assert before == {"state": "ready", "rebuilt": 0, "model": "one"}
        changed = server.client.patch("/settings", json={"llm": {"model": "two"}})
        assert (changed.status_code, changed.json()["active"]) == (200, ["llm.model"])
        assert server.client.get("/health").json()["engines"]["llm"] == {**before, "model": "two"}
        models = server.client.get("/models").json()["models"]
        assert [each["name"] for each in models if each["active"]] == ["two"]
        shown = server.client.get("/settings").json()["settings"]["llm.model"]
        assert shown == {"value": "two", "from": "override", "changes": "live", "pending": False}
        assert 'chatapi_engine_model{engine="llm",model="two"} 1.0' in server.client.get("/metrics").text
        assert server.client.post("/completion", json={"prompt": "hello"}).json()["reply"].startswith("due due.")
        assert server.client.get("/v1/models").json()["data"][0]["id"] == "two"
    async with changing(data) as (appliance, changes):
        assert await said(appliance) == "due"
        appliance.generator.omits_reasoning_marker = True
        await changes.apply({"llm.model": None})
        # What is known of one model's thoughts is not true of another.
        assert not appliance.generator.omits_reasoning_marker
        assert (await said(appliance), appliance.active["llm"]) == ("uno", "one")


REJECTED: tuple[tuple[dict[str, str], str, str], ...] = (
    ({"model": "three"}, "model_missing", "install it with: chatapi models fetch three"),
    ({"model": "tow"}, "unknown_model", "did you mean two?"),
    ({"model": "whisper-tiny.en"}, "model_fault", "is a model for asr on whisper_cpp, not for llm on reading"),
    ({"engine": "nothing"}, "invalid_value", "it can be one of: "),
    ({"engine": "llama_cpp", "model": "two"}, "model_fault", "not for llm on llama_cpp"),
    ({"model": "large"}, "model_too_large", "choose a smaller one"),
    ({"model": "bad"}, "model_damaged", "one stays in use"),
)
"""Settings of the LLM, the code of the error and words of it."""


async def test_model_that_cannot_be_used_is_named_and_changes_nothing(data: Path) -> None:
    add_model(data, "three", "tre", fetch=False)
    add_model(data, "large", "grande", memory=1 << 50)
    add_model(data, "bad", "broken")
    with serving(sources(data).settings) as server:
        for change, code, words in REJECTED:
            rejected = server.client.patch("/settings", json={"llm": {**change, "max_tokens": 3}})
            assert (rejected.status_code, rejected.json()["code"]) == (422, code), rejected.text
            assert words in rejected.json()["detail"] and rejected.json()["param"].startswith("llm")
            assert server.client.get("/health").json()["engines"]["llm"]["model"] == "one"
            assert server.client.get("/settings").json()["settings"]["llm.max_tokens"]["value"] == 200
            assert server.client.post("/completion", json={"prompt": "hello"}).json()["reply"].startswith("uno uno.")
    assert not stored(data)


async def test_turn_in_flight_ends_on_the_model_that_it_began_with(data: Path) -> None:
    async with changing(data, "fake.delay=0.02") as (appliance, changes):
        async with appliance.completions.run(Turn(prompt="hello")) as events:
            found = [await anext(event async for event in events if isinstance(event, TextDelta))]
            await changes.apply({"llm.model": "two"})
            assert await said(appliance) == "due"
            found += [event async for event in events if isinstance(event, TextDelta)]
        assert "".join(each.text for each in found).split()[-1] == "uno."


@pytest.mark.parametrize(("free", "most"), [(AMPLE, 2), (TIGHT, 2), (500, 1)])
async def test_model_is_loaded_beside_the_old_one_only_where_both_fit(data: Path, free: int, most: int) -> None:
    async with changing(data) as (appliance, changes):
        appliance.swaps.available = lambda: free
        async with anyio.create_task_group() as group:
            group.start_soon(changes.apply, {"llm.model": "two"})
            assert {await said(appliance) for _ in range(5)} <= {"uno", "due"}
        assert (await said(appliance), Reader.most) == ("due", most)


@pytest.mark.parametrize(("free", "expected"), [(AMPLE, 1000), (500, 0)])
async def test_memory_of_the_old_model_counts_as_free_for_the_new_one(data: Path, free: int, expected: int) -> None:
    async with changing(data) as (appliance, changes):
        appliance.swaps.available = lambda: free
        await changes.apply({"llm.model": "two"})
        assert appliance.engines.llm.engine.context == 4096 + expected
        assert memory.expected() == 0


async def test_memory_of_the_old_process_counts_as_free_for_the_new_one(data: Path) -> None:
    async with changing(data, "llm.worker=process") as (appliance, changes):
        appliance.swaps.available = lambda: AMPLE
        await changes.apply({"llm.model": "two"})
        assert appliance.engines.llm.engine.context == 4096 + 1000 + PROCESS


async def test_model_that_fails_without_memory_for_two_brings_the_old_one_back(data: Path) -> None:
    add_model(data, "bad", "broken")
    async with changing(data) as (appliance, changes):
        appliance.swaps.available = lambda: 500
        with pytest.raises(
            SettingsError, match=r"llm.model: bad could not be loaded \(bad cannot be read\); one stays in use"
        ):
            await changes.apply({"llm.model": "bad"})
        assert (await said(appliance), appliance.active["llm"], Reader.most) == ("uno", "one", 1)
        assert appliance.health()["status"] == "ok" and not stored(data)


async def test_one_of_two_models_that_fails_takes_the_other_one_back(data: Path) -> None:
    add_model(data, "bad", "broken")
    async with changing(data) as (appliance, changes):
        with pytest.raises(SettingsError, match="bad could not be loaded"):
            await changes.apply({"tts.engine": "humming", "llm.model": "bad", "asr.worker": "process"})
        assert appliance.settings.tts.engine == "fake" and appliance.synthesis.voices()[0].name == "fake"
        await until(lambda: engine_processes() == {})
        await changes.apply({"tts.engine": "humming"})
        assert appliance.synthesis.voices()[0].name == "hum"


async def test_change_that_cannot_be_stored_takes_the_model_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    async with changing(data) as (appliance, changes):
        with monkeypatch.context() as patch:
            patch.setattr(atomic_files, "write_whole", full)
            with pytest.raises(StorageError):
                await changes.apply({"llm.model": "two"})
        assert (await said(appliance), appliance.settings.llm.model) == ("uno", "one")
        await changes.apply({"llm.model": "two"})
        assert await said(appliance) == "due"


async def test_voice_of_an_answer_may_be_swapped_meanwhile(data: Path) -> None:
    async with changing(data, "fake.delay=0.05") as (appliance, changes):
        async with appliance.completions.run(Turn(prompt="hello", speak=True)) as events:
            speech = []
            async for event in events:
                if isinstance(event, Speech):
                    if not speech:
                        await changes.apply({"tts.engine": "humming"})
                    speech.append(event)
                last = event
        assert isinstance(last, TurnEnded) and last.finish_reason == "stop"
        assert {each.audio.rate for each in speech} == {16_000} and sum(each.audio.seconds for each in speech[1:]) > 0.9


async def test_live_session_goes_on_where_its_voice_is_gone(data: Path) -> None:
    async with changing(data) as (appliance, changes):
        options = SessionOptions(voice=appliance.synthesis.voices()[-1].name)
        async with appliance.live.session(options) as (session, events):
            await changes.apply({"tts.engine": "humming"})
            await session.respond("hello")
            found = []
            with anyio.fail_after(20):
                while not found or not isinstance(found[-1], TurnEnded):
                    found.append(await events.receive())
    assert found[-1].finish_reason == "stop" and any(isinstance(event, Speech) for event in found)


@pytest.mark.slow
async def test_engine_moves_to_a_child_process_and_back(data: Path) -> None:
    add_model(data, "bad", "crash")
    async with changing(data) as (appliance, changes):
        await changes.apply({"llm.worker": "process"})
        assert (set(engine_processes()), await said(appliance)) == ({"llm"}, "uno")
        with pytest.raises(SettingsError, match=r"crashed while it was loading \(SIGSEGV\)\); one stays in use"):
            await changes.apply({"llm.model": "bad"})
        appliance.swaps.available = lambda: 500
        with pytest.raises(SettingsError, match="one stays in use"):
            await changes.apply({"llm.model": "bad"})
        await changes.apply({"llm.model": "two"})
        assert (set(engine_processes()), await said(appliance)) == ({"llm"}, "due")
        os.kill(engine_processes()["llm"].pid, signal.SIGKILL)
        await until(lambda: appliance.engines.llm.rebuilt == 1 and appliance.engines.llm.state == "ready")
        assert await said(appliance) == "due"
        await changes.apply({"llm.worker": "thread"})
        await until(lambda: engine_processes() == {})
        assert await said(appliance) == "due"


async def test_engine_that_is_not_loaded_yet_is_only_chosen(data: Path) -> None:
    async with changing(data) as (appliance, changes):
        worker = appliance.engines.turn_detection
        await changes.apply({"turn_detection.worker": "process"})
        assert (worker.state, appliance.settings.turn_detection.worker) == ("idle", "process")


async def test_models_are_not_swapped_while_they_are_loaded_for_the_first_time(data: Path) -> None:
    loaded = sources(data)
    async with Appliance(loaded.settings).running() as appliance:
        changes = SettingChanges(appliance, loaded)
        Reader.held_back = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(appliance.load)
            try:
                await until(lambda: appliance.engines.llm.state == "loading")
                with pytest.raises(NotReady):
                    await changes.apply({"llm.model": "two"})
            finally:
                Reader.held_back.set()
        await changes.apply({"llm.model": "two"})
        assert await said(appliance) == "due"


async def test_damaged_model_is_named_and_works_once_it_is_repaired(data: Path) -> None:
    add_model(data, "six", "seisei")
    async with changing(data, "llm.model=six", "llm.idle_seconds=0.1") as (appliance, _):
        await until(lambda: appliance.engines.llm.state == "idle")
        # As many bytes as before.
        (data / "models" / "six" / "text").write_text("broken")
        # A load in the background, which the turn begins, may have failed before its call loads the model again.
        with pytest.raises(ModelError, match=r"six cannot be read|repair it with"):
            await said(appliance)
        with pytest.raises(ModelError, match="repair it with: chatapi models fetch six"):
            await said(appliance)
        Catalog(data).fetch("six")
        assert await said(appliance) == "seisei"
