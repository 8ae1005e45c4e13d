"""Models that fit the memory together, the order they are loaded in, and what is said when they do not fit."""

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
from chatapi.runtime import memory_plan
from chatapi.services.turns.completion import Turn
from chatapi.system import jetson as board
from conftest import DEFAULTS, MODELS, RunAppliance, answer, encode_audio, installed_model, until
from test_board import ORIN_NX, written

MB = 1_000_000
MODELS_HERE = {
    "ears-small": ("asr", "whisper_cpp", 200, 10),
    "ears-large": ("asr", "whisper_cpp", 900, 40),
    "mind-small": ("llm", "llama_cpp", 300, 10),
    "mind-middle": ("llm", "llama_cpp", 2000, 30),
    "mind-large": ("llm", "llama_cpp", 5000, 60),
    "voice": ("tts", "piper", 250, 50),
}
"""Name -> role, engine, MB, quality."""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Catalog]:
    """A catalog of models that are a byte each on the disk; `missing` are not installed."""

    def make(*missing: str) -> Catalog:
        data = tmp_path / "data"
        (data / "manifests").mkdir(parents=True)
        for name, (role, engine, size, quality) in MODELS_HERE.items():
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


def machine(root: Path, free: int, swap: int = 0, **more: str) -> Path:
    """Files of a machine with so many MB free."""
    told = f"MemTotal: 99999999 kB\nMemAvailable: {free * MB // 1024} kB\nSwapFree: {swap * MB // 1024} kB\n"
    return written(root / "machine", {"proc/meminfo": told, **more})


def jetson(root: Path, free: int, swap: int = 0) -> Path:
    tree = {name: text for name, text in ORIN_NX.items() if name.startswith("proc/device-tree")}
    return machine(root, free, swap, **tree)


ROLES = ("asr", "llm", "tts")


def planned(catalog: Catalog, root: Path, *chosen: str) -> memory_plan.MemoryPlan:
    chosen = ("llm.engine=llama_cpp", "asr.engine=whisper_cpp", *chosen)
    return memory_plan.plan(catalog, settings.load(chosen, environ={}).settings, ROLES, root)


def names(plan: memory_plan.MemoryPlan) -> dict[str, str]:
    return {role: each.name for role, each in plan.models.items()}


@pytest.mark.parametrize(
    ("free", "mind", "ears"),
    [(20_000, "mind-large", "ears-large"), (6000, "mind-large", "ears-small"), (2600, "mind-middle", "ears-small"),
     (1500, "mind-small", "ears-large"), (800, "mind-small", "ears-small")],
)  # fmt: skip
def test_the_best_are_chosen_that_fit_together(
    shelf: Callable[..., Catalog], tmp_path: Path, free: int, mind: str, ears: str
) -> None:
    found = planned(shelf(), machine(tmp_path, free))
    assert names(found) == {"llm": mind, "asr": ears, "tts": "voice"}
    assert found.needed <= found.free


def test_plenty_of_memory_loads_side_by_side_little_one_by_one(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    catalog = shelf()
    small = ("llm.model=mind-small", "asr.model=ears-small")
    assert not planned(catalog, machine(tmp_path, 1501), *small).one_by_one
    assert planned(catalog, machine(tmp_path, 1499), *small).one_by_one


def test_a_jetson_loads_one_by_one_the_largest_first(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    found = planned(shelf(), jetson(tmp_path, 50_000))
    assert found.one_by_one
    assert found.order(("vad", *ROLES)) == ["llm", "asr", "tts", "vad"]


def test_what_cannot_fit_is_refused_with_what_would(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    wish = ("llm.model=mind-large", "asr.model=ears-small")
    with pytest.raises(ModelError) as refused:
        planned(shelf("mind-middle"), jetson(tmp_path, 3000, swap=9000), *wish)
    assert refused.value.code == "model_too_large"
    assert refused.value.message == (
        "the models need 5.5 GB and 3.0 GB are free (llm mind-large 5.0 GB, tts voice 0.2 GB, asr ears-small 0.2 GB); "
        "mind-small (0.3 GB) would fit: set llm.model=mind-small"
    )


def test_a_model_that_would_fit_is_fetched_when_none_is_here(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    catalog = shelf("mind-middle", "mind-small")
    with pytest.raises(ModelError, match=r"llm.model=mind-middle after `chatapi models fetch mind-middle`"):
        planned(catalog, jetson(tmp_path, 3000))


def test_where_nothing_makes_room_that_is_said(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="end other programs"):
        planned(shelf(), jetson(tmp_path, 100))


def test_swap_counts_where_the_gpu_does_not_share_the_memory(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    found = planned(shelf(), machine(tmp_path, 3000, swap=9000), "llm.model=mind-large", "asr.model=ears-small")
    assert (names(found)["llm"], found.one_by_one) == ("mind-large", True)


def test_a_missing_model_names_the_command_that_fetches_it(shelf: Callable[..., Catalog], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chatapi models fetch voice"):
        planned(shelf("voice"), machine(tmp_path, 9000))


@pytest.mark.parametrize(
    ("group", "place", "left"),
    [("/", "", 700), ("/system.slice/chatapi.service", "system.slice/", 700), ("/a/b", "", 700), ("/a", "b/", 8000)],
)
def test_a_control_group_may_allow_less_than_is_free(tmp_path: Path, group: str, place: str, left: int) -> None:
    files = {
        f"sys/fs/cgroup/{place}memory.max": f"{1000 * MB}\n",
        f"sys/fs/cgroup/{place}memory.current": f"{500 * MB}\n",
        f"sys/fs/cgroup/{place}memory.stat": f"anon 1\ninactive_file {200 * MB}\n",
        "proc/self/cgroup": f"0::{group}\n",
    }
    found = board.available(machine(tmp_path, 8000, **files))
    assert found == pytest.approx(left * MB, rel=1e-3)


def test_a_group_without_a_limit_allows_all_that_is_free(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "7\n", "proc/self/cgroup": "0::/\n"}
    assert board.available(machine(tmp_path, 8000, **files)) == pytest.approx(8000 * MB, rel=1e-3)


class Building:
    """Stands before every engine's class, and notes how many are built at once, and in what order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
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
            time.sleep(0.05)
            self.now -= 1
            return made(*arguments)

        return build


@pytest.mark.anyio
@pytest.mark.parametrize(("one_by_one", "most"), [(True, 1), (False, 4)])
async def test_engines_are_built_as_planned_at_first_and_when_they_come_back(
    fake_appliance: RunAppliance, beep: Audio, monkeypatch: pytest.MonkeyPatch, one_by_one: bool, most: int
) -> None:
    mind = Catalog(MODELS).get("smollm2-135m-instruct")
    monkeypatch.setattr(memory_plan, "plan", lambda *_: memory_plan.MemoryPlan({"llm": mind}, 0, one_by_one))
    building = Building(monkeypatch)
    async with fake_appliance(*(f"{role}.idle_seconds=0.2" for role in ROLES)) as appliance:
        assert building.most == most
        assert sorted(building.order) == sorted(("vad", *ROLES))
        assert building.order[0] == "llm"
        await until(lambda: all(getattr(appliance.engines, role).state == "idle" for role in ROLES))
        building.most = 0
        async with anyio.create_task_group() as group:
            for role in ROLES:
                group.start_soon(getattr(appliance.engines, role).call, lambda engine: None)
        assert building.most == (1 if one_by_one else 3)


@pytest.mark.anyio
async def test_an_idle_box_is_well_and_its_next_turn_waits_for_what_comes_back(
    fake_appliance: RunAppliance, beep: Audio
) -> None:
    async with fake_appliance(*(f"{role}.idle_seconds=0.2" for role in ROLES)) as appliance:
        languages = appliance.capabilities()["languages"]
        await until(lambda: all(getattr(appliance.engines, role).state == "idle" for role in ROLES))
        health = appliance.health()
        assert (health["status"], appliance.warm) == ("ok", True)
        assert {name: each["state"] for name, each in health["engines"].items()} == {
            "vad": "ready", "wake_word": "idle", "turn_detection": "idle", "asr": "idle", "llm": "idle", "tts": "idle",
            "history": "ready",
        }  # fmt: skip
        assert appliance.capabilities()["languages"] == languages
        assert [voice["name"] for voice in appliance.capabilities()["voices"]] == ["fake", "fake-high"]
        page = appliance.metrics.page().decode()
        assert 'chatapi_engine_loaded{engine="llm"} 0.0' in page
        assert 'chatapi_engine_unloads_total{engine="llm"} 1.0' in page
        ended = await answer(appliance, Turn(audio=written_wav(beep), speak=True))
        assert ended.timings.first_audio is not None
        page = appliance.metrics.page().decode()
        assert 'chatapi_engine_loaded{engine="llm"} 1.0' in page
        # On a busy machine the model may rest and come back once more within the turn.
        loads = re.search(r'chatapi_engine_load_seconds_count\{engine="llm"\} ([\d.]+)', page)
        assert loads and float(loads[1]) >= 2


@pytest.mark.anyio
async def test_the_voice_comes_back_while_the_model_does(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_appliance(*(f"{role}.idle_seconds=0.2" for role in ROLES)) as appliance:
        await until(lambda: all(getattr(appliance.engines, role).state == "idle" for role in ROLES))
        # Their threads have yet to end.
        await anyio.sleep(0.1)
        building = Building(monkeypatch)
        await answer(appliance, Turn(prompt="Hello", speak=True))
        assert (building.order, building.most) == (["llm", "tts"], 2)


def written_wav(audio: Audio) -> bytes:
    return encode_audio(audio.samples, RATE, "pcm_s16le")


@pytest.mark.anyio
@pytest.mark.real
async def test_a_real_model_gives_its_memory_back_and_answers_again(data: Path) -> None:
    for name in ("smollm2-135m-instruct", "en_US-joe-medium"):
        installed_model(name)
    loaded = settings.load([*DEFAULTS, f"data={data}", "llm.idle_seconds=1", "asr.engine=fake", "tts.engine=fake"])
    async with Appliance(loaded.settings).running() as appliance:
        await appliance.load()
        mind = appliance.engines.llm
        asked = Turn(prompt="Say hello.", max_tokens=8, temperature=0)

        def loading() -> float:
            found = appliance.metrics.registry.get_sample_value("chatapi_engine_load_seconds_sum", {"engine": "llm"})
            return found or 0.0

        said = await answer(appliance, asked)
        held, first = resident(), loading()
        await until(lambda: mind.state == "idle")
        await until(lambda: held - resident() > 100 * MB)
        again = await answer(appliance, asked)
        assert (mind.state, again.completion_tokens) == ("ready", said.completion_tokens)
        # The wait is in the times of the turn.
        assert again.timings.first_token is not None
        assert again.timings.first_token > loading() - first > 0


def resident() -> int:
    return psutil.Process().memory_info().rss
