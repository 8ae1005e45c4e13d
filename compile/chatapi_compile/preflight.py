"""Preflight: whether a plan fits the board's disk and memory, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatapi.catalog.compiled.verify import RESERVE
from chatapi.errors import InternalError, ModelError, StorageError
from chatapi.storage import atomic_files
from chatapi.system import jetson as boards
from chatapi.system.jetson import gigabytes
from chatapi_compile.plan import CompilePlan


@dataclass(frozen=True)
class MemoryFit:
    """What is free on a machine, in bytes."""

    disk: int
    memory: int
    """MemAvailable."""
    swap: int
    """SwapFree; good enough for weights that are being quantised, not for a model that runs."""


def room(data: Path, root: Path = Path("/")) -> MemoryFit:
    """What is free for a data directory, on the machine whose files stand under `root`."""
    return MemoryFit(atomic_files.free(data), boards.meminfo(root), boards.meminfo(root, "SwapFree"))


def obstacles(plan: CompilePlan, free: MemoryFit) -> Iterator[InternalError]:
    """All that keeps the plan from being carried out, each in one sentence with its remedy."""
    name, estimate = plan.manifest.name, plan.estimate
    present = sum(path.stat().st_size for path in plan.work.folder.rglob("*") if path.is_file())
    if free.disk + present < estimate.disk + atomic_files.RESERVE:
        yield StorageError(
            f"compiling {name} needs {gigabytes(estimate.disk)} of {plan.place.folder.parent} and "
            f"{gigabytes(free.disk + present)} are free; make room there, or set data to a folder on a larger disk",
            details={"needed": estimate.disk, "free": free.disk},
        )
    if estimate.running + RESERVE > plan.board.memory:
        yield ModelError(
            f"{name} takes {gigabytes(estimate.running)} when it runs and {gigabytes(RESERVE)} are for the rest, and "
            f"{plan.board.model} has {gigabytes(plan.board.memory)}; compile a smaller model",
            code="model_too_large",
        )
    if estimate.converting > free.memory + free.swap:
        yield ModelError(
            f"quantising {name} takes {gigabytes(estimate.converting)} of memory and "
            f"{gigabytes(free.memory + free.swap)} are free, swap included; add swap, end other programs, or compile "
            f"it on a larger {plan.board.family} with the same JetPack and copy {plan.place.folder} here",
            code="too_little_memory",
        )
