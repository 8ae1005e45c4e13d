"""Loads the engine of a role: its model as the memory plan chose it, on threads or in a child process as the settings
say."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import Histogram

from chatapi.catalog import Catalog, InstalledModel, Manifest
from chatapi.engines import registry
from chatapi.errors import EngineFailed, ModelError
from chatapi.runtime import model_selection
from chatapi.runtime.engine_process import ChosenEngine, EngineProcess
from chatapi.settings import Settings
from chatapi.system import jetson, memory

ABOUT_MEMORY = re.compile(r"memory|alloc|cuda|nvmap", re.IGNORECASE)
"""What an error says that a fault of the board's allocator may have caused."""
LOAD_WAIT_SECONDS = 120
"""Longest wait of an engine for another one to load, in seconds."""


class EngineLoader:
    """Loads engines, also again after they were unloaded."""

    def __init__(self, settings: Settings, catalog: Catalog, seconds: Histogram, root: Path = Path("/")) -> None:
        """`seconds` gets the loading time of each role; `root`: root of the machine's file system."""
        self.active: dict[str, str] = {}
        """Role -> name of the model in use."""
        self.plan: model_selection.MemoryPlan | None = None
        """The models chosen when the engines were loaded."""
        self.settings = settings
        self._catalog = catalog
        self._seconds = seconds
        self._root = root
        self._opened: dict[str, InstalledModel] = {}
        """Models whose files were verified."""
        self._loading = threading.Lock()

    def choose(self, roles: Collection[str]) -> model_selection.MemoryPlan:
        """Choose the models of these roles; blocking. Raises what `model_selection.plan` raises."""
        self.plan = model_selection.plan(self._catalog, self.settings, roles)
        return self.plan

    def require(self, role: str) -> None:
        """Checks that the engine of a role has a model; quick. Raises ModelError with the command that fetches one."""
        if registry.entry(role, getattr(self.settings, role).engine).needs_model:
            self._chosen(role)

    def slots(self, role: str, settings: Settings | None = None) -> int:
        """How many calls the engine of a role runs at once, with other settings than the present ones if given."""
        tables = settings or self.settings
        engine = getattr(tables, role).engine
        table = getattr(tables, registry.entry(role, engine).slots_of or engine, None)
        return int(getattr(table, "slots", 1))

    def loading(self, role: str) -> Callable[[], Any]:
        """What loads the engine of a role with the settings and the plan of then; blocking."""

        def load() -> Any:
            settings = self.settings
            with self._one_at_a_time():
                needs_model = registry.entry(role, getattr(settings, role).engine).needs_model
                models = self._models(role, self._chosen(role), settings) if needs_model else []
                if models:
                    self.active[role] = models[0].name
                return self._load(role, settings, models)

        return load

    def loading_other(
        self, role: str, settings: Settings, model: Manifest | None, given_back: int = 0
    ) -> Callable[[], Any]:
        """What loads an engine that takes the place of a role's after `adopt`; blocking. `given_back`: bytes that the
        present engine occupies and will give back."""

        def load() -> Any:
            with self._one_at_a_time(), memory.expecting(given_back):
                return self._load(role, settings, [] if model is None else self._models(role, model, settings))

        return load

    def adopt(self, role: str, settings: Settings, model: Manifest | None) -> None:
        """Load this engine and model from now on. In the event loop."""
        self.settings = settings
        planned = self.plan or model_selection.MemoryPlan({}, model_selection.available(), one_by_one=False)
        models = {name: each for name, each in planned.models.items() if name != role}
        if model is not None:
            models[role] = model
        self.plan = replace(planned, models=models)
        self.active.pop(role, None)
        if model is not None:
            self.active[role] = model.name

    def verify(self, model: Manifest) -> None:
        """Verify a model's files, unless they were. Blocking. Raises ModelError with the command that repairs them."""
        self._open(model.name)

    def _load(self, role: str, settings: Settings, models: Sequence[InstalledModel]) -> Any:
        name = getattr(settings, role).engine
        with self._seconds.labels(role).time(), self._faults_of_the_board():
            try:
                if registry.in_process(settings, role):
                    return EngineProcess(ChosenEngine(role, name, models, self.slots(role, settings)), settings)
                return registry.load(role, name)(settings, models)
            except Exception:
                # A file may have been damaged since it was verified.
                for each in models:
                    self._opened.pop(each.name, None)
                raise

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

    @contextmanager
    def _faults_of_the_board(self) -> Iterator[None]:
        """Adds a known fault of the board to an error that it may have caused."""
        try:
            yield
        except (ModelError, EngineFailed) as error:
            board = jetson.find(self._root)
            if board is None or not board.fault or not ABOUT_MEMORY.search(error.message):
                raise
            raise type(error)(f"{error.message}; {board.fault}", code=error.code, details=error.details) from error

    def _models(self, role: str, chosen: Manifest, settings: Settings) -> list[InstalledModel]:
        """The chosen model first; the others that the engine can load follow, if its role wants them."""
        names, engine = [chosen.name], getattr(settings, role).engine
        if registry.roles()[role].every_model:
            others = (m for m in self._catalog.manifests.values() if (m.role, m.engine) == (role, engine))
            names += [m.name for m in others if m.name != chosen.name and self._catalog.installed(m.name)]
        return [self._open(name) for name in names]

    def _chosen(self, role: str) -> Manifest:
        """The planned model. If none was planned, or it is reloaded and no longer fits, the best that fits now."""
        planned = self.plan.models.get(role) if self.plan is not None else None
        if planned is not None and (role not in self.active or planned.memory <= model_selection.available()):
            return planned
        return model_selection.plan(self._catalog, self.settings, [role]).models[role]

    def _open(self, name: str) -> InstalledModel:
        """Open a model, verifying its files only once: a reload must not wait for hashing gigabytes again."""
        if name not in self._opened or not self._catalog.installed(name):
            self._opened[name] = self._catalog.open(name)
        return self._opened[name]
