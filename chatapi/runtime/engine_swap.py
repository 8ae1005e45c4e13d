"""Swaps the engine or the model of a role while the appliance runs.

The new engine is loaded beside the present one when both fit the memory; else calls wait while the present one is
unloaded and the new one loaded. Whatever can be wrong with the choice is found before the present engine is touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from chatapi.catalog import Catalog, Manifest
from chatapi.engines import registry
from chatapi.errors import ChatapiError, ModelError, SettingsError, WaitAndRetry
from chatapi.runtime import engine_selection, model_selection
from chatapi.runtime.engine_loading import EngineLoader
from chatapi.runtime.model_selection import PROCESS
from chatapi.runtime.workers import Replacement, Worker
from chatapi.settings import Settings
from chatapi.system import jetson
from chatapi.system.jetson import gigabytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swap:
    """What takes the place of a role's engine."""

    role: str
    settings: Settings
    """With the engine's name instead of `auto`."""
    model: Manifest | None
    """None: the engine needs none."""
    beside: bool
    """Whether it fits the memory beside the present one."""
    given_back: int = 0
    """Bytes that the present one occupies while this one is loaded, and gives back afterwards."""

    @property
    def name(self) -> str:
        """The model's name, or the engine's where it needs none."""
        return self.model.name if self.model is not None else str(getattr(self.settings, self.role).engine)


class EngineSwaps:
    """Swaps engines, one after another."""

    def __init__(self, loader: EngineLoader, catalog: Catalog) -> None:
        self.available: Callable[[], int] = model_selection.available
        """Memory that may be used now, in bytes."""
        self._loader = loader
        self._catalog = catalog

    async def swap(self, worker: Worker[Any], wanted: Settings) -> Settings:
        """Swap the engine of a role for the one that these settings want; an engine that was never loaded is only
        chosen. Returns the settings with the names of engines instead of `auto`.

        Raises SettingsError in words, with the code of the reason: then the previous engine stays in use. Raises
        WaitAndRetry when that cannot be decided now.
        """
        role, since = worker.name, time.monotonic()
        new = await anyio.to_thread.run_sync(self._planned, role, worker.state == "ready", wanted)
        before = self._loader.active.get(role) or getattr(self._loader.settings, role).engine
        if worker.lifetime.was_loaded:
            # Calls in flight end within the deadline of their turn.
            drain_seconds = wanted.limits.turn_seconds
            try:
                await worker.swap(self._replacement(new), new.beside, drain_seconds)
            except WaitAndRetry:
                raise
            except Exception as error:
                unknown = None if isinstance(error, ChatapiError) and error.__cause__ is None else error
                log.warning("engine not swapped", extra={"role": role, "model": new.name}, exc_info=unknown)
                raise _not_loaded(new, before, worker, error) from error
        self._loader.adopt(role, new.settings, new.model)
        fields = {"role": role, "model": new.name, "before": before, "beside": new.beside}
        log.info("engine swapped", extra={**fields, "seconds": round(time.monotonic() - since, 2)})
        return new.settings

    def _planned(self, role: str, loaded: bool, wanted: Settings) -> Swap:
        """Choose the engine and its model, and verify the model's files. Blocking."""
        present = self._catalog.manifests.get(self._loader.active.get(role, "")) if loaded else None
        given_back = present.memory if present is not None else 0
        given_back += PROCESS * (loaded and registry.in_process(self._loader.settings, role))
        free = self.available()
        try:
            return self._fitting(role, wanted, free, given_back)
        except SettingsError:
            raise
        except ChatapiError as error:
            raise SettingsError(f"{_key(role, wanted)}: {error.message}", code=error.code) from error

    def _fitting(self, role: str, wanted: Settings, free: int, given_back: int) -> Swap:
        settings = engine_selection.resolve_engines(wanted, free=free + given_back)
        table = getattr(settings, role)
        entry = registry.entry(role, table.engine)
        if not registry.installed(role, table.engine):
            raise SettingsError(
                f"{role}.engine: {table.engine} needs a library that is not installed: {entry.install}",
                code="engine_not_installed",
            )
        outside = PROCESS * registry.in_process(settings, role)
        if not entry.needs_model:
            return Swap(role, settings, None, beside=True, given_back=given_back)
        if table.model == "auto":
            model = self._catalog.choose(role, table.engine, memory=free + given_back - outside)
        else:
            model = self._catalog.choose(role, table.engine, table.model)
        needed = model.memory + outside
        # Where the GPU has memory of its own, or there is no GPU, the system may swap other programs out.
        limit = free + given_back + (0 if jetson.find() is not None else jetson.meminfo(key="SwapFree"))
        if needed > limit:
            raise ModelError(
                f"{model.name} needs {gigabytes(needed)}, and {gigabytes(limit)} are free without the present model; "
                "choose a smaller one, or stop other programs",
                code="model_too_large",
            )
        self._loader.verify(model)
        beside = needed <= free
        return Swap(role, settings, model, beside, given_back if beside else 0)

    def _replacement(self, new: Swap) -> Replacement[Any]:
        role = registry.roles()[new.role]
        return Replacement(
            self._loader.loading_other(new.role, new.settings, new.model, new.given_back),
            self._loader.slots(new.role, new.settings),
            lambda engine: role.warm_up(engine, new.settings),
            registry.entry(new.role, getattr(new.settings, new.role).engine).remote,
        )


def _not_loaded(new: Swap, before: str, worker: Worker[Any], error: Exception) -> SettingsError:
    """The error of an engine that could not be loaded; the reason of a library is only in the log."""
    reason = error.message if isinstance(error, ChatapiError) else "the log says why"
    kept = "stays in use" if worker.state == "ready" else "is not loaded now, and the next request tries again"
    code = error.code if isinstance(error, ChatapiError) else "engine_failed"
    about = f"{_key(new.role, new.settings)}: {new.name} could not be loaded ({reason}); {before} {kept}"
    return SettingsError(about, code=code)


def _key(role: str, settings: Settings) -> str:
    """The setting that names what was chosen."""
    return f"{role}.{'model' if getattr(settings, role).model != 'auto' else 'engine'}"
