"""The record of a role, and the record of an engine: all that the rest of chatapi knows of them.

Neither imports an engine. `chatapi.engines.registry` lists the roles, those of plug-ins too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines.call import EngineCall
from chatapi.settings import RoleSettings, Settings

E = TypeVar("E")

WARM_UP_SAMPLES = RATE
"""Samples of the noise of a warm-up: 1 s."""
PROBE_SAMPLES = RATE // 2
"""Samples of the noise of a probe: 0.5 s."""
LAST = 100
"""Memory rank of a role that does not state one."""


@dataclass(frozen=True)
class EngineEntry:
    """A registered engine: its class, and what must be installed for it."""

    target: str
    """module:Class."""
    requires: str | None = None
    """The top-level module that must be importable; None: no other than its own."""
    install: str = ""
    """How to install it."""
    needs_model: bool = True
    """Whether the catalog must provide a model for it."""
    remote: bool = False
    """Whether it asks another server, which may start later, and which a restart of this process cannot repair."""
    slots_of: str = ""
    """Settings table whose `slots` it has, one if the table has none; empty: the table of the engine's own name."""


def _never(settings: Settings) -> bool:
    """Default of `Role.expected`."""
    return False


@dataclass(frozen=True, kw_only=True)
class Role(Generic[E]):
    """A role: a part that engines can play, each in its own way."""

    name: str
    """Its name in settings, manifests, metrics, `/health` and `/models`."""
    title: str
    """A short title for people, in lower case."""
    protocol: type[Any]
    """The protocol of its engines. Its attributes are what an engine declares, also while it is unloaded."""
    settings: type[RoleSettings]
    """Its settings table, which has the role's name."""
    engines: Mapping[str, EngineEntry]
    """Name -> engine; plug-ins add engines by entry points."""
    warm_up: Callable[[E, Settings], EngineCall[Any]]
    """The first call of an engine after it was loaded, so that the first request does not wait for what the first use
    creates. It may read only what the engine declares."""
    probe: Callable[[E], EngineCall[Any]]
    """The smallest call that shows that an engine works; the watchdog makes it on an engine that was idle. It may read
    only what the engine declares."""
    memory_rank: int = LAST
    """Order in which roles choose their model automatically, the lowest first: better answers are worth more than a
    better voice."""
    essential: bool = False
    """Whether every turn may need it: `/ready` waits until it is loaded. Other roles are loaded on demand."""
    expected: Callable[[Settings], bool] = _never
    """Whether a box with these settings will need it, though it is loaded on demand: `chatapi check` then reports a
    fault as an error instead of a note."""
    every_model: bool = False
    """Whether an engine gets every installed model that it can load, the chosen one first."""
    counts_pace: bool = False
    """Whether its items are of equal size, so that items per second are a measure of it."""

    values: tuple[type[Any], ...] = ()
    """Dataclasses of its own that its engines take or yield, also from and to another process; each has a name that no
    other one has."""

    @property
    def declares(self) -> tuple[str, ...]:
        """Attributes that an engine declares."""
        classes = [each for each in self.protocol.__mro__ if each.__module__ != "typing"]
        return tuple(dict.fromkeys(name for each in classes for name in inspect.get_annotations(each)))

    @property
    def methods(self) -> tuple[str, ...]:
        """Public methods that an engine must have."""
        return tuple(
            name
            for name, value in inspect.getmembers(self.protocol, inspect.isfunction)
            if not name.startswith("_") and value.__module__ != "typing"
        )


def noise(samples: int) -> Samples:
    """Quiet noise of 16 kHz mono, the same at every call, for warm-ups and probes."""
    return np.random.default_rng(0).normal(0, 1e-3, samples).astype(np.float32)
