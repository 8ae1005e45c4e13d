"""The memory plan: models that fit together, the order they load in, and errors when they do not fit."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio
from chatapi.catalog import Catalog
from chatapi.engines import registry
from chatapi.errors import ModelError
from chatapi.runtime import model_selection
from chatapi.services.turns.completion import Turn
from chatapi.system import jetson as board
from conftest import DEFAULTS, MODELS, TIMEOUT, RunAppliance, answer, encode_audio, installed_model, until
from fake_jetson import ORIN_NX, write_files

MB = 1_000_000
CATALOG_MODELS = {
    "asr-small": ("asr", "whisper_cpp", 200, 10),
    "asr-large": ("asr", "whisper_cpp", 900, 40),
    "llm-small": ("llm", "llama_cpp", 300, 10),
    "llm-middle": ("llm", "llama_cpp", 2000, 30),
    "llm-large": ("llm", "llama_cpp", 5000, 60),
    "voice": ("tts", "piper", 250, 50),
}
"""Name to role, engine, size in MB and quality."""


@pytest.fixture
def make_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Catalog]:
    """Returns a catalog whose models, except `missing`, are installed as files of one byte."""

    def make(*missing: str) -> Catalog:
        data = tmp_path / "data"
        (data / "manifests").mkdir(parents=True)
        for name, (role, engine, size, quality) in CATALOG_MODELS.items():
            (data / "manifests" / f"{name}.toml").write_text(
                f'name = "{name}"\nrole = "{role}"\nengine = "{engine}"\ntitle = "t"\nlicence = "MIT"\n'
                f'homepage = "h"\nlanguages = ["en"]\nmemory = {size * MB}\nquality = {quality}\n'
                '[files."w.bin"]\nsize = 1\n[[sources]]\nkind = "url"\nfiles = { "w.bin" = "https://x.example/w" }\n'
            )
            if name not in missing:
                folder = data / "models" / name
                folder.mkdir(parents=True)
                (folder / "w.bin").write_bytes(b"x")
                (folder / "record.json").write_text(json.dumps({"files": {"w.bin": {"size": 1, "sha256": "0" * 64}}}))
        monkeypatch.setattr("chatapi.catalog.SHIPPED", (data / "manifests",))
        return Catalog(data)

    return make


def machine_with(root: Path, free: int, swap: int = 0, **more: str) -> Path:
    """The files of a machine with this free memory and swap, in MB."""
    meminfo = f"MemTotal: 99999999 kB\nMemAvailable: {free * MB // 1024} kB\nSwapFree: {swap * MB // 1024} kB\n"
    return write_files(root / "machine", {"proc/meminfo": meminfo, **more})


def jetson(root: Path, free: int, swap: int = 0) -> Path:
    tree = {name: text for name, text in ORIN_NX.items() if name.startswith("proc/device-tree")}
    return machine_with(root, free, swap, **tree)


ROLES = ("asr", "llm", "tts")


def planned(catalog: Catalog, root: Path, *chosen: str) -> model_selection.MemoryPlan:
    chosen = ("llm.engine=llama_cpp", "asr.engine=whisper_cpp", *chosen)
    return model_selection.plan(catalog, settings.load(chosen, environ={}).settings, ROLES, root)


def names(plan: model_selection.MemoryPlan) -> dict[str, str]:
    return {role: each.name for role, each in plan.models.items()}


@pytest.mark.parametrize(
    ("free", "llm", "asr"),
    [(20_000, "llm-large", "asr-large"), (6000, "llm-large", "asr-small"), (2600, "llm-middle", "asr-small"),
     (1500, "llm-small", "asr-large"), (800, "llm-small", "asr-small")],
)  # fmt: skip
def test_best_models_that_fit_together_are_selected(
    make_catalog: Callable[..., Catalog], tmp_path: Path, free: int, llm: str, asr: str
) -> None:
    found = planned(make_catalog(), machine_with(tmp_path, free))
    assert names(found) == {"llm": llm, "asr": asr, "tts": "voice"}
    assert found.needed <= found.free


def test_models_load_in_parallel_with_enough_memory_and_otherwise_one_by_one(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    catalog = make_catalog()
    small = ("llm.model=llm-small", "asr.model=asr-small")
    assert not planned(catalog, machine_with(tmp_path, 1501), *small).one_by_one
    assert planned(catalog, machine_with(tmp_path, 1499), *small).one_by_one


def test_jetson_loads_one_by_one_the_largest_model_first(make_catalog: Callable[..., Catalog], tmp_path: Path) -> None:
    found = planned(make_catalog(), jetson(tmp_path, 50_000))
    assert found.one_by_one
    assert found.order(("vad", *ROLES)) == ["llm", "asr", "tts", "vad"]


def test_model_that_cannot_fit_is_rejected_with_one_that_would(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    chosen = ("llm.model=llm-large", "asr.model=asr-small")
    with pytest.raises(ModelError) as raised:
        planned(make_catalog("llm-middle"), jetson(tmp_path, 3000, swap=9000), *chosen)
    assert raised.value.code == "model_too_large"
    assert raised.value.message == (
        "the models need 5.5 GB and 3.0 GB are free (llm llm-large 5.0 GB, tts voice 0.2 GB, asr asr-small 0.2 GB); "
        "llm-small (0.3 GB) would fit: set llm.model=llm-small"
    )


def test_model_to_fetch_is_suggested_when_no_installed_one_fits(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    catalog = make_catalog("llm-middle", "llm-small")
    with pytest.raises(ModelError, match=r"llm.model=llm-middle after `chatapi models fetch llm-middle`"):
        planned(catalog, jetson(tmp_path, 3000))


def test_error_suggests_ending_programs_when_no_model_fits(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="end other programs"):
        planned(make_catalog(), jetson(tmp_path, 100))


def test_swap_counts_where_the_gpu_does_not_share_the_memory(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    found = planned(
        make_catalog(), machine_with(tmp_path, 3000, swap=9000), "llm.model=llm-large", "asr.model=asr-small"
    )
    assert (names(found)["llm"], found.one_by_one) == ("llm-large", True)


def test_missing_model_names_the_command_that_fetches_it(make_catalog: Callable[..., Catalog], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chatapi models fetch voice"):
        planned(make_catalog("voice"), machine_with(tmp_path, 9000))


@pytest.mark.parametrize(
    ("group", "folder", "expected"),
    [("/", "", 700), ("/system.slice/chatapi.service", "system.slice/", 700), ("/a/b", "", 700), ("/a", "b/", 8000)],
)
def test_limit_of_the_control_group_reduces_the_free_memory(
    tmp_path: Path, group: str, folder: str, expected: int
) -> None:
    files = {
        f"sys/fs/cgroup/{folder}memory.max": f"{1000 * MB}\n",
        f"sys/fs/cgroup/{folder}memory.current": f"{500 * MB}\n",
        f"sys/fs/cgroup/{folder}memory.stat": f"anon 1\ninactive_file {200 * MB}\n",
        "proc/self/cgroup": f"0::{group}\n",
    }
    found = board.available(machine_with(tmp_path, 8000, **files))
    assert found == pytest.approx(expected * MB, rel=1e-3)


def test_control_group_without_a_limit_allows_all_free_memory(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "7\n", "proc/self/cgroup": "0::/\n"}
    assert board.available(machine_with(tmp_path, 8000, **files)) == pytest.approx(8000 * MB, rel=1e-3)


LOADS = ("load_seconds_count", "unloads_total", "loaded")
"""Metrics of an engine's loads."""


class LoadRecorder:
    """Records the order in which engines load, and how many load at once; each waits until `together` do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
        self.together = together
        self.now = self.most = 0
        self.order: list[str] = []
        self._load = registry.load
        monkeypatch.setattr(registry, "load", self.load)

    def load(self, role: str, name: str) -> Callable[..., Any]:
        made = self._load(role, name)

        def build(*arguments: Any) -> Any:
            self.order.append(role)
            self.now += 1
            self.most = max(self.most, self.now)
            end = time.monotonic() + (TIMEOUT if self.together > 1 else 0.05)
            while (self.together == 1 or self.most < self.together) and time.monotonic() < end:
                time.sleep(0.005)
            self.now -= 1
            return made(*arguments)

        return build


@pytest.mark.anyio
@pytest.mark.parametrize(("one_by_one", "most"), [(True, 1), (False, 4)])
async def test_engines_load_as_planned_at_the_start_and_after_unloading(
    fake_appliance: RunAppliance, beep: Audio, monkeypatch: pytest.MonkeyPatch, one_by_one: bool, most: int
) -> None:
    llm = Catalog(MODELS).get("smollm2-135m-instruct")
    monkeypatch.setattr(model_selection, "plan", lambda *_: model_selection.MemoryPlan({"llm": llm}, 0, one_by_one))
    loads = LoadRecorder(monkeypatch, most)
    async with fake_appliance(*(f"{role}.idle_seconds=0.2" for role in ROLES)) as appliance:
        assert loads.most == most
        assert sorted(loads.order) == sorted(("vad", *ROLES))
        assert loads.order[0] == "llm"
        await until(lambda: all(getattr(appliance.engines, role).state == "idle" for role in ROLES))
        loads.most, loads.together = 0, min(most, 3)
        async with anyio.create_task_group() as group:
            for role in ROLES:
                group.start_soon(getattr(appliance.engines, role).call, lambda engine: None)
        assert loads.most == min(most, 3)


@pytest.mark.anyio
async def test_server_with_unloaded_engines_is_healthy_and_loads_them_for_the_next_turn(
    fake_appliance: RunAppliance, beep: Audio
) -> None:
    async with fake_appliance(*(f"{role}.idle_seconds=0.2" for role in ROLES)) as appliance:
        languages = appliance.capabilities()["languages"]
        await until(lambda: all(getattr(appliance.engines, role).state == "idle" for role in ROLES))
        health = appliance.health()
        assert (health["status"], appliance.warm) == ("ok", True)
        assert {name: each["state"] for name, each in health["engines"].items()} == {
            "vad": "ready", "wake_word": "idle", "turn_detection": "idle", "asr": "idle", "llm": "idle", "tts": "idle",
            "speaker": "idle", "command": "idle", "sound_detector": "idle", "voice_converter": "idle",
            "word_encoder": "idle", "history": "ready",
        }  # fmt: skip
        assert appliance.capabilities()["languages"] == languages
        assert [voice["name"] for voice in appliance.capabilities()["voices"]] == ["fake", "fake-high"]
        page = appliance.metrics.page().decode()
        assert 'chatapi_engine_loaded{engine="llm"} 0.0' in page
        assert 'chatapi_engine_unloads_total{engine="llm"} 1.0' in page
        ended = await answer(appliance, Turn(audio=wav_file(beep), speak=True))
        assert ended.timings.first_audio is not None
        page = appliance.metrics.page().decode()
        # On a busy machine the model may be unloaded, and loaded once more, within the turn.
        counts = [re.search(rf'chatapi_engine_{name}\{{engine="llm"\}} ([\d.]+)', page) for name in LOADS]
        loads, unloads, loaded = (float(each[1]) for each in counts if each)
        assert loads >= 2 and loads == unloads + loaded


@pytest.mark.anyio
async def test_tts_loads_while_the_llm_loads(fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_appliance(*(f"{role}.idle_seconds=0.2" for role in ROLES)) as appliance:
        await until(lambda: all(getattr(appliance.engines, role).state == "idle" for role in ROLES))
        # Lets their threads end.
        await anyio.sleep(0.1)
        loads = LoadRecorder(monkeypatch, 2)
        await answer(appliance, Turn(prompt="Hello", speak=True))
        assert (loads.order, loads.most) == (["llm", "tts"], 2)


def wav_file(audio: Audio) -> bytes:
    return encode_audio(audio.samples, RATE, "pcm_s16le")


@pytest.mark.anyio
@pytest.mark.real
async def test_unloaded_real_model_frees_its_memory_and_answers_again(data: Path) -> None:
    for name in ("smollm2-135m-instruct", "en_US-joe-medium"):
        installed_model(name)
    loaded = settings.load([*DEFAULTS, f"data={data}", "llm.idle_seconds=1", "asr.engine=fake", "tts.engine=fake"])
    async with Appliance(loaded.settings).running() as appliance:
        await appliance.load()
        llm = appliance.engines.llm
        turn = Turn(prompt="Say hello.", max_tokens=8, temperature=0)

        def load_seconds() -> float:
            found = appliance.metrics.registry.get_sample_value("chatapi_engine_load_seconds_sum", {"engine": "llm"})
            return found or 0.0

        first_answer = await answer(appliance, turn)
        resident_before, loaded_before = resident(), load_seconds()
        await until(lambda: llm.state == "idle")
        await until(lambda: resident_before - resident() > 100 * MB)
        second_answer = await answer(appliance, turn)
        assert (llm.state, second_answer.completion_tokens) == ("ready", first_answer.completion_tokens)
        # The timings of the turn include the load.
        assert second_answer.timings.first_token is not None
        assert second_answer.timings.first_token > load_seconds() - loaded_before > 0


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_child_process_takes_memory_beside_its_model(
    fake_settings: Callable[..., settings.Settings], data: Path
) -> None:
    for more, processes in (((), 0), (("asr.worker=process", "llm.worker=process"), 2)):
        plan = model_selection.plan(Catalog(data), fake_settings(*more), ROLES, free=10**9)
        assert plan.free == 10**9 - processes * model_selection.PROCESS
