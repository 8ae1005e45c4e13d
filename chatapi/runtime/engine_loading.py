"""Loads the engine of a role: its model as the memory plan chose it, on threads or in a child process as the settings
say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client import Histogram

from chatapi.catalog import Catalog, InstalledModel, Manifest
from chatapi.engines import registry
from chatapi.runtime import model_selection
from chatapi.runtime.engine_process import ChosenEngine, EngineProcess
from chatapi.settings import Settings

LOAD_WAIT_SECONDS = 120
"""Longest wait of an engine for another one to load, in seconds."""


class EngineLoader:
    """Loads engines, also again after they were unloaded."""

    def __init__(self, settings: Settings, catalog: Catalog, seconds: Histogram) -> None:
        """`seconds` gets the loading time of each role."""
        self.active: dict[str, str] = {}
        """Role -> name of the model in use."""
        self.plan: model_selection.MemoryPlan | None = None
        """The models chosen when the engines were loaded."""
        self._settings = settings
        self._catalog = catalog
        self._seconds = seconds
        self._opened: dict[str, InstalledModel] = {}
        """Models whose files were verified."""
        self._loading = threading.Lock()

    def choose(self, roles: Collection[str]) -> model_selection.MemoryPlan:
        """Choose the models of these roles; blocking. Raises what `model_selection.plan` raises."""
        self.plan = model_selection.plan(self._catalog, self._settings, roles)
        return self.plan

    def slots(self, role: str) -> int:
        """How many calls the engine of a role runs at once."""
        engine = getattr(self._settings, role).engine
        table = getattr(self._settings, registry.entry(role, engine).slots_of or engine, None)
        return int(getattr(table, "slots", 1))

    def loading(self, role: str) -> Callable[[], Any]:
        """What loads the engine of a role; blocking."""
        return lambda: self._load(role, getattr(self._settings, role).engine)

    def _load(self, role: str, name: str) -> Any:
        with self._one_at_a_time(), self._seconds.labels(role).time():
            models: Sequence[InstalledModel] = ()
            if registry.entry(role, name).needs_model:
                models = self._models(role, name)
                self.active[role] = models[0].name
            if registry.in_process(self._settings, role):
                return EngineProcess(ChosenEngine(role, name, models, self.slots(role)), self._settings)
            return registry.load(role, name)(self._settings, models)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Load engines one after another if the plan says so, also reloaded ones. Blocking."""
        # An engine that hangs while loading must not block the others forever.
        held = self.plan is not None and self.plan.one_by_one and self._loading.acquire(timeout=LOAD_WAIT_SECONDS)
        try:
            yield
        finally:
            if held:
                self._loading.release()

    def _models(self, role: str, engine: str) -> list[InstalledModel]:
        """The chosen model first; the others that the engine can load follow, if its role wants them."""
        chosen = self._chosen(role)
        names = [chosen.name]
        if registry.roles()[role].every_model:
            others = (m for m in self._catalog.manifests.values() if (m.role, m.engine) == (role, engine))
            names += [m.name for m in others if m.name != chosen.name and self._catalog.installed(m.name)]
        return [self._open(name) for name in names]

    def _chosen(self, role: str) -> Manifest:
        """The planned model. If none was planned, or it is reloaded and no longer fits, the best that fits now."""
        planned = self.plan.models.get(role) if self.plan is not None else None
        if planned is not None and (role not in self.active or planned.memory <= model_selection.available()):
            return planned
        return model_selection.plan(self._catalog, self._settings, [role]).models[role]

    def _open(self, name: str) -> InstalledModel:
        """Open a model, verifying its files only once: a reload must not wait for hashing gigabytes again."""
        if name not in self._opened or not self._catalog.installed(name):
            self._opened[name] = self._catalog.open(name)
        return self._opened[name]
