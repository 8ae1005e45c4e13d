"""Which engine answers where the settings leave it open: what was compiled for this board, else what runs anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chatapi import board, compiling, engines, memory
from chatapi.catalog import Catalog, Manifest
from chatapi.errors import ModelFault
from chatapi.settings import Settings

ANYWHERE = "llama_cpp"
"""The language engine that needs nothing but a processor."""


def definite(settings: Settings, root: Path = Path("/")) -> Settings:
    """The settings with an engine named for the language model; those that name one are left as they are.

    A model that is named brings its own engine. Else it is the best compiled one that can be loaded here; a library
    that an update of the board left behind is passed over, and `chatapi check` says why.
    """
    if settings.llm.engine != "auto":
        return settings
    catalog, model = Catalog(settings.data), settings.llm.model
    engine = ANYWHERE
    if model != "auto":
        manifest = catalog.manifests.get(model)
        engine = manifest.engine if manifest is not None else ANYWHERE
    elif engines.installed("llm", "mlc"):
        usable = [each for each in ready(catalog) if not fault(settings.data, each, root)]
        if usable:
            best = max(usable, key=lambda each: each.quality)
            engine, model = best.engine, best.name
    return settings.model_copy(update={"llm": settings.llm.model_copy(update={"engine": engine, "model": model})})


def ready(catalog: Catalog) -> Iterator[Manifest]:
    """Models that were compiled here."""
    return (each for each in catalog.manifests.values() if each.compile is not None and catalog.ready(each.name))


def fault(data: Path, manifest: Manifest, root: Path = Path("/")) -> str:
    """Why a compiled model cannot be loaded now, in a sentence; empty: it can."""
    free = memory.available(root)
    if manifest.memory > free:
        needs = f"{memory.gigabytes(manifest.memory)} and {memory.gigabytes(free)} are free"
        return f"{manifest.name} needs {needs}; end other programs, or compile a smaller model"
    try:
        here = compiling.Here(board.find(root), available=0, versions=compiling.find().versions)
        compiling.verify(compiling.compiled(data, manifest.name).folder, here).require()
    except ModelFault as found:
        return found.message
    return ""
