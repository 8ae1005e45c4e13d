"""Execution providers of ONNX Runtime: TensorRT, CUDA or CPU, by what is available and what is set.

Names and options of the providers: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime  # type: ignore[import-untyped]

from chatapi.engines.prepared_graphs import GraphSource, PreparedGraphs
from chatapi.settings import Settings
from chatapi.storage.layout import DataDirectory

log = logging.getLogger(__name__)

NAMES = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Setting -> provider, best first; every ONNX Runtime has the last."""


def background_options() -> Any:
    """Session options of a small model that runs beside recognition, which needs the other cores: one thread, and no
    arena, which would keep its memory between runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def sessions(
    source: GraphSource, options: Callable[[], Any], settings: Settings, suited: Sequence[str] = tuple(NAMES)
) -> list[Any]:
    """A session for each part of a model, as `session` creates it; on the CPU from graphs that are prepared once.

    Raises what ONNX Runtime raises for a model that cannot be loaded, and ValueError for a damaged file.
    """
    if _chain(settings, suited, onnxruntime) == ["cpu"]:
        return PreparedGraphs(DataDirectory(settings.data).prepared).sessions(source, options)
    parts: Sequence[bytes | None] = source.parts() or [None]
    return [session(source.onnx, options(), settings, suited, encoded=part) for part in parts]


def session(
    onnx: Path,
    options: Any,
    settings: Settings,
    suited: Sequence[str] = tuple(NAMES),
    runtime: Any = onnxruntime,
    encoded: bytes | None = None,
) -> Any:
    """Creates an InferenceSession on the best provider that works, and logs each that should work and does not.

    `suited` are the providers that auto tries for this model, best first; `options` are the session's. TensorRT caches
    its engines in <data>/tensorrt/<the file's stem>. `encoded` is the model where it is only a part of the file. Raises
    what ONNX Runtime raises for a model that cannot be loaded.
    """
    chain = _chain(settings, suited, runtime)
    cache = DataDirectory(settings.data).tensorrt / onnx.stem
    while True:
        providers = [(NAMES[name], _options(name, cache)) for name in chain]
        try:
            # Without ONNX Runtime's own fallback, which prints.
            model = str(onnx) if encoded is None else encoded
            created = runtime.InferenceSession(model, sess_options=options, providers=providers, enable_fallback=0)
        except Exception as error:
            if len(chain) < 2:
                raise
            log.warning("%s runs without %s, which failed: %s", onnx.name, chain[0], _first_line(error))
            chain = chain[1:]
            continue
        if created.get_providers()[0] != NAMES[chain[0]]:
            # This happens with CUDA when its libraries cannot be loaded.
            log.warning("%s runs without %s, which could not be started", onnx.name, chain[0])
        return created


def _chain(settings: Settings, suited: Sequence[str], runtime: Any) -> list[str]:
    """The providers to try, in this order; a set one that this ONNX Runtime does not have is logged."""
    configured = settings.onnx.provider
    chain = list(suited) if configured == "auto" else list(NAMES)[list(NAMES).index(configured) :]
    available = set(runtime.get_available_providers())
    if configured != "auto" and NAMES[configured] not in available:
        log.warning("onnx.provider is %s, which this ONNX Runtime does not have", configured)
    return [name for name in chain if NAMES[name] in available]


def _options(name: str, cache: Path) -> dict[str, str]:
    if name != "tensorrt":
        return {}
    cache.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
