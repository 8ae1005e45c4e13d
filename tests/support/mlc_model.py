"""A compiled model for the mlc engine, and the stand-in for mlc_llm."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatapi.catalog import InstalledModel
from model_library import METADATA as MISTRAL
from model_library import library
from paths import SUPPORT

STANDIN = SUPPORT / "mlc_llm_standin"
NAME = "tiny"
CHATML: dict[str, Any] = {
    "name": "chatml",
    "system_template": "<|im_start|>system\n{system_message}<|im_end|>",
    "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
    "role_content_sep": "\n",
    "role_empty_sep": "\n",
    "seps": ["<|im_end|>"],
    "stop_str": ["<|im_end|>"],
}
METADATA = {
    **MISTRAL,
    "max_batch_size": 8,
    "params": [],
    "memory_usage": {"prefill": 155_000_000, "decode": 20_000_000},
}
"""The KV cache of Mistral 7B needs 0.125 MiB per token."""
LIBRARY = library(platform.machine(), metadata=METADATA)


@contextmanager
def mlc_llm() -> Iterator[None]:
    """Makes the stand-in importable as mlc_llm."""
    sys.path.insert(0, str(STANDIN))
    # For child processes that read its version.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{STANDIN}:{before}" if before else str(STANDIN)
    _forget()
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
        sys.path[:] = [each for each in sys.path if each != str(STANDIN)]
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlc_llm"]:
        del sys.modules[name]
    for module in ("chatapi.engines.llm.mlc", "chatapi.engines.llm.mlc.loading"):
        sys.modules.pop(module, None)


def compiled_model(data: Path, library: bytes | None = None, **template: Any) -> InstalledModel:
    """Writes a compiled model into the data directory, as `chatapi compile` does."""
    folder = data / "compiled" / NAME
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    (folder / "lib.so").write_bytes(LIBRARY if library is None else library)
    config = {
        "model_type": METADATA["model_type"],
        "quantization": METADATA["quantization"],
        "context_window_size": 2048,
        "conv_template": {**CHATML, **template},
    }
    (folder / "weights" / "mlc-chat-config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "weights" / "params_shard_0.bin").write_bytes(bytes(1000))
    shard = {"dataPath": "params_shard_0.bin", "nbytes": 1000, "records": []}
    (folder / "weights" / "tensor-cache.json").write_text(json.dumps({"records": [shard]}), encoding="utf-8")
    (folder / "made.json").write_text(json.dumps({"manifest": NAME}), encoding="utf-8")
    return InstalledModel(NAME, "llm", "mlc", data / "models" / NAME, {}, ("en",), 1, 1, {})
