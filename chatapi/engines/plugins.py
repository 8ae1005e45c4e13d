"""Engines and roles of plug-ins, by entry points of two groups.

`chatapi.engines`: `role.name` -> an `EngineEntry`, which is imported when the engine is looked up. `chatapi.roles`: the
role's name -> a `Role`. A plug-in that cannot be used is a fault, which `chatapi check` and a starting server report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatapi.engines.role import EngineEntry, Role
from chatapi.errors import SettingsError
from chatapi.settings.plugins import PlugIn, plug_ins, tables

ENGINES, ROLES = "chatapi.engines", "chatapi.roles"
"""Entry points of engines, and of roles."""


@dataclass
class PlugInParts:
    """What plug-ins add to the roles."""

    roles: dict[str, Role[Any]] = field(default_factory=dict)
    engines: dict[tuple[str, str], PlugIn] = field(default_factory=dict)
    """Role and name -> the plug-in of an engine."""
    distributions: dict[str, str] = field(default_factory=dict)
    """Role of a plug-in -> the distribution's name and version."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the parts that are ignored: one sentence each, which names the distribution."""


def find(shipped: Mapping[str, Role[Any]]) -> PlugInParts:
    """The parts of plug-ins, beside the shipped roles. Imports the records of roles, and no engine."""
    parts = PlugInParts(faults=list(tables().faults.values()))
    for each in plug_ins(ROLES):
        try:
            parts.roles[each.name] = _role(each, {**shipped, **parts.roles})
            parts.distributions[each.name] = each.distribution
        except SettingsError as error:  # noqa: PERF203 - each by itself
            parts.faults.append(error.message)
    known = {**shipped, **parts.roles}
    for each in plug_ins(ENGINES):
        role, _, name = each.name.partition(".")
        about = f"the engine {each.name!r} of the plug-in {each.distribution} is ignored"
        if role not in known or not name:
            parts.faults.append(f"{about}: its name must be one of {', '.join(known)}, a dot, and the engine's name")
        elif name in known[role].engines:
            parts.faults.append(f"{about}: {known[role].name} has an engine {name!r} already")
        elif (role, name) in parts.engines:
            parts.faults.append(f"{about}: {parts.engines[role, name].distribution} adds an engine of that name")
        else:
            parts.engines[role, name] = each
    return parts


def engine(plug_in: PlugIn) -> EngineEntry:
    """Imports the record of a plug-in's engine. Raises SettingsError that names the distribution."""
    found = plug_in.load()
    if not isinstance(found, EngineEntry):
        raise SettingsError(
            f"{plug_in.point.value} of the plug-in {plug_in.distribution} is not a chatapi.engines.role.EngineEntry"
        )
    return found


def _role(plug_in: PlugIn, known: Mapping[str, Role[Any]]) -> Role[Any]:
    """Imports the record of a plug-in's role. Raises SettingsError for one that cannot be used."""
    about = f"the role {plug_in.name!r} of the plug-in {plug_in.distribution} is ignored"
    if plug_in.name in known:
        raise SettingsError(f"{about}: a role of that name exists")
    found = plug_in.load()
    if not isinstance(found, Role) or found.name != plug_in.name:
        raise SettingsError(f"{about}: {plug_in.point.value} is not a chatapi.engines.role.Role of that name")
    info = tables().tree.model_fields.get(found.name)
    if info is None or info.annotation is not found.settings:
        table = f"{found.settings.__module__}:{found.settings.__qualname__}"
        raise SettingsError(f"{about}: the group chatapi.settings needs an entry point {found.name} = {table}")
    return found
