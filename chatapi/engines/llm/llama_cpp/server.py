"""Loading a GGUF model into llama.cpp's server, in this process."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatapi.errors import ModelError
from chatapi.settings import Settings
from chatapi.system import openmp

with openmp.sleeping():
    import xllamacpp

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

STEP = 128
"""Prompt tokens computed at once, which bounds the delay of a cancellation: about 0.4 s on two laptop cores."""
CACHE_MIB = 32
"""Memory in MiB for prompts of conversations that lost their slot to another; without it two conversations that take
turns in one slot compute their prompts anew every time. The library's own default is 8192."""
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


def load(path: Path, settings: Settings) -> Any:
    """Loads the model. ModelError when it cannot be loaded."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: it starts with {magic.hex(' ')}")
    # The library serves HTTP as well. It listens on a socket in a private folder that is deleted at once, so nobody can
    # connect; where the folder's path is too long for a socket, its loopback port requires a random key.
    with tempfile.TemporaryDirectory(prefix="chatapi-") as folder:
        try:
            return xllamacpp.Server(_params(path, settings, Path(folder)))
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp cannot load {path}: it is damaged, not supported by this version, or too large for "
                f"the memory with a context of {settings.llama_cpp.context} in {settings.llama_cpp.slots} slots"
            ) from error


def _params(path: Path, settings: Settings, folder: Path) -> Any:
    table = settings.llama_cpp
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    # Read, not mapped: if a mapped file is truncated, the process ends (SIGBUS).
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.n_ctx = table.context * table.slots
    params.n_parallel = table.slots
    params.n_gpu_layers = table.gpu_layers
    params.n_batch = params.n_ubatch = STEP
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = threads(table.threads)
    params.cache_type_k = params.cache_type_v = KV_CACHE[table.kv_cache]
    params.cache_ram_mib = CACHE_MIB
    params.enable_reasoning = 0
    params.verbosity = -1
    params.api_keys = [secrets.token_hex(32)]
    if len(os.fsencode(folder / SOCKET)) <= SOCKET_BYTES:
        params.hostnames = [str(folder / SOCKET)]
    params.ui = params.endpoint_slots = False
    params.cors_origins = ""
    params.n_threads_http = 1
    return params


def threads(configured: int) -> tuple[int, int]:
    """Threads for generation and for reading a prompt.

    The threads of a step wait for each other, so one that another engine keeps from its core delays all. Half of the
    cores generate nearly as fast as all: generation is bound by memory.
    """
    if configured:
        return configured, configured
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // 2)), min(8, cores)
