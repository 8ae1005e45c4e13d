"""Chooses the models to load, and their order, so that they fit the memory together.

On a Jetson the CPU and the GPU share one memory. The GPU's part cannot be swapped out, and an allocation beyond it
wakes the kernel's OOM killer. So the models are chosen and their memory added up before the first one is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from chatapi.catalog import Catalog, Manifest
from chatapi.engines import registry
from chatapi.errors import ModelError
from chatapi.settings import Settings
from chatapi.system import jetson
from chatapi.system.jetson import gigabytes
from chatapi.system.memory import available as available

SHARE = 0.5
"""Share of the free memory up to which models are loaded in parallel: while it loads, an engine may hold a file's bytes
beside the structures built from them, at worst each as large as its model."""

PROCESS = 40 << 20
"""Memory of a child process beside its model, in bytes: Python, libraries, and for Piper the sandbox of espeak-ng."""


@dataclass(frozen=True)
class MemoryPlan:
    """The models to load."""

    models: Mapping[str, Manifest]
    """Role -> its model; roles whose engine needs no model are missing."""
    free: int
    """Memory that may be used, in bytes."""
    one_by_one: bool
    """Whether to load one model after another."""

    @property
    def needed(self) -> int:
        """Memory of all loaded models, in bytes."""
        return sum(model.memory for model in self.models.values())

    def order(self, roles: Collection[str]) -> list[str]:
        """Roles, the largest model first: the temporary memory of loading grows with the model, and the first to load
        has the most memory free."""
        return sorted(roles, key=lambda role: self.models[role].memory if role in self.models else 0, reverse=True)


def plan(
    catalog: Catalog, settings: Settings, roles: Collection[str], root: Path = Path("/"), free: int | None = None
) -> MemoryPlan:
    """Choose the models of these roles so that they fit the memory together.

    `free`: bytes that may be used; None: the bytes that are free now. Raises ModelError or NotFound when a model is
    missing, and ModelError (model_too_large) when they do not fit: it names the memory of each model, the free memory,
    and a model that would fit.
    """
    free = (available(root) if free is None else free) - PROCESS * sum(registry.in_process(settings, r) for r in roles)
    unified = jetson.find(root) is not None
    ranked = sorted(roles, key=lambda role: registry.roles()[role].memory_rank)
    tables = {role: getattr(settings, role) for role in ranked}
    wanted = {role: (each.engine, each.model) for role, each in tables.items() if _needs_model(role, each.engine)}
    chosen = {role: catalog.choose(role, *each) for role, each in wanted.items() if each[1] != "auto"}
    open_roles = [role for role in wanted if role not in chosen]
    least = {role: min(_installed(catalog, role, wanted[role][0]), key=lambda m: m.memory) for role in open_roles}
    for role in open_roles:
        kept = sum((chosen.get(other) or least[other]).memory for other in wanted if other != role)
        budget = max(free - kept, least[role].memory)
        chosen[role] = catalog.choose(role, wanted[role][0], memory=budget)
    # Where the GPU has memory of its own, or there is no GPU, the system may swap other programs out.
    limit = free if unified else free + jetson.meminfo(root, "SwapFree")
    result = MemoryPlan(chosen, free, unified or sum(model.memory for model in chosen.values()) > SHARE * free)
    if result.needed > limit:
        raise ModelError(_too_large(catalog, result, limit), code="model_too_large")
    return result


def _needs_model(role: str, engine: str) -> bool:
    return registry.entry(role, engine).needs_model


def _installed(catalog: Catalog, role: str, engine: str) -> list[Manifest]:
    """The installed models, at least one. Raises ModelError naming the command that fetches one."""
    installed = [each for each in _candidates(catalog, role, engine) if catalog.installed(each.name)]
    return installed or [catalog.choose(role, engine)]


def _candidates(catalog: Catalog, role: str, engine: str) -> list[Manifest]:
    return [each for each in catalog.manifests.values() if (each.role, each.engine) == (role, engine)]


def _too_large(catalog: Catalog, chosen: MemoryPlan, limit: int) -> str:
    """The error message when the chosen models do not fit."""
    roles = chosen.order(chosen.models)
    needs = ", ".join(f"{role} {chosen.models[role].name} {gigabytes(chosen.models[role].memory)}" for role in roles)
    message = f"the models need {gigabytes(chosen.needed)} and {gigabytes(limit)} are free ({needs}); "
    for role in roles:
        model = chosen.models[role]
        left = limit - chosen.needed + model.memory
        fitting = [each for each in _candidates(catalog, role, model.engine) if each.memory <= left]
        if fitting:
            # Prefer an installed model to one that has to be fetched.
            best = max(fitting, key=lambda each: (catalog.installed(each.name), each.quality))
            fetch = "" if catalog.installed(best.name) else f" after `chatapi models fetch {best.name}`"
            return f"{message}{best.name} ({gigabytes(best.memory)}) would fit: set {role}.model={best.name}{fetch}"
    return f"{message}one smaller model is not enough: choose smaller models for several, or end other programs"
