"""Checks the engines' libraries, the models, and the memory for them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping

from chatapi.catalog import Catalog, Manifest
from chatapi.catalog import compiled as compiled_models
from chatapi.cli.check import network
from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.engines import registry
from chatapi.engines.llm.context_size import choose as choose_context
from chatapi.errors import ChatapiError, ModelError
from chatapi.runtime import engine_selection, model_selection
from chatapi.system import jetson
from chatapi.system.jetson import gigabytes

GLIBC = (2, 35)
"""glibc version that the wheels of pymicro-wakeword 2.5 need (manylinux_2_35)."""
SWAPPED = 0.1
"""Share of the memory in swap from which memory is short."""


def machine(context: CheckContext) -> Iterator[Finding]:
    """The machine, and whether its system is too old for an engine."""
    message = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    yield Finding("good", "machine", message)
    found = re.search(r"(\d+)\.(\d+)", glibc())
    if found and (int(found[1]), int(found[2])) < GLIBC and context.settings.wake_word.engine == "pymicro_wakeword":
        message = f"the wake word needs glibc {GLIBC[0]}.{GLIBC[1]} and this system has {found[0]}"
        remedy = "use Ubuntu 22.04, Debian 12 or later, or chatapi's image"
        yield Finding(_level(context, "wake_word"), "machine", f"{message}: {remedy}")


def glibc() -> str:
    """Version of the C library, such as "glibc 2.36"; empty for another C library."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _level(context: CheckContext, role: str) -> Level:
    """The level of a problem of a role: an error where the box needs it."""
    record = registry.roles()[role]
    return "bad" if record.essential or record.expected(context.settings) else "note"


def plug_ins(context: CheckContext) -> Iterator[Finding]:
    """The engines of plug-ins, and what is wrong with plug-ins."""
    for role in registry.roles():
        for name in registry.engines(role):
            if owner := registry.distribution(role, name):
                yield Finding("good", "plug-in", f"{owner} adds the {role} engine {name}")
    yield from (Finding("note", "plug-in", fault) for fault in registry.faults())


def libraries(context: CheckContext) -> Iterator[Finding]:
    """The engines' libraries, which are loaded; a starting server loads them anyway."""
    if context.quick:
        return
    for role in registry.roles():
        yield _library(context, role, getattr(context.settings, role).engine)


def _library(context: CheckContext, role: str, name: str) -> Finding:
    about, level = f"{role} engine", _level(context, role)
    try:
        registry.load(role, name)
    except ChatapiError as error:
        return Finding(level, about, error.message)
    except (ImportError, OSError) as error:
        remedy = f"pip install --force-reinstall {registry.entry(role, name).install or 'chatapi-appliance'}"
        return Finding(level, about, f"{name} cannot be loaded ({error}): {remedy}")
    return Finding("good", about, f"{name} can be loaded")


def files(context: CheckContext) -> Iterator[Finding]:
    """The files of every selected model, verified; at the start of a server only their sizes."""
    catalog = Catalog(context.settings.data)
    for fault in catalog.faults.values():
        yield Finding("note", "manifests", f"{fault}; until then it is ignored")
    yield from (Finding("note", "manifests", fault) for fault in registry.orphans(catalog.manifests.values()))
    try:
        roles = registry.essential()
        together = model_selection.plan(catalog, context.settings, roles, context.root, context.free).models
    except ChatapiError:
        # Missing models and memory have findings of their own.
        together = {}
    for role in registry.roles():
        yield from _model(context, catalog, role, together)


def _model(context: CheckContext, catalog: Catalog, role: str, together: Mapping[str, Manifest]) -> Iterator[Finding]:
    table, about = getattr(context.settings, role), f"{role} model"
    try:
        if not registry.entry(role, table.engine).needs_model:
            return
        chosen = together.get(role) or catalog.choose(role, table.engine, table.model)
    except ChatapiError as error:
        yield Finding(_level(context, role), about, error.message)
        return
    found = [] if context.quick else catalog.verify(chosen.name)
    if found:
        problems = "; ".join(map(str, found))
        message = f"{chosen.name}: {problems}; repair it with: chatapi models fetch {chosen.name}"
        yield Finding(_level(context, role), about, message)
    else:
        yield Finding("good", about, f"{chosen.name}, all files are correct")


def _unused_gpu(context: CheckContext) -> Iterator[Finding]:
    """Why a board's LLM runs on the CPU instead of the GPU."""
    models = list(engine_selection.compiled(Catalog(context.settings.data)))
    if context.board is None or not registry.installed("llm", "mlc"):
        return
    if not models:
        message = "no model is compiled for this board's GPU, so a small model is used"
        yield Finding("note", "compiled model", f"{message}: chatapi compile auto compiles the best one")
    for each in models:
        if reason := engine_selection.unusable_reason(context.settings, each, context.root, context.free):
            yield Finding("note", "compiled model", f"{context.settings.llm.engine} is used instead: {reason}")


def room(context: CheckContext) -> Iterator[Finding]:
    """The memory that the models need together, against the free memory; a starting server checks that itself."""
    if context.quick:
        return
    free, total = model_selection.available(context.root), jetson.meminfo(context.root, "MemTotal")
    has = f"{gigabytes(free)} of {gigabytes(total)} are free"
    try:
        roles = registry.essential()
        plan = model_selection.plan(Catalog(context.settings.data), context.settings, roles, context.root)
    except ModelError as error:
        if error.code == "model_too_large":
            yield _too_large(context, error)
        return
    except ChatapiError:
        # Problems of models and engines have findings of their own.
        return
    if plan.needed > free:
        message = f"the models need {gigabytes(plan.needed)} and {has}, so other programs will be swapped out"
        yield Finding("note", "memory", f"{message}: end some of them, or choose smaller models")
    else:
        yield Finding("good", "memory", f"the models need {gigabytes(plan.needed)}, {has}")


def context_size(context: CheckContext) -> Iterator[Finding]:
    """How many tokens a prompt and its answer may have with llama.cpp, and why."""
    settings = context.settings
    if context.quick or settings.llm.engine != engine_selection.CPU_LLM:
        return
    catalog = Catalog(settings.data)
    try:
        chosen = catalog.open(catalog.choose("llm", settings.llm.engine, settings.llm.model).name)
        files = sorted(path for path in chosen.files.values() if path.suffix == ".gguf")
        free = model_selection.available(context.root) if context.free is None else context.free
        if files:
            size = choose_context(settings.llama_cpp, files[0], free - files[0].stat().st_size)
            yield Finding("good", "context", f"{chosen.name}: {size}")
    except (ChatapiError, OSError):
        # Missing models have findings of their own.
        return


def _too_large(context: CheckContext, error: ModelError) -> Finding:
    holder = network.listening(context.settings.server.port)
    if holder is not None and holder[2]:
        message = f"chatapi is running (process {holder[0]}) with its models in memory; beside it {error.message}"
        return Finding("note", "memory", message)
    return Finding("bad", "memory", error.message)


def swap(context: CheckContext) -> Iterator[Finding]:
    """Swap. proc/swaps has a line per device: name, type, size and use in KiB, priority. zram holds swapped pages
    compressed in the memory itself; L4T configures it as half of the memory (nvzramconfig)."""
    lines = [line.split() for line in context.text("proc/swaps").splitlines()[1:]]
    spaces = [(each[0], int(each[2]) * 1024, int(each[3]) * 1024) for each in lines if len(each) >= 5]
    total = jetson.meminfo(context.root, "MemTotal")
    used = sum(each[2] for each in spaces)
    if total and used > SWAPPED * total:
        message = f"{gigabytes(used)} of the memory are swapped out, which delays answers"
        yield Finding("note", "swap", f"{message}: end other programs, or choose smaller models")
    elif context.board is not None and spaces and all("zram" in name for name, _, _ in spaces):
        size = gigabytes(sum(each[1] for each in spaces))
        message = f"all of it ({size}) is zram, which uses the memory that models need"
        remedy = "sudo systemctl disable --now nvzramconfig, and a swap file on the disk"
        yield Finding("note", "swap", f"{message}: {remedy}")


def compiled(context: CheckContext) -> Iterator[Finding]:
    """The library of the compiled model that the `mlc` engine loads, or why another engine is used."""
    name = context.settings.llm.model
    if context.settings.llm.engine == engine_selection.CPU_LLM:
        yield from _unused_gpu(context)
    if context.settings.llm.engine != "mlc" or name == "auto":
        return
    folder = compiled_models.compiled(context.settings.data, name).folder
    if not folder.is_dir():
        yield Finding("bad", "compiled model", f"{name} is not compiled for this board: chatapi compile {name}")
        return
    try:
        free = model_selection.available(context.root) if context.free is None else context.free
        verdict = compiled_models.verify(folder, compiled_models.Target(context.board, available=free))
    except ModelError as error:
        yield Finding("bad", "compiled model", error.message)
        return
    for each in verdict.faults:
        yield Finding("bad" if each.fatal else "note", "compiled model", each.message)
    if verdict.loads and not context.quick:
        yield Finding("good", "compiled model", f"{name}: {'; '.join(verdict.summary)}")
