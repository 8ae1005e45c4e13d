"""What ONNX Runtime computes with: TensorRT, CUDA or the processor, by what is there and what is set.

Names and options of the providers: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime  # type: ignore[import-untyped]

from chatapi.settings import Settings

log = logging.getLogger(__name__)

NAMES = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Best first; the last is in every ONNX Runtime."""


def session(
    onnx: Path,
    options: Any,
    settings: Settings,
    suited: Sequence[str] = tuple(NAMES),
    runtime: Any = onnxruntime,
) -> Any:
    """An InferenceSession on the best provider that works; each that should and does not is told in the log.

    `suited` are those that auto takes for this model, best first; `options` are the session's. TensorRT keeps what it
    builds in <data>/tensorrt/<the file's name>. Raises what ONNX Runtime raises for a model that cannot be loaded.
    """
    wanted = settings.onnx.provider
    chain = list(suited) if wanted == "auto" else list(NAMES)[list(NAMES).index(wanted) :]
    here = set(runtime.get_available_providers())
    if wanted != "auto" and NAMES[wanted] not in here:
        log.warning("onnx.provider is %s, which this ONNX Runtime does not have", wanted)
    chain = [name for name in chain if NAMES[name] in here]
    while True:
        providers = [(NAMES[name], _options(name, settings.data / "tensorrt" / onnx.stem)) for name in chain]
        try:
            # Without its own fallback, which prints.
            made = runtime.InferenceSession(str(onnx), sess_options=options, providers=providers, enable_fallback=0)
        except Exception as error:
            if len(chain) < 2:
                raise
            log.warning("%s runs without %s, which failed: %s", onnx.name, chain[0], _line(error))
            chain = chain[1:]
            continue
        if made.get_providers()[0] != NAMES[chain[0]]:
            # So it is with CUDA whose libraries cannot be loaded.
            log.warning("%s runs without %s, which could not be started", onnx.name, chain[0])
        return made


def _options(name: str, kept: Path) -> dict[str, str]:
    if name != "tensorrt":
        return {}
    kept.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(kept),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(kept),
    }


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
