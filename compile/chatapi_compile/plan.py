"""What compiling a model for a board takes: the command lines, and time, disk and memory told beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatapi.catalog.compiled.artifact import LIBRARY, WEIGHTS, CompiledModel, compiled, home
from chatapi.catalog.compiled.toolchain import Toolchain
from chatapi.catalog.manifest import Compile, Manifest, ManifestLimits, Quantization
from chatapi.errors import BadInput, ModelError
from chatapi.system.jetson import JetsonBoard

MARGIN = 100_000_000
"""Bytes of disk for the library, the tokenizer and the log."""
LOADED = 1_500_000_000
"""Bytes that Python takes with torch, transformers and TVM imported, and the compiler with a model of 7 billion."""
READING = 60e6
"""Bytes of source weights quantised a second; rather slow, as reading from an SD card bounds it."""
COMPILING = 300.0
"""Seconds for the library: mostly nvcc, whatever the model's size."""
STARTING = 30.0
"""Seconds until mlc_llm has imported everything, for each step."""


@dataclass(frozen=True)
class CompileStep:
    """One command, and how its results are known."""

    name: str
    told: str
    argv: tuple[str, ...]
    key: str
    """Changes with everything that the results depend on."""
    source: bool
    """Whether it reads the source weights."""


@dataclass(frozen=True)
class Estimate:
    """What it will take; nothing of it was measured on a board."""

    seconds: float
    """`STARTING` a step, the source at `READING`, and `COMPILING`; without fetching."""
    fetched: int
    """Bytes of source weights still to fetch, by the manifest."""
    disk: int
    """Bytes of disk: what is to be fetched, the quantised weights by the manifest, and `MARGIN`."""
    converting: int
    """Bytes of memory while weights are quantised: the two largest source files, which mlc_llm keeps whole while a
    weight needs both (mlc-llm 79d603f, loader/huggingface_loader.py), and `LOADED`."""
    running: int
    """Bytes of memory when the model is loaded, by the manifest."""


@dataclass(frozen=True)
class CompilePlan:
    """How one model is compiled for one board."""

    manifest: Manifest
    board: JetsonBoard
    quantization: Quantization
    limits: ManifestLimits
    target: Mapping[str, object]
    """Of TVM, for the GPU."""
    host: str
    """LLVM's triple of the machine."""
    versions: Mapping[str, str]
    place: CompiledModel
    """Where the model lies when it is done."""
    work: CompiledModel
    """Where it lies until then, and is gone on from."""
    steps: tuple[CompileStep, ...]
    estimate: Estimate


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for what and where."""

    manifest: Manifest
    board: JetsonBoard
    machine: str
    """As uname names it; compiled where it runs, so the host is this one."""
    tools: Toolchain
    data: Path
    installed: bool
    """Whether the source weights are here."""
    quantization: str | None = None
    """One of the manifest's; None: its first."""


def plan(request: CompileRequest) -> CompilePlan:
    """The plan, whether it fits or not. Raises BadInput or ModelError where there can be none."""
    manifest, board = request.manifest, request.board
    table = table_of(manifest)
    if not board.gpu:
        raise ModelError(
            f"{board.model} has the chip {board.chip or 'that no file names'}, for which MLC compiles nothing here; "
            "an Orin or a Thor is needed",
            code="no_board",
        )
    quantization, limits = _chosen(request, table), table.limits(board.memory)
    target = {
        "kind": "cuda",
        "arch": board.gpu,
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
        "registers_per_block": 65536,
    }
    host = f"{request.machine}-linux-gnu"
    work = CompiledModel(home(request.data) / ".partial" / manifest.name)
    steps = _steps(request, quantization, limits, work, _Target(json.dumps(target, separators=(",", ":")), host))
    return CompilePlan(
        manifest, board, quantization, limits, target, host, request.tools.versions,
        compiled(request.data, manifest.name), work, steps, _estimate(manifest, limits, request.installed),
    )  # fmt: skip


def table_of(manifest: Manifest) -> Compile:
    """How the model is compiled. Raises BadInput where it is not."""
    if manifest.compile is None:
        raise BadInput(
            f"{manifest.name} runs on {manifest.engine} as it is; only models of the engine mlc are compiled"
        )
    return manifest.compile


def _chosen(request: CompileRequest, table: Compile) -> Quantization:
    wanted = request.quantization or table.quantizations[0]
    chosen = next((each for each in table.quantizations if each == wanted), None)
    if chosen is None:
        told = ", ".join(table.quantizations)
        raise BadInput(f"{request.manifest.name} is not compiled as {wanted!r}; it can be {told}")
    if chosen == "q4f16_ft" and not request.tools.faster_transformer:
        raise ModelError(
            f"the TVM of this machine lacks the kernels of q4f16_ft; leave it out: {table.quantizations[0]} is taken",
            code="no_quantization",
        )
    return chosen


@dataclass(frozen=True)
class _Target:
    device: str
    """JSON: mlc_llm takes names that do not fit boards, and "cuda -arch=sm_87" no more (support/auto_target.py)."""
    host: str


def _steps(
    request: CompileRequest, quantization: Quantization, limits: ManifestLimits, work: CompiledModel, target: _Target
) -> tuple[CompileStep, ...]:
    """The three commands of mlc_llm 79d603f (python/mlc_llm/cli: gen_config.py, convert_weight.py, compile.py)."""
    manifest, tools = request.manifest, request.tools
    source, weights, library = str(request.data / "models" / manifest.name), str(work.weights), str(work.lib)
    sizes = {name: getattr(limits, name) for name in ManifestLimits.model_fields}
    # O3 is O2 with FasterTransformer's kernels, which q4f16_ft is laid out for.
    level = "O3" if quantization == "q4f16_ft" else "O2"
    config = tools.command(
        "gen_config", source, "--quantization", quantization, "--conv-template", table_of(manifest).conv_template,
        *(part for name, size in sizes.items() for part in (f"--{name.replace('_', '-')}", str(size))),
        "--output", weights,
    )  # fmt: skip
    # "cuda" and not "auto": without a GPU the second quietly takes the CPU, for hours.
    convert = tools.command(
        "convert_weight", source, "--quantization", quantization, "--device", "cuda", "--output", weights
    )
    build = tools.command(
        "compile", weights, "--quantization", quantization, "--device", target.device, "--host", target.host,
        "--opt", level, "--overrides", ";".join(f"{name}={size}" for name, size in sizes.items()), "--output", library,
    )  # fmt: skip
    return (
        _step(request, "config", "writing the model's configuration", config, source=True),
        _step(request, WEIGHTS, f"quantising the weights to {quantization}", convert, source=True),
        _step(request, LIBRARY, "compiling the library", build, source=False),
    )


def _step(request: CompileRequest, name: str, told: str, argv: tuple[str, ...], source: bool) -> CompileStep:
    files = {name: file.model_dump() for name, file in request.manifest.files.items()}
    depends = [argv, dict(request.tools.versions), files, [str(source) for source in request.manifest.sources]]
    return CompileStep(
        name, told, argv, hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest(), source
    )


def _estimate(manifest: Manifest, limits: ManifestLimits, installed: bool) -> Estimate:
    table, fetched = table_of(manifest), 0 if installed else manifest.size
    largest = sorted((file.limit for name, file in manifest.files.items() if name.endswith(".safetensors")))[-2:]
    return Estimate(
        seconds=3 * STARTING + manifest.size / READING + COMPILING,
        fetched=fetched,
        disk=fetched + table.weights + MARGIN,
        converting=sum(largest) + LOADED,
        running=table.needed(limits),
    )
