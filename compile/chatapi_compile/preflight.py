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
    """MemAvailable, in bytes."""
    swap: int
    """SwapFree, in bytes; enough for weights that are being quantized, not for a model that runs."""


def room(data: Path, root: Path = Path("/")) -> MemoryFit:
    """What is free for a data directory, on the machine whose files are under `root`."""
    return MemoryFit(atomic_files.free(data), boards.meminfo(root), boards.meminfo(root, "SwapFree"))


def obstacles(plan: CompilePlan, free: MemoryFit) -> Iterator[InternalError]:
    """Everything that prevents the plan, each in one sentence with its remedy."""
    name, estimate = plan.manifest.name, plan.estimate
    present = sum(path.stat().st_size for path in plan.work.folder.rglob("*") if path.is_file())
    if free.disk + present < estimate.disk + atomic_files.RESERVE:
        yield StorageError(
            f"compiling {name} needs {gigabytes(estimate.disk)} in {plan.place.folder.parent}, which has "
            f"{gigabytes(free.disk + present)} free; free space there, or set data to a folder on a larger disk",
            details={"needed": estimate.disk, "free": free.disk},
        )
    if estimate.running + RESERVE > plan.board.memory:
        yield ModelError(
            f"{name} takes {gigabytes(estimate.running)} when it runs, {gigabytes(RESERVE)} are reserved for the rest, "
            f"and {plan.board.model} has {gigabytes(plan.board.memory)}; compile a smaller model",
            code="model_too_large",
        )
    if estimate.converting > free.memory + free.swap:
        yield ModelError(
            f"quantizing {name} takes {gigabytes(estimate.converting)} of memory, and "
            f"{gigabytes(free.memory + free.swap)} are free, swap included; add swap, stop other programs, or compile "
            f"it on a larger {plan.board.family} with the same JetPack and copy {plan.place.folder} here",
            code="too_little_memory",
        )
