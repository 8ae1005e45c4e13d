"""Registry of roles and engines: the shipped ones and those of plug-ins, and loading an engine by name.

A role is registered here, and an engine in the record of its role. No engine's module is imported until it is chosen.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chatapi.audio import Audio
from chatapi.audio.skipped import Skipped
from chatapi.catalog import InstalledModel, Manifest
from chatapi.engines import (
    PromptMessage,
    Sampling,
    Segment,
    TokenChunk,
    TokenUsage,
    Tool,
    TranscriptionOptions,
    TranscriptToken,
    Voice,
    Word,
    asr,
    command,
    llm,
    plugins,
    sound_detector,
    speaker,
    tts,
    turn_detection,
    vad,
    voice_converter,
    wake_word,
    word_encoder,
)
from chatapi.engines.role import EngineEntry, Role
from chatapi.errors import SettingsError
from chatapi.events import Token, ToolCall
from chatapi.settings import Settings
from chatapi.settings import plugins as tables

SHIPPED: tuple[Role[Any], ...] = (
    vad.ROLE,
    wake_word.ROLE,
    turn_detection.ROLE,
    asr.ROLE,
    llm.ROLE,
    tts.ROLE,
    speaker.ROLE,
    voice_converter.ROLE,
    command.ROLE,
    word_encoder.ROLE,
    sound_detector.ROLE,
)
"""The roles of chatapi itself."""
VALUES = (
    Audio, InstalledModel, PromptMessage, Sampling, Segment, Skipped, Token, TokenChunk, TokenUsage, Tool, ToolCall,
    TranscriptionOptions, TranscriptToken, Voice, Word,
)  # fmt: skip
"""The records that their engines take and yield."""


@functools.cache
def _plug_ins() -> plugins.PlugInParts:
    return plugins.find({role.name: role for role in SHIPPED})


def reset() -> None:
    """Forgets the plug-ins, after the environment has changed."""
    tables.reset()
    for cached in (_plug_ins, roles, essential, values, declared):
        cached.cache_clear()


@functools.cache
def roles() -> Mapping[str, Role[Any]]:
    """Name -> role; the shipped roles first."""
    return {**{role.name: role for role in SHIPPED}, **_plug_ins().roles}


@functools.cache
def essential() -> tuple[str, ...]:
    """Roles that every turn may need; the others are loaded on demand."""
    return tuple(role.name for role in roles().values() if role.essential)


@functools.cache
def values() -> Mapping[str, type[Any]]:
    """Name -> class of every record that an engine takes or yields."""
    return {each.__name__: each for each in (*VALUES, *(value for role in roles().values() for value in role.values))}


@functools.cache
def declared() -> tuple[str, ...]:
    """Attributes of engines that are needed also while an engine is unloaded."""
    return tuple(dict.fromkeys(name for role in roles().values() for name in role.declares))


def engines(role: str) -> tuple[str, ...]:
    """Names of a role's engines; the shipped ones first."""
    return (*roles()[role].engines, *(name for each, name in _plug_ins().engines if each == role))


def distribution(role: str, name: str) -> str:
    """Name and version of the plug-in that provides an engine; empty: chatapi itself does."""
    found = _plug_ins().engines.get((role, name))
    return found.distribution if found is not None else _plug_ins().distributions.get(role, "")


def summary(settings: Settings) -> list[dict[str, Any]]:
    """The roles with their engines, in plain values; no engine and no plug-in is imported for it."""
    return [
        {
            "name": role.name,
            "title": role.title,
            "essential": role.essential,
            "engine": getattr(settings, role.name).engine,
            "engines": [
                {"name": name, "plug_in": distribution(role.name, name) or None} for name in engines(role.name)
            ],
        }
        for role in roles().values()
    ]


def orphans(manifests: Iterable[Manifest]) -> list[str]:
    """What is wrong with manifests that name a role or an engine that does not exist, one sentence each."""
    return [
        f"the manifest {each.name} is ignored: there is no {each.role} engine {each.engine!r}"
        for each in manifests
        if each.role not in roles() or each.engine not in engines(each.role)
    ]


def faults() -> tuple[str, ...]:
    """What is wrong with plug-ins, one sentence each; imports the record of every engine."""
    found = list(_plug_ins().faults)
    for plug_in in _plug_ins().engines.values():
        try:
            plugins.engine(plug_in)
        except SettingsError as error:  # noqa: PERF203 - each by itself
            found.append(error.message)
    # All parts of a plug-in may have the same fault.
    return tuple(dict.fromkeys(found))


def entry(role: str, name: str) -> EngineEntry:
    """Looks up an engine. SettingsError when the role has no engine of that name, or its plug-in is broken."""
    if (found := roles()[role].engines.get(name)) is not None:
        return found
    if (plug_in := _plug_ins().engines.get((role, name))) is not None:
        try:
            return plugins.engine(plug_in)
        except SettingsError as error:
            raise SettingsError(f"the {role} engine {name!r} cannot be used: {error.message}") from error
    raise SettingsError(f"{role}.engine is {name!r}; it can be one of: {', '.join(sorted(engines(role)))}")


def in_process(settings: Settings, role: str) -> bool:
    """Whether the settings run a role's engine in a child process; one that asks another server has nothing to run."""
    table = getattr(settings, role)
    return getattr(table, "worker", "thread") == "process" and not entry(role, table.engine).remote


def installed(role: str, name: str) -> bool:
    """Whether the engine's library is installed, without importing it."""
    requires = entry(role, name).requires
    return requires is None or importlib.util.find_spec(requires) is not None


def load(role: str, name: str) -> Callable[..., Any]:
    """Imports the engine's class. SettingsError with the remedy when its library is missing or broken."""
    chosen, owner = entry(role, name), distribution(role, name)
    about = f"the {role} engine {name!r}" + (f" of the plug-in {owner}" if owner else "")
    if not installed(role, name):
        raise SettingsError(f"{about} needs a library that is not installed: {chosen.install}")
    module, _, attribute = chosen.target.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        # A module of a plug-in may raise anything.
        if not owner and not isinstance(error, (ImportError, OSError)):
            raise
        remedy = chosen.install or f"reinstall {owner or 'chatapi-appliance'}"
        raise SettingsError(f"the library of {about} cannot be loaded ({error}): {remedy}") from error
    missing = [method for method in roles()[role].methods if inspect.isclass(found) and not hasattr(found, method)]
    if missing:
        raise SettingsError(f"{about} has no method {missing[0]}, which {roles()[role].protocol.__name__} requires")
    return found
