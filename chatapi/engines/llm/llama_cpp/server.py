"""Loading a GGUF model into llama.cpp's server, in this process."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatapi.engines.llm.context_size import ContextSize
from chatapi.engines.llm.llama_cpp.sharing import STEP
from chatapi.errors import ModelError
from chatapi.settings import Settings
from chatapi.system import memory, openmp, spin_limit

_openmp_runtime = openmp.load_spinning()
with openmp.sleeping():
    import xllamacpp

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

FEW_CORES = 4
"""Cores up to which generation uses all of them; of more it uses half, because it is bound by memory."""
MOST_THREADS = 8
CACHE_MIB = 64
"""Memory in MiB for prompts of conversations that lost the only slot to another; without it two conversations that take
turns in one slot compute their prompts anew every time. The library's own default is 8192."""
SPARE = 8 * STEP
"""Tokens of the KV cache beyond those that completions share: a prompt may be longer than estimated, and some steps
pass until it is paused."""
KV_CACHE = {"q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0, "f16": xllamacpp.ggml_type.GGML_TYPE_F16}
SOCKET = "llama.sock"
SOCKET_BYTES = 100
"""Longest path of a Unix socket, in bytes, that every system accepts."""


def gguf(model: InstalledModel) -> Path:
    """The model's file; the first where it is split into several."""
    files: list[Path] = sorted(path for path in model.files.values() if path.suffix == ".gguf")
    if not files:
        names = ", ".join(path.name for path in model.files.values())
        raise ModelError(f"model {model.name} has no .gguf file among: {names or 'no files at all'}")
    return files[0]


def check(path: Path) -> None:
    """ModelError when the file cannot be a model."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: it starts with {magic.hex(' ')}")


def load(path: Path, settings: Settings, context: ContextSize) -> Any:
    """Loads the model. ModelError when it cannot be loaded."""
    before = memory.anonymous()
    # The library serves HTTP as well. It listens on a socket in a private folder that is deleted at once, so nobody can
    # connect; where the folder's path is too long for a socket, its loopback port requires a random key.
    with tempfile.TemporaryDirectory(prefix="chatapi-") as folder:
        try:
            server = xllamacpp.Server(_params(path, settings, context, Path(folder)))
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp cannot load {path}: it is damaged, not supported by this version, or too large for "
                f"the memory with a context of {context.tokens} tokens in {settings.llama_cpp.slots} slots"
            ) from error
    # The library fills the KV cache with zeros, so all of it would take memory before any of it is used.
    memory.release_zeros(context.bytes_of(context.pool + SPARE), before)
    return server


def _params(path: Path, settings: Settings, context: ContextSize, folder: Path) -> Any:
    table = settings.llama_cpp
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    # Read, not mapped: if a mapped file is truncated, the process ends (SIGBUS).
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    # One cache for all slots. An idle slot keeps its prompt until another needs the room.
    params.kv_unified, params.cache_idle_slots = True, False
    params.n_ctx, params.kv_unified_per_slot = context.pool + SPARE, context.tokens
    params.n_parallel = table.slots
    params.n_gpu_layers = table.gpu_layers
    # Finds how many layers fit the GPU by loading the model's description and vocabulary twice.
    params.fit_params = has_gpu()
    # The system prompt is the first run.
    params.warmup = False
    params.n_batch = params.n_ubatch = STEP
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = threads(table.threads)
    params.cache_type_k = params.cache_type_v = KV_CACHE[context.kv_cache]
    params.cache_ram_mib = CACHE_MIB
    params.enable_reasoning = 0
    # Reasoning stays in the text, where the filter of answers finds it: the library knows fewer markers.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.verbosity = -1
    params.api_keys = [secrets.token_hex(32)]
    if len(os.fsencode(folder / SOCKET)) <= SOCKET_BYTES:
        params.hostnames = [str(folder / SOCKET)]
    params.ui = params.endpoint_slots = False
    params.cors_origins = ""
    params.n_threads_http = 1
    return params


def has_gpu() -> bool:
    """Whether this build of the library computes on a GPU of this machine."""
    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    return any(device["type"] != cpu for device in xllamacpp.get_device_info())


def threads(configured: int) -> tuple[int, int]:
    """Threads for generation and for reading a prompt."""
    if configured:
        return configured, configured
    cores = processors()
    # Sleeping threads cost more than a second core saves.
    few = FEW_CORES if _openmp_runtime else 1
    return min(MOST_THREADS, max(min(few, cores), cores // 2)), min(MOST_THREADS, cores)


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin_control() -> spin_limit.SpinControl | None:
    """For the threads that are started from now on; None where their spinning cannot be switched."""
    if _openmp_runtime is None:
        return None
    others = spin_limit.threads()
    switch = spin_limit.SpinSwitch(_openmp_runtime, processors())
    return spin_limit.SpinControl(switch, lambda: spin_limit.waited(others))
