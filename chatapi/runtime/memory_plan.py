"""Which models are loaded, and in what order, so that they fit the memory together.

On a Jetson CPU and GPU share one memory, nothing of the GPU's part can be swapped out, and what goes beyond it ends in
the kernel's OOM killer. So the models are chosen and added up before the first is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatapi.catalog import Catalog, Manifest
from chatapi.engines import registry
from chatapi.errors import ModelError
from chatapi.settings import Settings
from chatapi.system import jetson
from chatapi.system.jetson import gigabytes

SHARE = 0.5
"""Part of the free memory that models may need to be loaded side by side: while it loads, an engine may hold a file's
bytes beside what it makes of them, at worst each as large as its model."""
ESSENTIAL = tuple(role for role in registry.ENGINES if role not in ("turn_detection", "wake_word"))
"""Roles that every turn may need; live conversation loads the others where it needs them."""
CHOICE = ("llm", "asr", "tts", "turn_detection", "vad", "wake_word")
"""Who chooses first where models are chosen automatically: better answers are worth more than a better voice."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is to be loaded."""

    models: Mapping[str, Manifest]
    """Role -> its model; roles whose engine needs none are missing."""
    free: int
    """Bytes that may be taken."""
    one_by_one: bool
    """Whether to load one after another."""

    @property
    def needed(self) -> int:
        """Bytes of all together, loaded."""
        return sum(model.memory for model in self.models.values())

    def order(self, roles: Collection[str]) -> list[str]:
        """Largest first: loading needs room for a while that grows with the model, and then least else is there."""
        return sorted(roles, key=lambda role: self.models[role].memory if role in self.models else 0, reverse=True)


def plan(
    catalog: Catalog, settings: Settings, roles: Collection[str], root: Path = Path("/"), free: int | None = None
) -> MemoryPlan:
    """Choose the models of these roles, so that they fit the memory together.

    `free`: bytes that may be used; None: those that are free now. Raises ModelError or NotFound when one is missing,
    ModelError (model_too_large) when they do not fit: it names what each needs, what is free, and what would fit.
    """
    free = available(root) if free is None else free
    unified = jetson.find(root) is not None
    tables = {role: getattr(settings, role) for role in CHOICE if role in roles}
    wanted = {role: (each.engine, each.model) for role, each in tables.items() if _needs_model(role, each.engine)}
    chosen = {role: catalog.choose(role, *each) for role, each in wanted.items() if each[1] != "auto"}
    open_roles = [role for role in wanted if role not in chosen]
    least = {role: min(_installed(catalog, role, wanted[role][0]), key=lambda m: m.memory) for role in open_roles}
    for role in open_roles:
        kept = sum((chosen.get(other) or least[other]).memory for other in wanted if other != role)
        budget = max(free - kept, least[role].memory)
        chosen[role] = catalog.choose(role, wanted[role][0], memory=budget)
    # Where the GPU has memory of its own, or there is none, a system may make room by swapping others out.
    limit = free if unified else free + jetson.meminfo(root, "SwapFree")
    found = MemoryPlan(chosen, free, unified or sum(model.memory for model in chosen.values()) > SHARE * free)
    if found.needed > limit:
        raise ModelError(_refusal(catalog, found, limit), code="model_too_large")
    return found


def available(root: Path = Path("/")) -> int:
    """Bytes that may be taken."""
    return jetson.available(root) or psutil.virtual_memory().available


def _needs_model(role: str, engine: str) -> bool:
    return registry.entry(role, engine).needs_model


def _installed(catalog: Catalog, role: str, engine: str) -> list[Manifest]:
    """At least one. Raises ModelError naming the command that fetches one."""
    here = [each for each in _able(catalog, role, engine) if catalog.installed(each.name)]
    return here or [catalog.choose(role, engine)]


def _able(catalog: Catalog, role: str, engine: str) -> list[Manifest]:
    return [each for each in catalog.manifests.values() if (each.role, each.engine) == (role, engine)]


def _refusal(catalog: Catalog, found: MemoryPlan, limit: int) -> str:
    roles = found.order(found.models)
    needs = ", ".join(f"{role} {found.models[role].name} {gigabytes(found.models[role].memory)}" for role in roles)
    told = f"the models need {gigabytes(found.needed)} and {gigabytes(limit)} are free ({needs}); "
    for role in roles:
        now = found.models[role]
        room = limit - found.needed + now.memory
        fitting = [each for each in _able(catalog, role, now.engine) if each.memory <= room]
        if fitting:
            # One that is here before one that has to be fetched.
            best = max(fitting, key=lambda each: (catalog.installed(each.name), each.quality))
            fetch = "" if catalog.installed(best.name) else f" after `chatapi models fetch {best.name}`"
            return f"{told}{best.name} ({gigabytes(best.memory)}) would fit: set {role}.model={best.name}{fetch}"
    return f"{told}no model of one role alone makes enough room: choose smaller ones of several, or end other programs"
