"""Role records and plug-ins: a fault of one is reported by its name and affects no other."""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.cli.watchdog import Watchdog
from chatapi.engines import never, registry
from chatapi.engines.role import EngineEntry
from chatapi.errors import ChatapiError, SettingsError
from chatapi.settings import Settings
from chatapi.system.systemd_notify import ServiceManager
from conftest import until
from fake_plugins import PlugIns, plug_ins_in

ENGINES, ROLES, TABLES = "chatapi.engines", "chatapi.roles", "chatapi.settings"
numbers = itertools.count()

ENGINE = """
from chatapi.engines.role import EngineEntry
ENTRY = EngineEntry("{module}:Parrot", needs_model=False)
class Parrot:
    def __init__(self, settings, models):
        pass
    def generate(self, messages, sampling, stop):
        yield from ()
"""
TABLE = """
from chatapi.settings import RoleSettings, Table
class Odd(Table):
    "A table."
    number: int = 1
    "A number."
class Mood(RoleSettings):
    "A role."
    engine: str = "sad"
"""
ROLE = """
from typing import Protocol
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role
from {tables} import Mood
class MoodDetector(Protocol):
    moods: tuple
    def mood(self, text, stop):
        ...
class Sad:
    moods = ("sad",)
    def __init__(self, settings, models):
        {construct}
    def mood(self, text, stop=None):
        yield "sad"
ROLE = Role(
    name="mood", title="mood", protocol=MoodDetector, settings=Mood,
    engines={{"sad": EngineEntry(__name__ + ":Sad", needs_model=False)}},
    warm_up=lambda engine, settings: EngineCall("mood", ("",)), probe=lambda engine: EngineCall("mood", ("",)),
)
"""


@pytest.fixture
def plug_ins(tmp_path: Path) -> Iterator[PlugIns]:
    with pytest.MonkeyPatch.context() as patch:
        yield plug_ins_in(tmp_path / "plugins", patch)
    registry.reset()


def module() -> str:
    """A name that no test has imported yet."""
    return f"plugin_of_a_test_{next(numbers)}"


def add_mood(plug_ins: PlugIns, construct: str = "pass") -> None:
    """A plug-in with a role on demand, whose engine's constructor does this."""
    tables, role = module(), module()
    points = {TABLES: {"mood": f"{tables}:Mood"}, ROLES: {"mood": f"{role}:ROLE"}}
    source = ROLE.format(tables=tables, construct=construct)
    plug_ins.add("chatapi-mood", points, {tables: TABLE, role: source})


# The shipped records


@pytest.mark.parametrize("role", registry.SHIPPED, ids=lambda role: role.name)
def test_record_has_the_settings_table_and_a_fake_engine(role: registry.Role[object]) -> None:
    assert Settings.model_fields[role.name].annotation is role.settings
    assert isinstance(role.engines["fake"], EngineEntry)
    engine = registry.load(role.name, "fake")(Settings(), [])
    assert all(hasattr(engine, name) for name in role.declares)
    assert list(role.warm_up(engine, Settings())(engine, never)) is not None


def test_ranks_decide_which_role_chooses_its_model_first() -> None:
    ranked = [role.name for role in sorted(registry.SHIPPED, key=lambda role: role.memory_rank)]
    assert ranked == [
        "llm", "asr", "tts", "turn_detection", "vad", "wake_word", "speaker", "voice_converter", "command",
        "word_encoder", "sound_detector",
    ]  # fmt: skip
    assert registry.essential() == ("vad", "asr", "llm", "tts")


@pytest.mark.anyio
async def test_probe_of_every_role_runs_on_an_idle_engine(fake_settings: Callable[..., Settings]) -> None:
    async with Appliance(fake_settings()).running() as appliance:
        await appliance.load(registry.roles())
        await until(lambda: all(worker.admission.used == 0 for worker in appliance.engines.all()))
        watchdog = Watchdog(appliance, ServiceManager.of({}))
        assert await watchdog.problems() == []
        before = {worker.name: worker.items_produced for worker in appliance.engines.all()}
        assert await watchdog.problems() == []
        silent = {worker.name for worker in appliance.engines.all() if worker.items_produced == before[worker.name]}
        # No words are in noise.
        assert silent <= {"asr"}


# Plug-ins


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ({ENGINES: {"llm.fake": "{module}:ENTRY"}}, "the engine 'llm.fake' of the plug-in chatapi-odd 1.0 is ignored: "
         "llm has an engine 'fake' already"),
        ({ENGINES: {"lm.parrot": "{module}:ENTRY"}}, "its name must be one of vad, wake_word, "),
        ({ENGINES: {"llm": "{module}:ENTRY"}}, "its name must be one of vad, wake_word, "),
        ({ENGINES: {"llm.parrot": "{module}:Parrot"}}, "{module}:Parrot of the plug-in chatapi-odd 1.0 is not a"),
        ({ENGINES: {"llm.parrot": "{module}:GONE"}}, "the plug-in chatapi-odd 1.0 cannot be imported (AttributeError"),
        ({ENGINES: {"llm.parrot": "nowhere:ENTRY"}}, "the plug-in chatapi-odd 1.0 cannot be imported (ModuleNotFound"),
        ({ROLES: {"asr": "{module}:ENTRY"}}, "the role 'asr' of the plug-in chatapi-odd 1.0 is ignored: a role of"),
        ({ROLES: {"mood": "{module}:ENTRY"}}, "{module}:ENTRY is not a chatapi.engines.role.Role of that name"),
        ({TABLES: {"server": "{module}:Odd"}}, "the settings table 'server' of the plug-in chatapi-odd 1.0 is ignored"),
        ({TABLES: {"Odd": "{module}:Odd"}}, "a name has lower-case letters, digits and underscores"),
        ({TABLES: {"odd": "{module}:ENTRY"}}, "{module}:ENTRY is not a subclass of chatapi.settings.Table"),
        ({TABLES: {"odd": "{module}:Required"}}, "the settings table 'odd' of the plug-in chatapi-odd 1.0 is ignored: "
         "its defaults are not valid (1 validation error for Required"),
        ({TABLES: {"wake": "{module}:Clash"}}, "wake.word_engine and wake_word.engine have the same environment"),
    ],
)  # fmt: skip
def test_fault_of_a_plug_in_names_its_distribution(
    plug_ins: PlugIns, points: dict[str, dict[str, str]], told: str
) -> None:
    name = module()
    more = "class Required(Table):\n    number: int\nclass Clash(Table):\n    word_engine: int = 1\n"
    stated = {group: {key: value.format(module=name) for key, value in each.items()} for group, each in points.items()}
    plug_ins.add("chatapi-odd", stated, {name: ENGINE.format(module=name) + TABLE + more})
    [fault] = registry.faults()
    assert told.format(module=name) in fault and "chatapi-odd 1.0" in fault
    assert set(registry.roles()) == {role.name for role in registry.SHIPPED}
    assert registry.engines("llm")[:4] == ("llama_cpp", "mlc", "openai_upstream", "fake")
    assert settings.load(environ={}).settings.server.port == 8000


def test_first_of_two_plug_ins_of_one_name_is_used(plug_ins: PlugIns) -> None:
    for each in ("chatapi-a", "chatapi-b"):
        name = module()
        points = {ENGINES: {"llm.parrot": f"{name}:ENTRY"}, TABLES: {"odd": f"{name}:Odd"}}
        plug_ins.add(each, points, {name: ENGINE.format(module=name) + TABLE})
    assert registry.distribution("llm", "parrot") == "chatapi-a 1.0"
    assert settings.load(["odd.number=2"], environ={}).origins == {"odd.number": "command line"}
    table, engine = registry.faults()
    assert "'odd' of the plug-in chatapi-b 1.0 is ignored: a table of that name exists" in table
    assert "'llm.parrot' of the plug-in chatapi-b 1.0 is ignored: chatapi-a 1.0 adds an engine of that name" in engine


def test_engine_of_a_plug_in_is_imported_when_it_is_chosen(plug_ins: PlugIns) -> None:
    name, engine = module(), module()
    record = (
        f'from chatapi.engines.role import EngineEntry\nENTRY = EngineEntry("{engine}:Parrot", needs_model=False)\n'
    )
    plug_ins.add(
        "chatapi-odd", {ENGINES: {"llm.parrot": f"{name}:ENTRY"}}, {name: record, engine: "raise ValueError(7)"}
    )
    assert registry.engines("llm")[-1] == "parrot"
    assert name not in sys.modules
    assert registry.installed("llm", "parrot") and registry.faults() == ()
    assert name in sys.modules and engine not in sys.modules
    with pytest.raises(SettingsError, match=r"'parrot' of the plug-in chatapi-odd 1\.0 cannot be loaded \(7\): reinst"):
        registry.load("llm", "parrot")


def test_engine_without_a_method_of_the_protocol_is_rejected(plug_ins: PlugIns) -> None:
    name = module()
    plug_ins.add("chatapi-odd", {ENGINES: {"llm.parrot": f"{name}:ENTRY"}}, {name: ENGINE.format(module=name)})
    with pytest.raises(SettingsError, match=r"chatapi-odd 1\.0 has no method counts, which LanguageModel requires"):
        registry.load("llm", "parrot")


def test_role_without_its_settings_table_is_ignored(plug_ins: PlugIns) -> None:
    tables, role = module(), module()
    source = ROLE.format(tables=tables, construct="pass")
    plug_ins.add("chatapi-mood", {ROLES: {"mood": f"{role}:ROLE"}}, {tables: TABLE, role: source})
    assert registry.faults() == (
        "the role 'mood' of the plug-in chatapi-mood 1.0 is ignored: the group chatapi.settings needs an entry point "
        f"mood = {tables}:Mood",
    )
    assert "mood" not in registry.roles()


def test_keys_of_a_table_that_cannot_be_imported_are_ignored(plug_ins: PlugIns, tmp_path: Path) -> None:
    plug_ins.add("chatapi-odd", {TABLES: {"odd": "nowhere:Odd"}}, {})
    file = tmp_path / "chatapi.toml"
    file.write_text("[odd]\nnumber = 2\n[server]\nport = 9\n")
    loaded = settings.load(["odd.number=3"], file, {"CHATAPI_ODD_NUMBER": "4"})
    assert loaded.settings.server.port == 9
    assert loaded.origins == {"server.port": str(file)}
    for wrong in (["odder.number=3"], ["oddnumber=3"]):
        with pytest.raises(SettingsError, match="there is no setting"):
            settings.load(wrong, environ={})


def test_tables_of_plug_ins_reach_another_process(plug_ins: PlugIns) -> None:
    add_mood(plug_ins)
    chosen = settings.load(["mood.model=grey"], environ={}).settings
    assert settings.as_environment(chosen) == {"CHATAPI_MOOD_MODEL": "grey"}
    assert settings.load(environ=settings.as_environment(chosen)).settings == chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert "mood.engine" in settings.dotted_keys()
    assert chosen.table(registry.roles()["mood"].settings).model == "grey"
    with pytest.raises(SettingsError, match="TableOfNobody is no table of the settings"):
        chosen.table(type("TableOfNobody", (settings.Table,), {}))


# Roles on demand


@pytest.mark.anyio
async def test_role_of_a_plug_in_is_loaded_on_demand(plug_ins: PlugIns, fake_settings: Callable[..., Settings]) -> None:
    add_mood(plug_ins)
    async with Appliance(fake_settings()).running() as appliance:
        await appliance.load()
        appliance.require_ready()
        assert appliance.health()["engines"]["mood"] == {"state": "idle", "rebuilt": 0, "model": None}
        worker = appliance.engines["mood"]
        assert (await worker.open()).moods == ("sad",)
        assert await worker.call(lambda engine: next(engine.mood(""))) == "sad"
        await until(lambda: worker.admission.used == 0)
        watchdog = Watchdog(appliance, ServiceManager.of({}))
        before = worker.items_produced
        assert [await watchdog.problems() for _ in range(2)] == [[], []]
        assert worker.items_produced > before


@pytest.mark.anyio
async def test_engine_on_demand_that_cannot_be_loaded_stops_nothing_else(
    plug_ins: PlugIns, fake_settings: Callable[..., Settings]
) -> None:
    add_mood(plug_ins, "raise OSError('no such library')")
    async with Appliance(fake_settings()).running() as appliance:
        await appliance.load()
        with pytest.raises((OSError, ChatapiError), match="no such library"):
            await appliance.engines["mood"].open()
        appliance.require_ready()
        health = appliance.health()
        assert (health["status"], health["engines"]["mood"]["state"]) == ("degraded", "failed")
        assert await Watchdog(appliance, ServiceManager.of({})).problems() == []
