"""The plan of compiling a model for a board: the command lines, and estimates of time, disk and memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatapi.catalog.compiled.artifact import LIBRARY, WEIGHTS, CompiledModel, compiled
from chatapi.catalog.compiled.toolchain import Toolchain
from chatapi.catalog.manifest import Compile, Manifest, ManifestLimits, Quantization
from chatapi.errors import BadInput, ModelError
from chatapi.storage.layout import DataDirectory
from chatapi.system.jetson import JetsonBoard
from chatapi_compile.boards import compile_target

MARGIN = 100_000_000
"""Bytes of disk for the library, the tokenizer and the log."""
LOADED = 1_500_000_000
"""Bytes that Python takes with torch, transformers and TVM imported, and the compiler with a model of 7 billion
parameters."""
READING = 60e6
"""Bytes of source weights quantized per second; a low estimate, because reading from an SD card bounds it."""
COMPILING = 300.0
"""Seconds of compiling the library: mostly nvcc, whatever the model's size."""
STARTING = 30.0
"""Seconds until mlc_llm has imported everything, for each step."""


@dataclass(frozen=True)
class CompileStep:
    """One command of mlc_llm, and how its results are recognised."""

    name: str
    description: str
    argv: tuple[str, ...]
    key: str
    """Hash of everything that the results depend on."""
    source: bool
    """Whether it reads the source weights."""


@dataclass(frozen=True)
class Estimate:
    """Estimates of time, disk and memory; none of them was measured on a board."""

    seconds: float
    """`STARTING` per step, the source weights at `READING`, and `COMPILING`; without fetching."""
    fetched: int
    """Bytes of source weights still to fetch, by the manifest."""
    disk: int
    """Bytes of disk: the source weights still to fetch, the quantized weights by the manifest, and `MARGIN`."""
    converting: int
    """Bytes of memory while weights are quantized: the two largest source files, which mlc_llm keeps in memory while a
    weight needs both (mlc-llm 79d603f, loader/huggingface_loader.py), and `LOADED`."""
    running: int
    """Bytes of memory of the loaded model, by the manifest."""


@dataclass(frozen=True)
class CompilePlan:
    """The plan of compiling one model for one board."""

    manifest: Manifest
    board: JetsonBoard
    quantization: Quantization
    limits: ManifestLimits
    target: Mapping[str, object]
    """TVM's target of the GPU."""
    host: str
    """LLVM triple of the CPU."""
    versions: Mapping[str, str]
    data: Path
    """The data directory."""
    place: CompiledModel
    """Where the model lies when it is complete."""
    work: CompiledModel
    """Where its files lie until then, and from where it is resumed."""
    steps: tuple[CompileStep, ...]
    estimate: Estimate


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for which board and where."""

    manifest: Manifest
    board: JetsonBoard
    machine: str
    """The machine as uname names it; models are compiled on the board itself, so it is also the host."""
    tools: Toolchain
    data: Path
    installed: bool
    """Whether the source weights are installed."""
    quantization: str | None = None
    """One of the manifest's; None: its first."""


def plan(request: CompileRequest) -> CompilePlan:
    """The plan, whether it fits the board or not. Raises BadInput or ModelError where there can be none."""
    manifest, board = request.manifest, request.board
    table = table_of(manifest)
    board_target = compile_target(board)
    quantization, limits = _chosen(request, table), table.limits(board.memory)
    target, host = board_target.target, board_target.host.format(machine=request.machine)
    work = CompiledModel(DataDirectory(request.data).partial_compiled(manifest.name))
    device = json.dumps(dict(target), separators=(",", ":"))
    steps = _steps(request, quantization, limits, work, _Target(device, host))
    return CompilePlan(
        manifest, board, quantization, limits, target, host, request.tools.versions, request.data,
        compiled(request.data, manifest.name), work, steps, _estimate(manifest, limits, request.installed),
    )  # fmt: skip


def table_of(manifest: Manifest) -> Compile:
    """The manifest's compile table. Raises BadInput where the model is not compiled."""
    if manifest.compile is None:
        raise BadInput(
            f"{manifest.name} runs on {manifest.engine} without compiling; only models of the engine mlc are compiled"
        )
    return manifest.compile


def _chosen(request: CompileRequest, table: Compile) -> Quantization:
    wanted = request.quantization or table.quantizations[0]
    chosen = next((each for each in table.quantizations if each == wanted), None)
    if chosen is None:
        known = ", ".join(table.quantizations)
        raise BadInput(f"{request.manifest.name} has no quantization {wanted!r}; it has {known}")
    if chosen == "q4f16_ft" and not request.tools.faster_transformer:
        raise ModelError(
            f"this TVM lacks the kernels of q4f16_ft; omit --quantization to use {table.quantizations[0]}",
            code="no_quantization",
        )
    return chosen


@dataclass(frozen=True)
class _Target:
    device: str
    """TVM's target as JSON; mlc_llm rejects "cuda -arch=sm_87" (support/auto_target.py)."""
    host: str


def _steps(
    request: CompileRequest, quantization: Quantization, limits: ManifestLimits, work: CompiledModel, target: _Target
) -> tuple[CompileStep, ...]:
    """The three commands of mlc_llm 79d603f (python/mlc_llm/cli: gen_config.py, convert_weight.py, compile.py)."""
    manifest, tools = request.manifest, request.tools
    source, weights, library = str(DataDirectory(request.data).models / manifest.name), str(work.weights), str(work.lib)
    sizes = {name: getattr(limits, name) for name in ManifestLimits.model_fields}
    # O3 is O2 with FasterTransformer's kernels, which the layout of q4f16_ft is for.
    level = "O3" if quantization == "q4f16_ft" else "O2"
    config = tools.command(
        "gen_config", source, "--quantization", quantization, "--conv-template", table_of(manifest).conv_template,
        *(part for name, size in sizes.items() for part in (f"--{name.replace('_', '-')}", str(size))),
        "--output", weights,
    )  # fmt: skip
    # "cuda" and not "auto": without a GPU, "auto" silently takes the CPU, for hours.
    convert = tools.command(
        "convert_weight", source, "--quantization", quantization, "--device", "cuda", "--output", weights
    )
    build = tools.command(
        "compile", weights, "--quantization", quantization, "--device", target.device, "--host", target.host,
        "--opt", level, "--overrides", ";".join(f"{name}={size}" for name, size in sizes.items()), "--output", library,
    )  # fmt: skip
    return (
        _step(request, "config", "writing the model's configuration", config, source=True),
        _step(request, WEIGHTS, f"quantizing the weights to {quantization}", convert, source=True),
        _step(request, LIBRARY, "compiling the library", build, source=False),
    )


def _step(request: CompileRequest, name: str, description: str, argv: tuple[str, ...], source: bool) -> CompileStep:
    files = {name: file.model_dump() for name, file in request.manifest.files.items()}
    depends = [argv, dict(request.tools.versions), files, [str(source) for source in request.manifest.sources]]
    return CompileStep(
        name, description, argv, hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest(), source
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
