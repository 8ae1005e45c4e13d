"""Whether a plan fits a board, said before anything is begun; and how much a compiled model can remember there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatapi.catalog.compiled.verify import RESERVE
from chatapi.compiling.plan import CompilePlan
from chatapi.errors import InternalError, ModelError, StorageError
from chatapi.storage import atomic_files as disk
from chatapi.system import jetson as boards
from chatapi.system.jetson import gigabytes

HEADROOM = 400 << 20
"""Bytes beside weights, temporary memory and KV cache: MLC's workspaces, and the other engines while they compute."""


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
    return MemoryFit(disk.free(data), boards.meminfo(root), boards.meminfo(root, "SwapFree"))


def obstacles(plan: CompilePlan, free: MemoryFit) -> Iterator[InternalError]:
    """All that keeps the plan from being carried out, each in one sentence with its remedy."""
    name, estimate = plan.manifest.name, plan.estimate
    present = sum(path.stat().st_size for path in plan.work.folder.rglob("*") if path.is_file())
    if free.disk + present < estimate.disk + disk.RESERVE:
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


def fitting(metadata: Mapping[str, Any], weights: int, available: int, context: int) -> int:
    """Tokens whose keys and values fit the memory that is left beside the weights; all of these are bytes.

    Bytes a token as MLC counts them (`EstimateMemoryUsageOnMode`, config.cc): 16 bits for each key and value, and 1.25.
    Without a bound for a model that keeps none. ModelError where not even one context fits.
    """
    cache = metadata.get("kv_cache")
    if not cache:
        return sys.maxsize
    each = cache["head_dim"] * cache["num_key_value_heads"] * cache["num_hidden_layers"] * 4 + 1.25
    taken = weights + max(metadata.get("memory_usage", {}).values(), default=0) + HEADROOM
    tokens = int((available - taken) / each)
    if tokens < context:
        raise ModelError(
            f"the model needs {gigabytes(taken + each * context)} of memory with a context of {context} and "
            f"{gigabytes(available)} are free; set mlc.context lower, take a smaller model, or stop what else runs"
        )
    return tokens
