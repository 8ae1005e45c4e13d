"""Plug-ins: what other distributions add by entry points, and the settings tables among it.

A settings table is an entry point of the group `chatapi.settings`: the table's name, and its class. Engines and roles
have groups of their own (`chatapi.engines.plugins`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import BaseModel, create_model

from chatapi.errors import SettingsError
from chatapi.settings.network import Table
from chatapi.settings.tables import Settings

GROUP = "chatapi.settings"
"""Entry points of settings tables."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TREE = "ExtendedSettings"
"""Name of the class of the settings tree with the tables of plug-ins."""


@dataclass(frozen=True)
class PlugIn:
    """An entry point of another distribution."""

    name: str
    distribution: str
    """Name and version of the distribution."""
    point: EntryPoint

    def load(self) -> Any:
        """Imports the object. Raises SettingsError that names the distribution when it cannot be imported."""
        try:
            return self.point.load()
        # A third party's module may raise anything, and may even end the program.
        except (Exception, SystemExit) as error:
            cause = f"{type(error).__name__}: {error}"
            message = f"the plug-in {self.distribution} cannot be imported ({cause}); reinstall or uninstall it"
            raise SettingsError(message) from error


@dataclass(frozen=True)
class PlugInTables:
    """The settings tree with the tables of the plug-ins, and what is wrong with the others."""

    tree: type[Settings]
    faults: Mapping[str, str]
    """Name of a table that is not in the tree -> why, in one sentence that names the distribution."""
    unreadable: frozenset[str]
    """Names of the tables that no class describes; their keys in the sources are ignored."""


def plug_ins(group: str) -> list[PlugIn]:
    """The entry points of a group, sorted by name and then by distribution."""
    found = []
    for point in _entry_points().select(group=group):
        about = getattr(point, "dist", None)
        distribution = f"{about.name} {about.version}" if about is not None else point.value
        found.append(PlugIn(point.name, distribution, point))
    return sorted(found, key=lambda each: (each.name, each.distribution))


@functools.cache
def _entry_points() -> Any:
    """All entry points of the environment; reading them takes 20 ms, so they are read once."""
    return importlib.metadata.entry_points()


@functools.cache
def tables() -> PlugInTables:
    """The settings tree of this environment. Imports only the modules of plug-ins' tables, and those once."""
    added: dict[str, type[Table]] = {}
    faults: dict[str, str] = {}
    keys = set(dotted_keys(Settings))
    for each in plug_ins(GROUP):
        try:
            table = _table(each, {*Settings.model_fields, *added}, keys)
        except SettingsError as error:  # noqa: PERF203 - each by itself
            faults[each.name] = error.message
        else:
            added[each.name] = table
            keys |= set(dotted_keys(table, f"{each.name}."))
    unreadable = frozenset(faults) - set(Settings.model_fields) - set(added)
    if not added:
        return PlugInTables(Settings, faults, unreadable)
    fields: dict[str, Any] = {name: (table, table()) for name, table in added.items()}
    tree = create_model(_TREE, __base__=Settings, __doc__=Settings.__doc__, __module__=__name__, **fields)
    return PlugInTables(tree, faults, unreadable)


def __getattr__(name: str) -> Any:
    """Finds the extended settings tree by name, so that pickled settings can be read in another process."""
    if name == _TREE:
        return tables().tree
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def reset() -> None:
    """Forgets the plug-ins, after the environment has changed."""
    _entry_points.cache_clear()
    tables.cache_clear()


def dotted_keys(table: type[BaseModel] | None = None, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a table; without one, of the whole tree with the tables of plug-ins."""
    for name, info in (tables().tree if table is None else table).model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from dotted_keys(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _table(plug_in: PlugIn, names: set[str], keys: set[str]) -> type[Table]:
    """The class of a table. Raises SettingsError for one that cannot be part of the tree."""
    about = f"the settings table {plug_in.name!r} of the plug-in {plug_in.distribution}"
    if plug_in.name in names:
        raise SettingsError(f"{about} is ignored: a table of that name exists")
    if not _NAME.fullmatch(plug_in.name):
        raise SettingsError(f"{about} is ignored: a name has lower-case letters, digits and underscores")
    table = plug_in.load()
    if not (isinstance(table, type) and issubclass(table, Table)):
        raise SettingsError(f"{about} is ignored: {plug_in.point.value} is not a subclass of chatapi.settings.Table")
    try:
        table()
    # A third party's validator may raise anything.
    except Exception as error:
        raise SettingsError(f"{about} is ignored: its defaults are not valid ({error})") from error
    # In the environment an underscore replaces each dot.
    known = {key.replace(".", "_"): key for key in keys}
    for key in dotted_keys(table, f"{plug_in.name}."):
        if (same := known.get(key.replace(".", "_"))) is not None:
            raise SettingsError(f"{about} is ignored: {key} and {same} have the same environment variable")
    return table
