"""Verifies that this machine can load a compiled model, and explains what prevents it and the remedy."""

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
"""Bytes of a board's memory that are reserved for speech recognition, speech synthesis and the system."""


@dataclass(frozen=True)
class VerifyFault:
    """One fault of a compiled model."""

    code: str
    """Stable, snake_case."""
    message: str
    """One sentence with the remedy."""
    fatal: bool = True
    """Whether it prevents loading or makes the output wrong; otherwise it is a note."""


@dataclass(frozen=True)
class Verdict:
    """Description of a compiled model and its faults on this machine."""

    lib: Library
    summary: tuple[str, ...]
    """One line each: host, GPU, model, limits, memory."""
    memory: int
    """Bytes of the loaded model; 0: the library does not say."""
    faults: tuple[VerifyFault, ...]

    @property
    def loads(self) -> bool:
        return not any(fault.fatal for fault in self.faults)

    def require(self) -> None:
        """Raises ModelError with the first fatal fault."""
        for fault in self.faults:
            if fault.fatal:
                raise ModelError(fault.message, code=fault.code)


@dataclass(frozen=True)
class Target:
    """The machine that a model has to fit."""

    board: JetsonBoard | None
    """None: not a Jetson; then GPUs are not verified."""
    machine: str = field(default_factory=platform.machine)
    available: int = field(default_factory=boards.meminfo)
    """MemAvailable, in bytes; 0: unknown."""
    versions: Mapping[str, str] | None = None
    """Versions that would load the model, from `toolchain.find`; None: not compared."""


def verify(path: Path, here: Target, deep: bool = False) -> Verdict:
    """Verifies a folder that `chatapi compile` made, or a library alone, without loading it.

    With `deep` the sha256 of every file is compared too. Raises ModelError where nothing can be read.
    """
    is_folder = path.is_dir()
    if is_folder and not (path / LIBRARY).exists():
        message = f"{path} has no {LIBRARY}; make it with: chatapi compile {path.name}"
        raise ModelError(message, code="compile_unfinished")
    subject = _Subject(
        read(path / LIBRARY if is_folder else path), CompiledModel(path) if is_folder else None, here, deep
    )
    memory = subject.metadata.memory(subject.config) if subject.metadata else 0
    faults = [fault for check in (_FOLDER_CHECKS if is_folder else _LIBRARY_CHECKS) for fault in check(subject)]
    return Verdict(subject.lib, tuple(_summary(subject, memory)), memory, (*faults, *_memory(subject, memory)))


class _Subject:
    """What the checks read."""

    def __init__(self, library: Library, place: CompiledModel | None, here: Target, deep: bool) -> None:
        self.lib = library
        self.model = place or CompiledModel(library.path.parent)
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
    def remedy(self) -> str:
        name = self.made.get("manifest", "NAME")
        return f"compile it again on this board with: chatapi compile {name} --force"


def _file(subject: _Subject) -> Iterator[VerifyFault]:
    library, here = subject.lib, subject.here
    name = library.path
    if library.header is None:
        yield VerifyFault("library_damaged", f"{name} is not a shared library for Linux; {subject.remedy}")
        return
    if library.header.machine != here.machine:
        yield VerifyFault(
            "library_other_host",
            f"{name} is for {library.header.machine} and this machine is {here.machine}, where loading it would "
            f'fail with "No such file"; {subject.remedy}',
        )
    if library.size < library.header.bytes:
        yield VerifyFault(
            "library_damaged",
            f"{name} is truncated: it has {library.size} bytes of {library.header.bytes}; copy it again, "
            f"or {subject.remedy}",
        )
    elif not library.header.shared or not library.tvm:
        yield VerifyFault("library_foreign", f"{name} is a library, but not one that TVM made; {subject.remedy}")
    elif library.metadata is None:
        yield VerifyFault("library_foreign", f"{name} is TVM's, but has no model of MLC; {subject.remedy}")


def _gpu(subject: _Subject) -> Iterator[VerifyFault]:
    code, gpu, name = subject.lib.code, subject.gpu, subject.lib.path
    # In a truncated file the GPU code may be the missing part; the truncation is already reported.
    if not gpu or subject.lib.header is None or subject.lib.size < subject.lib.header.bytes:
        return
    if code.damaged:
        yield VerifyFault("library_damaged", f"the GPU code of {name} is truncated; {subject.remedy}")
    elif code.source:
        yield VerifyFault(
            "library_source_only",
            f"{name} has its GPU code as source only, which TVM writes silently when it finds no CUDA while compiling; "
            f"run the container with the nvidia runtime and {subject.remedy}",
        )
    elif gpu in code.cubins:
        return
    elif any(_number(each) <= _number(gpu) for each in code.ptx):
        message = f"{name} has PTX only, which the driver compiles at each load; {subject.remedy}"
        yield VerifyFault("library_ptx_only", message, fatal=False)
    else:
        made = _gpus(subject.lib)
        made = "no GPU code" if made == "none" else f"GPU code for {made}"
        yield VerifyFault("library_other_gpu", f"{name} has {made} and this board's GPU is {gpu}; {subject.remedy}")


def _complete(subject: _Subject) -> Iterator[VerifyFault]:
    if not subject.made:
        name = subject.model.folder.name
        message = f"{subject.model.folder} is not complete; resume with: chatapi compile {name}"
        yield VerifyFault("compile_unfinished", message)
    missing = subject.model.short_files() if subject.model.cache() else ["the index of weights"]
    if missing:
        message = f"{subject.model.weights} lacks {', '.join(missing[:3])}, or a part of it; {subject.remedy}"
        yield VerifyFault("weights_damaged", message)
    for name, sha256 in _sums(subject.made).items() if subject.deep else ():
        file = subject.model.folder / name
        if not file.is_file() or atomic_files.digest(file) != sha256:
            yield VerifyFault("library_changed", f"{file} has changed since it was made; {subject.remedy}")


def _sums(made: Mapping[str, Any]) -> dict[str, str]:
    """sha256 by file of what was made; the library's stands apart in the record, because it is compared most often."""
    sums = {name: file["sha256"] for name, file in made.get("files", {}).items()}
    return {**sums, LIBRARY: made["sha256"]} if "sha256" in made else sums


def _versions(subject: _Subject) -> Iterator[VerifyFault]:
    made, now = subject.made.get("versions"), subject.here.versions
    if not made or now is None:
        return
    for tool in COMPARED:
        if tool not in now:
            message = f"there is no {tool} here to load {subject.lib.path}; use chatapi's image for this board"
            yield VerifyFault("no_compiler", message)
        elif made.get(tool) != now[tool]:
            yield VerifyFault(
                "library_other_version",
                f"{subject.lib.path} was made by {tool} {made.get(tool)} and this machine has {now[tool]}, which may "
                f"not load it correctly; {subject.remedy}",
            )


def _cuda(subject: _Subject) -> Iterator[VerifyFault]:
    board, made = subject.here.board, subject.made.get("cuda") or ()
    if board and board.cuda and made and made[0] != board.cuda[0]:
        yield VerifyFault(
            "library_other_cuda",
            f"{subject.lib.path} was made with CUDA {_dotted(made)}, and L4T {_dotted(board.l4t)} of this board "
            f"has {_dotted(board.cuda)}; {subject.remedy}",
        )


def _agreement(subject: _Subject) -> Iterator[VerifyFault]:
    metadata, config = subject.metadata, subject.config
    if metadata is None or not config:
        return
    pairs = (
        ("model", config.get("model_type"), metadata.model_type),
        ("quantization", config.get("quantization"), metadata.quantization),
    )
    for what, weights, built in pairs:
        if weights != built:
            message = f"the weights are of {what} {weights} and the library of {what} {built}; {subject.remedy}"
            yield VerifyFault("library_other_model", message)
    context = int(config.get("context_window_size", -1))
    if metadata.context > 0 and context > metadata.context:
        message = f"the model has a context of {context} tokens and the library is built for {metadata.context}"
        yield VerifyFault("library_other_context", f"{message}; {subject.remedy}")
    yield from _shapes(subject, metadata)


def _shapes(subject: _Subject, metadata: Metadata) -> Iterator[VerifyFault]:
    there = subject.model.shapes()
    sizes = {**subject.config.get("model_config", {}), **subject.config}
    for name, (shape, kind) in metadata.params.items() if there else ():
        expected = tuple(each if isinstance(each, int) else sizes.get(each, each) for each in shape)
        if there.get(name) != (expected, kind):
            found = "lack it" if name not in there else f"have it as {there[name][0]} {there[name][1]}"
            message = (
                f"the library expects the weight {name} as {expected} {kind} and the weights {found}; {subject.remedy}"
            )
            yield VerifyFault("library_other_model", message)
            return


def _memory(subject: _Subject, memory: int) -> Iterator[VerifyFault]:
    available = subject.here.available
    if memory and available and memory + RESERVE > available:
        yield VerifyFault(
            "too_little_memory",
            f"it takes {gigabytes(memory)}, {gigabytes(RESERVE)} are reserved for the rest, and {gigabytes(available)} "
            "are free; stop other programs, or compile a smaller model or a smaller context_window_size",
        )


_LIBRARY_CHECKS = (_file, _gpu)
"""Checks of a library alone."""
_FOLDER_CHECKS = (*_LIBRARY_CHECKS, _complete, _versions, _cuda, _agreement)


def _summary(subject: _Subject, memory: int) -> Iterator[str]:
    library, metadata = subject.lib, subject.metadata
    if library.header:
        yield f"host: {library.header.machine}"
        yield f"GPU: {_gpus(library)}"
    if metadata:
        yield f"model: {metadata.model_type}, {metadata.quantization}"
        context = f"{metadata.context} tokens" if metadata.context > 0 else "the model's sliding window"
        yield f"context: {context}, prompts in chunks of {metadata.chunk}, at most {metadata.batch} completions at once"
        free = f", of {gigabytes(subject.here.available)} that are free" if subject.here.available else ""
        beside = "" if subject.config else " (the vocabulary's part is unknown without mlc-chat-config.json)"
        yield f"memory: {gigabytes(memory)} when loaded{free}{beside}"
    if versions := subject.made.get("versions"):
        yield "made by: " + ", ".join(f"{tool} {version}" for tool, version in versions.items())


def _gpus(library: Library) -> str:
    if library.code.source:
        return "none, CUDA source only"
    kinds = [_listed(library.code.cubins)] if library.code.cubins else []
    if library.code.partly:
        kinds.append(f"{_listed(library.code.partly)} in parts of it")
    if library.code.ptx:
        kinds.append(f"PTX for {_listed(library.code.ptx)} and later")
    return " and ".join(kinds) or "none"


def _number(gpu: str) -> int:
    return int("".join(each for each in gpu if each.isdigit()))


def _listed(gpus: frozenset[str]) -> str:
    return ", ".join(sorted(gpus, key=_number))


def _dotted(version: tuple[int, ...] | list[int]) -> str:
    return ".".join(map(str, version))
