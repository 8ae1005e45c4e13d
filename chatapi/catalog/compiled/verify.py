"""Whether a compiled model can be loaded here, and if not why and what to do, in plain words."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatapi.catalog.compiled.artifact import LIBRARY, CompiledModel
from chatapi.catalog.compiled.model_lib import Library, Metadata, read
from chatapi.catalog.compiled.toolchain import COMPARED
from chatapi.errors import ModelError
from chatapi.storage import atomic_files
from chatapi.system import jetson as boards
from chatapi.system.jetson import JetsonBoard, gigabytes

RESERVE = 500_000_000
"""Bytes of a board's memory that are left to the rest of the appliance: hearing, speaking and the system."""


@dataclass(frozen=True)
class VerifyFault:
    """One thing wrong with a compiled model."""

    code: str
    """Stable, snake_case."""
    told: str
    """In one sentence, with the remedy."""
    fatal: bool = True
    """Whether it keeps the model from being loaded or from being right; else it is good to know."""


@dataclass(frozen=True)
class Verdict:
    """What a compiled model is, and what is wrong with it here."""

    lib: Library
    told: tuple[str, ...]
    """What it is, a sentence each: host, GPU, model, limits, memory."""
    memory: int
    """Bytes it takes when loaded; 0: the library does not tell."""
    faults: tuple[VerifyFault, ...]

    @property
    def loads(self) -> bool:
        return not any(fault.fatal for fault in self.faults)

    def require(self) -> None:
        """Raises ModelError with the first thing that keeps it from being loaded."""
        for fault in self.faults:
            if fault.fatal:
                raise ModelError(fault.told, code=fault.code)


@dataclass(frozen=True)
class Target:
    """What a model has to fit."""

    board: JetsonBoard | None
    """None: no Jetson; then nothing is said about GPUs."""
    machine: str = field(default_factory=platform.machine)
    available: int = field(default_factory=boards.meminfo)
    """Bytes of MemAvailable; 0: not known."""
    versions: Mapping[str, str] | None = None
    """Those that would load it, as `tools.find` tells them; None: not compared."""


def verify(path: Path, here: Target, deep: bool = False) -> Verdict:
    """Judge a folder as `chatapi compile` makes it, or a library alone, without loading it.

    With `deep` the sha256 of everything that was made is compared too. Raises ModelError where nothing can be read.
    """
    whole = path.is_dir()
    if whole and not (path / LIBRARY).exists():
        told = f"there is no {LIBRARY} in {path}; make it with: chatapi compile {path.name}"
        raise ModelError(told, code="compile_unfinished")
    subject = _Subject(read(path / LIBRARY if whole else path), CompiledModel(path) if whole else None, here, deep)
    memory = subject.metadata.memory(subject.config) if subject.metadata else 0
    faults = [fault for look in (_WHOLE if whole else _ALONE) for fault in look(subject)]
    return Verdict(subject.lib, tuple(_told(subject, memory)), memory, (*faults, *_memory(subject, memory)))


class _Subject:
    """Everything the faults are found in."""

    def __init__(self, library: Library, place: CompiledModel | None, here: Target, deep: bool) -> None:
        self.lib = library
        self.place = place or CompiledModel(library.path.parent)
        self.here = here
        self.deep = deep
        self.made: Mapping[str, Any] = place.made() if place else {}
        self.config: Mapping[str, Any] = place.config() if place else {}

    @property
    def metadata(self) -> Metadata | None:
        return self.lib.metadata

    @property
    def gpu(self) -> str:
        return self.here.board.gpu if self.here.board else ""

    @property
    def again(self) -> str:
        name = self.made.get("manifest", "NAME")
        return f"compile it anew on this board with: chatapi compile {name} --force"


def _file(subject: _Subject) -> Iterator[VerifyFault]:
    library, here = subject.lib, subject.here
    name = library.path
    if library.header is None:
        yield VerifyFault("library_damaged", f"{name} is no shared library for Linux; {subject.again}")
        return
    if library.header.machine != here.machine:
        yield VerifyFault(
            "library_other_host",
            f"{name} is for {library.header.machine} and this machine is {here.machine}, where loading it would only "
            f"say that there is no such file; {subject.again}",
        )
    if library.size < library.header.bytes:
        yield VerifyFault(
            "library_damaged",
            f"{name} breaks off: it has {library.size} bytes and needs {library.header.bytes}; copy it again whole, "
            f"or {subject.again}",
        )
    elif not library.header.shared or not library.tvm:
        yield VerifyFault("library_foreign", f"{name} is a library, but none that TVM made; {subject.again}")
    elif library.metadata is None:
        yield VerifyFault("library_foreign", f"{name} comes from TVM, but holds no model of MLC's; {subject.again}")


def _gpu(subject: _Subject) -> Iterator[VerifyFault]:
    code, gpu, name = subject.lib.code, subject.gpu, subject.lib.path
    # Of a file that breaks off the GPU code may be the part that is missing: that is told already.
    if not gpu or subject.lib.header is None or subject.lib.size < subject.lib.header.bytes:
        return
    if code.damaged:
        yield VerifyFault("library_damaged", f"the GPU code of {name} breaks off; {subject.again}")
    elif code.source:
        yield VerifyFault(
            "library_source_only",
            f"{name} has its GPU code as source only, as TVM writes it silently when it finds no CUDA while compiling; "
            f"run the container with the nvidia runtime and {subject.again}",
        )
    elif gpu in code.cubins:
        return
    elif any(_number(each) <= _number(gpu) for each in code.ptx):
        told = f"{name} has PTX only, which the driver compiles each time the model is loaded; {subject.again}"
        yield VerifyFault("library_ptx_only", told, fatal=False)
    else:
        made = _gpus(subject.lib)
        made = "no GPU code" if made == "none" else f"GPU code for {made}"
        yield VerifyFault("library_other_gpu", f"{name} has {made} and this board's GPU is {gpu}; {subject.again}")


def _whole(subject: _Subject) -> Iterator[VerifyFault]:
    if not subject.made:
        name = subject.place.folder.name
        told = f"{subject.place.folder} is not complete; go on with: chatapi compile {name}"
        yield VerifyFault("compile_unfinished", told)
    missing = subject.place.short_files() if subject.place.cache() else ["the list of weights"]
    if missing:
        told = f"{subject.place.weights} lacks {', '.join(missing[:3])}, or not all of it is there; {subject.again}"
        yield VerifyFault("weights_damaged", told)
    for name, sha256 in _sums(subject.made).items() if subject.deep else ():
        file = subject.place.folder / name
        if not file.is_file() or atomic_files.digest(file) != sha256:
            yield VerifyFault("library_changed", f"{file} is not the file that was made here; {subject.again}")


def _sums(made: Mapping[str, Any]) -> dict[str, str]:
    """sha256 by file of what was made: the library's stands apart, as what most want to compare."""
    sums = {name: said["sha256"] for name, said in made.get("files", {}).items()}
    return {**sums, LIBRARY: made["sha256"]} if "sha256" in made else sums


def _versions(subject: _Subject) -> Iterator[VerifyFault]:
    made, now = subject.made.get("versions"), subject.here.versions
    if not made or now is None:
        return
    for tool in COMPARED:
        if tool not in now:
            told = f"there is no {tool} here to load {subject.lib.path} with; use chatapi's image for this board"
            yield VerifyFault("no_compiler", told)
        elif made.get(tool) != now[tool]:
            yield VerifyFault(
                "library_other_version",
                f"{subject.lib.path} was made by {tool} {made.get(tool)} and here is {now[tool]}, which cannot be "
                f"trusted to load it; {subject.again}",
            )


def _cuda(subject: _Subject) -> Iterator[VerifyFault]:
    board, made = subject.here.board, subject.made.get("cuda") or ()
    if board and board.cuda and made and made[0] != board.cuda[0]:
        yield VerifyFault(
            "library_other_cuda",
            f"{subject.lib.path} was made with CUDA {_dotted(made)}, and L4T {_dotted(board.l4t)} of this board "
            f"has {_dotted(board.cuda)}; {subject.again}",
        )


def _agreement(subject: _Subject) -> Iterator[VerifyFault]:
    metadata, config = subject.metadata, subject.config
    if metadata is None or not config:
        return
    pairs = (
        ("model", config.get("model_type"), metadata.model_type),
        ("quantisation", config.get("quantization"), metadata.quantization),
    )
    for what, weights, built in pairs:
        if weights != built:
            told = f"the weights are of {what} {weights} and the library of {what} {built}; {subject.again}"
            yield VerifyFault("library_other_model", told)
    context = int(config.get("context_window_size", -1))
    if metadata.context > 0 and context > metadata.context:
        told = f"the model is to have a context of {context} tokens and the library is built for {metadata.context}"
        yield VerifyFault("library_other_context", f"{told}; {subject.again}")
    yield from _shapes(subject, metadata)


def _shapes(subject: _Subject, metadata: Metadata) -> Iterator[VerifyFault]:
    there = subject.place.shapes()
    sizes = {**subject.config.get("model_config", {}), **subject.config}
    for name, (shape, kind) in metadata.params.items() if there else ():
        wanted = tuple(each if isinstance(each, int) else sizes.get(each, each) for each in shape)
        if there.get(name) != (wanted, kind):
            found = "lack it" if name not in there else f"have it as {there[name][0]} {there[name][1]}"
            told = f"the library wants the weight {name} as {wanted} {kind} and the weights {found}; {subject.again}"
            yield VerifyFault("library_other_model", told)
            return


def _memory(subject: _Subject, memory: int) -> Iterator[VerifyFault]:
    available = subject.here.available
    if memory and available and memory + RESERVE > available:
        yield VerifyFault(
            "too_little_memory",
            f"it takes {gigabytes(memory)} and {gigabytes(RESERVE)} are for the rest, and {gigabytes(available)} are "
            "free; end other programs, or compile a smaller model or a smaller context_window_size",
        )


_ALONE = (_file, _gpu)
"""What can be wrong with a library, whatever lies beside it."""
_WHOLE = (*_ALONE, _whole, _versions, _cuda, _agreement)


def _told(subject: _Subject, memory: int) -> Iterator[str]:
    library, metadata = subject.lib, subject.metadata
    if library.header:
        yield f"host: {library.header.machine}"
        yield f"GPU: {_gpus(library)}"
    if metadata:
        yield f"model: {metadata.model_type}, {metadata.quantization}"
        context = f"{metadata.context} tokens" if metadata.context > 0 else "the model's sliding window"
        yield f"context: {context}, prompts in pieces of {metadata.chunk}, at most {metadata.batch} answers at once"
        free = f", of {gigabytes(subject.here.available)} that are free" if subject.here.available else ""
        beside = "" if subject.config else " (what its vocabulary takes is not told without mlc-chat-config.json)"
        yield f"memory: {gigabytes(memory)} when loaded{free}{beside}"
    if versions := subject.made.get("versions"):
        yield "made by: " + ", ".join(f"{tool} {version}" for tool, version in versions.items())


def _gpus(library: Library) -> str:
    if library.code.source:
        return "none, CUDA source only"
    kinds = [_listed(library.code.cubins)] if library.code.cubins else []
    if library.code.partly:
        kinds.append(f"{_listed(library.code.partly)} in parts of it only")
    if library.code.ptx:
        kinds.append(f"PTX for {_listed(library.code.ptx)} and later")
    return " and ".join(kinds) or "none"


def _number(gpu: str) -> int:
    return int("".join(each for each in gpu if each.isdigit()))


def _listed(gpus: frozenset[str]) -> str:
    return ", ".join(sorted(gpus, key=_number))


def _dotted(version: tuple[int, ...] | list[int]) -> str:
    return ".".join(map(str, version))
