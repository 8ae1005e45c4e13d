"""Loads a Whisper model of CTranslate2 on the GPU or the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.errors import ModelError
from chatapi.settings import CTranslate2Settings
from chatapi.system import openmp

with openmp.sleeping():
    import ctranslate2  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

PROBE_FRAMES = 100
"""Frames of the spectrogram, one second, that are encoded to see whether the GPU works."""


def loaded(
    folder: Path,
    table: CTranslate2Settings,
    slots: int,
    threads: int,
    gpus: Callable[[], int] = ctranslate2.get_cuda_device_count,
) -> Any:
    """The model in a folder; with the device `auto` on the CPU where there is no GPU or it does not work.

    `gpus` counts the GPUs that CTranslate2 sees. Raises ModelError.
    """
    try:
        if table.device == "auto" and gpus() and (whisper := _on_gpu(folder, table, slots, threads)) is not None:
            return whisper
        return _whisper(folder, table, "cuda" if table.device == "cuda" else "cpu", slots, threads)
    except Exception as error:
        raise ModelError(f"CTranslate2 cannot load {folder}: {error}") from error


def _on_gpu(folder: Path, table: CTranslate2Settings, slots: int, threads: int) -> Any:
    """The model on the GPU; None, with one line in the log, where that fails."""
    try:
        whisper = _whisper(folder, table, "cuda", slots, threads)
        # cuBLAS is opened by the first matrix product and not by the constructor.
        whisper.encode(ctranslate2.StorageView.from_array(np.zeros((1, whisper.n_mels, PROBE_FRAMES), np.float32)))
    except Exception as error:
        log.warning("the GPU does not run %s, so the CPU does: %s", folder.name, error)
        return None
    return whisper


def _whisper(folder: Path, table: CTranslate2Settings, device: str, slots: int, threads: int) -> Any:
    return ctranslate2.models.Whisper(
        str(folder), device=device, compute_type=table.compute, inter_threads=slots, intra_threads=threads
    )
