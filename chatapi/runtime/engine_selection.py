"""Chooses the engines that the settings leave on `auto`, from the installed models and libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread

from chatapi.catalog import Catalog, Manifest
from chatapi.catalog import compiled as compiled_models
from chatapi.engines import registry
from chatapi.errors import ChatapiError, ModelError
from chatapi.runtime import model_selection
from chatapi.settings import Settings
from chatapi.system import jetson
from chatapi.system.jetson import JetsonBoard

log = logging.getLogger(__name__)

CPU_LLM = "llama_cpp"
"""The LLM engine that needs only a CPU."""


def resolve_engines(settings: Settings, root: Path = Path("/"), free: int | None = None) -> Settings:
    """The settings with every `auto` engine of VAD, ASR and LLM replaced by a name.

    VAD: silero_onnx when its model is installed, else silero. ASR: the engine of the named model, else that of the best
    installed model. LLM: the engine of the named model, else MLC with the best compiled model that fits beside the
    models of the other roles, else llama_cpp. Compiled models that cannot be loaded are skipped; `chatapi check` says
    why. `free`: bytes of memory that may be used; None: the bytes that are free now.
    """
    if "auto" not in (settings.vad.engine, settings.asr.engine, settings.llm.engine):
        return settings
    catalog = Catalog(settings.data)
    settings = _with_asr(_with_vad(settings, catalog), catalog, root, free)
    if settings.llm.engine != "auto":
        return settings
    model = settings.llm.model
    engine = CPU_LLM
    if model != "auto":
        manifest = catalog.manifests.get(model)
        engine = manifest.engine if manifest is not None else CPU_LLM
    elif registry.installed("llm", "mlc"):
        for each in sorted(compiled(catalog), key=lambda manifest: manifest.quality, reverse=True):
            reason = unusable_reason(settings, each, root, free)
            if not reason:
                engine, model = each.engine, each.name
                break
            log.info("compiled model skipped: %s", reason)
    return _with(settings, "llm", engine=engine, model=model)


async def resolve_engines_async(settings: Settings) -> Settings:
    """`resolve_engines` on a thread: checking a compiled model may import TVM, and a signal must end that wait."""
    return await anyio.to_thread.run_sync(resolve_engines, settings, abandon_on_cancel=True)


def _with_vad(settings: Settings, catalog: Catalog) -> Settings:
    if settings.vad.engine != "auto":
        return settings
    fast = "silero_onnx"
    has_model = any(each.engine == fast and catalog.ready(each.name) for each in catalog.manifests.values())
    engine = fast if has_model and registry.installed("vad", fast) else "silero"
    return _with(settings, "vad", engine=engine)


def asr_engines(root: Path = Path("/")) -> tuple[str, ...]:
    """Installed ASR engines, the preferred one first: CTranslate2 is the fastest on a CPU, and boards with a GPU have
    whisper.cpp built for it."""
    order = ("ctranslate2", "whisper_cpp") if jetson.find(root) is None else ("whisper_cpp", "ctranslate2")
    return tuple(each for each in order if registry.installed("asr", each)) or order[:1]


def in_default_set(manifest: Manifest, root: Path = Path("/")) -> bool:
    """Whether set-up fetches the model on this machine."""
    return manifest.default and (manifest.role != "asr" or manifest.engine == asr_engines(root)[0])


def _with_asr(settings: Settings, catalog: Catalog, root: Path, free: int | None) -> Settings:
    if settings.asr.engine != "auto":
        return settings
    engines = asr_engines(root)
    named = catalog.manifests.get(settings.asr.model)
    installed = [
        each
        for each in catalog.manifests.values()
        if each.role == "asr" and each.engine in engines and catalog.ready(each.name)
    ]
    limit = model_selection.available(root) if free is None else free
    best = max(
        installed, key=lambda each: (each.memory <= limit, each.quality, -engines.index(each.engine)), default=None
    )
    chosen = named or best
    engine = engines[0] if chosen is None else chosen.engine
    return _with(settings, "asr", engine=engine)


def compiled(catalog: Catalog) -> Iterator[Manifest]:
    """Installed models that were compiled on this machine."""
    return (each for each in catalog.manifests.values() if each.compile is not None and catalog.ready(each.name))


def unusable_reason(settings: Settings, manifest: Manifest, root: Path = Path("/"), free: int | None = None) -> str:
    """Why a compiled model cannot be loaded now, in one sentence; empty: it can. `free` as for `resolve_engines`."""
    free = model_selection.available(root) if free is None else free
    if manifest.memory > free:
        needs = f"{jetson.gigabytes(manifest.memory)} and {jetson.gigabytes(free)} are free"
        return f"{manifest.name} needs {needs}; end other programs, or compile a smaller model"
    try:
        _verify(settings, manifest, jetson.find(root), free)
    except ModelError as error:
        return error.message
    try:
        named = _with(settings, "llm", engine=manifest.engine, model=manifest.name)
        model_selection.plan(Catalog(settings.data), named, _roles(settings), root, free)
    except ChatapiError as error:
        # Any other error concerns another role and does not depend on the LLM engine.
        return error.message if error.code == "model_too_large" else ""
    return ""


def _verify(settings: Settings, manifest: Manifest, board: JetsonBoard | None, free: int) -> None:
    """Raises ModelError when the library cannot be loaded, or when the KV cache of one context does not fit."""
    place = compiled_models.compiled(settings.data, manifest.name)
    verdict = compiled_models.verify(
        place.folder, compiled_models.Target(board, available=free, versions=compiled_models.find().versions)
    )
    verdict.require()
    if board is not None and verdict.lib.metadata is not None:
        compiled_models.fitting(verdict.lib.metadata.raw, place.size(), free, settings.mlc.context)


def _roles(settings: Settings) -> tuple[str, ...]:
    """The roles whose models share the memory: the essential ones, and with an audio device those it will need."""
    wanted = settings.audio_device.enabled
    return tuple(
        role.name for role in registry.roles().values() if role.essential or (wanted and role.expected(settings))
    )


def _with(settings: Settings, role: str, **chosen: str) -> Settings:
    """The settings with another engine, or also another model, of a role."""
    return settings.model_copy(update={role: getattr(settings, role).model_copy(update=chosen)})
