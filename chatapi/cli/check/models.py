"""The engines' libraries, the models, and the memory for them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping

from chatapi.appliance import ESSENTIAL
from chatapi.catalog import Catalog, Manifest
from chatapi.catalog import compiled as compiled_models
from chatapi.cli.check import network
from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.engines import registry
from chatapi.errors import ChatapiError, ModelError
from chatapi.runtime import engine_selection, memory_plan
from chatapi.system import jetson
from chatapi.system.jetson import gigabytes

GLIBC = (2, 35)
"""Of the wheels of pymicro-wakeword 2.5 (manylinux_2_35)."""
SWAPPED = 0.1
"""Part of the memory that, moved to swap, says that it is short."""


def machine(scene: CheckContext) -> Iterator[Finding]:
    """What it is, and whether its system is too old for an engine."""
    told = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    yield Finding("good", "machine", told)
    found = re.search(r"(\d+)\.(\d+)", glibc())
    if found and (int(found[1]), int(found[2])) < GLIBC and scene.settings.wake_word.engine == "pymicro_wakeword":
        told = f"the wake word needs glibc {GLIBC[0]}.{GLIBC[1]} and this system has {found[0]}"
        yield Finding(_wake(scene), "machine", f"{told}: take Ubuntu 22.04, Debian 12 or later, or chatapi's image")


def glibc() -> str:
    """Such as "glibc 2.36"; empty with another C library."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _wake(scene: CheckContext) -> Level:
    mic = scene.settings.audio_device
    return "bad" if mic.enabled and mic.mode == "wake_word" else "note"


def _level(scene: CheckContext, role: str) -> Level:
    """The wake word is the only role that does nothing unless it is asked for."""
    return _wake(scene) if role == "wake_word" else "bad"


def libraries(scene: CheckContext) -> Iterator[Finding]:
    """Each is really loaded; a server that starts does that anyway."""
    if scene.quick:
        return
    for role in registry.ENGINES:
        yield _library(scene, role, getattr(scene.settings, role).engine)


def _library(scene: CheckContext, role: str, name: str) -> Finding:
    about, level = f"{role} engine", _level(scene, role)
    try:
        registry.load(role, name)
    except ChatapiError as error:
        return Finding(level, about, error.message)
    except (ImportError, OSError) as error:
        mend = f"pip install --force-reinstall {registry.entry(role, name).install or 'chatapi'}"
        return Finding(level, about, f"{name} cannot be loaded ({error}): {mend}")
    return Finding("good", about, f"{name} can be loaded")


def files(scene: CheckContext) -> Iterator[Finding]:
    """Every model that would be used, read through; at the start of a server only the sizes of its files."""
    catalog = Catalog(scene.settings.data)
    for fault in catalog.faults.values():
        yield Finding("note", "manifests", f"{fault}; until then it is as if it were not there")
    try:
        together = memory_plan.plan(catalog, scene.settings, ESSENTIAL, scene.root, scene.free).models
    except ChatapiError:
        # The memory is judged below, and a missing model where it is looked for.
        together = {}
    for role in registry.ENGINES:
        yield from _model(scene, catalog, role, together)


def _model(scene: CheckContext, catalog: Catalog, role: str, together: Mapping[str, Manifest]) -> Iterator[Finding]:
    table, about = getattr(scene.settings, role), f"{role} model"
    try:
        if not registry.entry(role, table.engine).needs_model:
            return
        chosen = together.get(role) or catalog.choose(role, table.engine, table.model)
    except ChatapiError as error:
        yield Finding(_level(scene, role), about, error.message)
        return
    found = [] if scene.quick else catalog.verify(chosen.name)
    if found:
        wrong = "; ".join(map(str, found))
        told = f"{chosen.name}: {wrong}; mend it with: chatapi models fetch {chosen.name}"
        yield Finding(_level(scene, role), about, told)
    else:
        yield Finding("good", about, f"{chosen.name}, every file as it should be")


def _passed_over(scene: CheckContext) -> Iterator[Finding]:
    """On a board, where what runs anywhere answers instead of what the GPU would run."""
    made = list(engine_selection.ready(Catalog(scene.settings.data)))
    if scene.board is None or not registry.installed("llm", "mlc"):
        return
    if not made:
        told = "no model is compiled for this board's GPU, so a small one answers: chatapi compile auto makes the best"
        yield Finding("note", "compiled model", told)
    for each in made:
        if why := engine_selection.fault(scene.settings, each, scene.root, scene.free):
            yield Finding("note", "compiled model", f"{scene.settings.llm.engine} answers instead: {why}")


def room(scene: CheckContext) -> Iterator[Finding]:
    """The memory that the models need together, against what is free; a server that starts sees to that itself."""
    if scene.quick:
        return
    free, total = memory_plan.available(scene.root), jetson.meminfo(scene.root, "MemTotal")
    has = f"{gigabytes(free)} of {gigabytes(total)} are free"
    try:
        plan = memory_plan.plan(Catalog(scene.settings.data), scene.settings, ESSENTIAL, scene.root)
    except ModelError as fault:
        if fault.code == "model_too_large":
            yield _too_large(scene, fault)
        return
    except ChatapiError:
        # What is wrong with a model or an engine is told of it.
        return
    if plan.needed > free:
        told = f"the models need {gigabytes(plan.needed)} and {has}, so that other programs will be swapped out"
        yield Finding("note", "memory", f"{told}: end some of them, or choose smaller models")
    else:
        yield Finding("good", "memory", f"the models need {gigabytes(plan.needed)}, {has}")


def _too_large(scene: CheckContext, fault: ModelError) -> Finding:
    holder = network.listening(scene.settings.server.port)
    if holder is not None and holder[2]:
        told = f"chatapi runs already (process {holder[0]}) and has its models in memory; beside it {fault.message}"
        return Finding("note", "memory", told)
    return Finding("bad", "memory", fault.message)


def swap(scene: CheckContext) -> Iterator[Finding]:
    """proc/swaps has a line a device: name, type, size and use in KiB, priority. zram keeps what is swapped out in the
    memory itself, compressed; L4T sets it up as half of the memory (nvzramconfig)."""
    lines = [line.split() for line in scene.text("proc/swaps").splitlines()[1:]]
    spaces = [(each[0], int(each[2]) * 1024, int(each[3]) * 1024) for each in lines if len(each) >= 5]
    total = jetson.meminfo(scene.root, "MemTotal")
    used = sum(each[2] for each in spaces)
    if total and used > SWAPPED * total:
        told = f"{gigabytes(used)} of the memory are swapped out, which makes answers late"
        yield Finding("note", "swap", f"{told}: end other programs, or choose smaller models")
    elif scene.board is not None and spaces and all("zram" in name for name, _, _ in spaces):
        size = gigabytes(sum(each[1] for each in spaces))
        told = f"all of it ({size}) is zram, which takes the memory that models need"
        yield Finding("note", "swap", f"{told}: sudo systemctl disable --now nvzramconfig, and a swap file on the disk")


def compiled(scene: CheckContext) -> Iterator[Finding]:
    """What is wrong with the library that the `mlc` engine would load, or why another engine answers."""
    name = scene.settings.llm.model
    if scene.settings.llm.engine == engine_selection.ANYWHERE:
        yield from _passed_over(scene)
    if scene.settings.llm.engine != "mlc" or name == "auto":
        return
    folder = compiled_models.compiled(scene.settings.data, name).folder
    if not folder.is_dir():
        told = f"{name} was never compiled for this board: chatapi compile {name}"
        yield Finding("bad", "compiled model", told)
        return
    try:
        free = memory_plan.available(scene.root) if scene.free is None else scene.free
        verdict = compiled_models.verify(folder, compiled_models.Target(scene.board, available=free))
    except ModelError as fault:
        yield Finding("bad", "compiled model", fault.message)
        return
    for each in verdict.faults:
        yield Finding("bad" if each.fatal else "note", "compiled model", each.message)
    if verdict.loads and not scene.quick:
        yield Finding("good", "compiled model", f"{name}: {'; '.join(verdict.summary)}")
