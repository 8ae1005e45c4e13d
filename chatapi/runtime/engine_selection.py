"""Which engines work where the settings leave it open: what there is a model for here, else what runs anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread

from chatapi.catalog import Catalog, Manifest
from chatapi.catalog import compiled as compiled_models
from chatapi.engines import registry
from chatapi.errors import ChatapiError, ModelError
from chatapi.runtime import memory_plan
from chatapi.settings import Settings
from chatapi.system import jetson
from chatapi.system.jetson import JetsonBoard

log = logging.getLogger(__name__)

ANYWHERE = "llama_cpp"
"""The language engine that needs nothing but a processor."""


def definite(settings: Settings, root: Path = Path("/"), free: int | None = None) -> Settings:
    """The settings with engines named for hearing speech, for understanding it and for the language model; those that
    name one are left.

    Silero runs on ONNX Runtime where its model is here. A recogniser or a language model that is named brings its own
    engine; else the recogniser's is that of the best model that is here. Else the language model is the best compiled
    one that can be loaded here beside the models of the other roles; what cannot is passed over, and `chatapi check`
    says why. `free`: bytes that may be taken; None: those that are free now.
    """
    if "auto" not in (settings.vad.engine, settings.asr.engine, settings.llm.engine):
        return settings
    catalog = Catalog(settings.data)
    settings = _with_recogniser(_with_detector(settings, catalog), catalog, root, free)
    if settings.llm.engine != "auto":
        return settings
    model = settings.llm.model
    engine = ANYWHERE
    if model != "auto":
        manifest = catalog.manifests.get(model)
        engine = manifest.engine if manifest is not None else ANYWHERE
    elif registry.installed("llm", "mlc"):
        for each in sorted(ready(catalog), key=lambda manifest: manifest.quality, reverse=True):
            why = fault(settings, each, root, free)
            if not why:
                engine, model = each.engine, each.name
                break
            log.info("a compiled model is passed over: %s", why)
    return _named(settings, engine, model)


async def settled(settings: Settings) -> Settings:
    """As `definite`, on a thread: a look at a compiled model may import TVM, and a signal shall end so long a wait."""
    return await anyio.to_thread.run_sync(definite, settings, abandon_on_cancel=True)


def _with_detector(settings: Settings, catalog: Catalog) -> Settings:
    if settings.vad.engine != "auto":
        return settings
    fast = "silero_onnx"
    here = any(each.engine == fast and catalog.ready(each.name) for each in catalog.manifests.values())
    engine = fast if here and registry.installed("vad", fast) else "silero"
    return settings.model_copy(update={"vad": settings.vad.model_copy(update={"engine": engine})})


def recognisers(root: Path = Path("/")) -> tuple[str, ...]:
    """Engines for speech recognition that are installed, the one to begin with first: CTranslate2 is the fastest on a
    processor, and boards with a GPU have whisper.cpp built for it."""
    order = ("ctranslate2", "whisper_cpp") if jetson.find(root) is None else ("whisper_cpp", "ctranslate2")
    return tuple(each for each in order if registry.installed("asr", each)) or order[:1]


def fetched_at_first(manifest: Manifest, root: Path = Path("/")) -> bool:
    """Whether set-up brings the model to this machine."""
    return manifest.default and (manifest.role != "asr" or manifest.engine == recognisers(root)[0])


def _with_recogniser(settings: Settings, catalog: Catalog, root: Path, free: int | None) -> Settings:
    if settings.asr.engine != "auto":
        return settings
    able = recognisers(root)
    named = catalog.manifests.get(settings.asr.model)
    here = [
        each
        for each in catalog.manifests.values()
        if each.role == "asr" and each.engine in able and catalog.ready(each.name)
    ]
    room = memory_plan.available(root) if free is None else free
    best = max(here, key=lambda each: (each.memory <= room, each.quality, -able.index(each.engine)), default=None)
    chosen = named or best
    engine = able[0] if chosen is None else chosen.engine
    return settings.model_copy(update={"asr": settings.asr.model_copy(update={"engine": engine})})


def ready(catalog: Catalog) -> Iterator[Manifest]:
    """Models that were compiled here."""
    return (each for each in catalog.manifests.values() if each.compile is not None and catalog.ready(each.name))


def fault(settings: Settings, manifest: Manifest, root: Path = Path("/"), free: int | None = None) -> str:
    """Why a compiled model cannot be loaded now, in a sentence; empty: it can. `free` as for `definite`."""
    free = memory_plan.available(root) if free is None else free
    if manifest.memory > free:
        needs = f"{jetson.gigabytes(manifest.memory)} and {jetson.gigabytes(free)} are free"
        return f"{manifest.name} needs {needs}; end other programs, or compile a smaller model"
    try:
        _judge(settings, manifest, jetson.find(root), free)
    except ModelError as found:
        return found.message
    try:
        named = _named(settings, manifest.engine, manifest.name)
        memory_plan.plan(Catalog(settings.data), named, _roles(settings), root, free)
    except ChatapiError as found:
        # All else is wrong with another role, whichever engine answers.
        return found.message if found.code == "model_too_large" else ""
    return ""


def _judge(settings: Settings, manifest: Manifest, here: JetsonBoard | None, free: int) -> None:
    """Raises ModelError where the library cannot be loaded, or has no room to remember one context."""
    place = compiled_models.compiled(settings.data, manifest.name)
    verdict = compiled_models.verify(
        place.folder, compiled_models.Target(here, available=free, versions=compiled_models.find().versions)
    )
    verdict.require()
    if here is not None and verdict.lib.metadata is not None:
        compiled_models.fitting(verdict.lib.metadata.raw, place.size(), free, settings.mlc.context)


def _roles(settings: Settings) -> tuple[str, ...]:
    """Those that are loaded at the start."""
    return tuple(registry.ENGINES) if settings.audio_device.enabled else memory_plan.ESSENTIAL


def _named(settings: Settings, engine: str, model: str) -> Settings:
    return settings.model_copy(update={"llm": settings.llm.model_copy(update={"engine": engine, "model": model})})
