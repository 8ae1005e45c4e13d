"""MLC's metadata in a model library, read from its bytes: the library may be for another machine and is never loaded
here."""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatapi.catalog.compiled import elf, fatbin
from chatapi.errors import ModelError

MARKS = (b"__tvm_ffi__library_bin", b"__tvm_ffi_library_bin", b"__tvm_dev_mblob")
"""Symbols by which TVM finds its part of a library: since tvm-ffi (tvm 0.22), in its first releases, before it."""
_BEGINNING = re.compile(rb'\{"model_type": "')
"""Start of the JSON that the function `_metadata` returns (mlc-llm 79d603f, compiler_pass/estimate_memory_usage.py): a
string constant, which TVM writes into the library unchanged."""
_BYTES = re.compile(r"(?:float|bfloat|u?int)(\d+)")
_MEBI = 1 << 20


@dataclass(frozen=True)
class Metadata:
    """The metadata that MLC's compiler writes into a library."""

    raw: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.raw["model_type"])

    @property
    def quantization(self) -> str:
        return str(self.raw["quantization"])

    @property
    def context(self) -> int:
        """Tokens of context; -1: bounded only by the model's sliding window."""
        return int(self.raw.get("context_window_size", -1))

    @property
    def chunk(self) -> int:
        """Tokens of a prompt computed in one step."""
        return int(self.raw["prefill_chunk_size"])

    @property
    def batch(self) -> int:
        """Completions at once."""
        return int(self.raw.get("max_batch_size", 1))

    @property
    def params(self) -> Mapping[str, tuple[tuple[int | str, ...], str]]:
        """Shape and type of each weight, by name; a dimension may be a name, such as vocab_size."""
        return {each["name"]: (tuple(each["shape"]), each["dtype"]) for each in self.raw.get("params", ())}

    def memory(self, config: Mapping[str, Any], batch: int | None = None) -> int:
        """Bytes of the loaded model: weights, temporary memory of a step, the engine's workspaces and one full context.

        `config` is mlc-chat-config.json, for dimensions that have names; it may be empty. The sums are those of MLC's
        engine (mlc-llm 79d603f, cpp/serve/config.cc, EstimateMemoryUsageOnMode) in its modes "local" and "interactive",
        in which all completions share one context.
        """
        model = config.get("model_config", {})
        cache = {name: int(value) for name, value in self.raw.get("kv_cache", {}).items()}
        heads, kv_heads = cache.get("num_attention_heads", 0), cache.get("num_key_value_heads", 0)
        size, answers = cache.get("head_dim", 0), min(batch or 4, self.batch)
        context = int(config.get("context_window_size", self.context))
        chunk = min(int(config.get("prefill_chunk_size", self.chunk)), self.chunk)
        cached = max(context, 0) * (size * kv_heads * cache.get("num_hidden_layers", 0) * 4 + 1.25)
        around = chunk * (heads + 1) * 8 + chunk * size * (heads + kv_heads) * 4 + 48 * _MEBI
        hidden = chunk * 4 + (chunk * 2 + answers) * size * heads * 2
        logits = answers * int(model.get("vocab_size", 0)) * 16.125
        step = max(self.raw.get("memory_usage", {}).values(), default=0)
        return int(self.weights({**model, **config}) + step + cached + around + hidden + logits)

    def weights(self, sizes: Mapping[str, Any]) -> int:
        """Bytes of all weights; a named dimension is looked up in `sizes`, and counts as 1 where it is missing."""
        return sum(
            math.prod(each if isinstance(each, int) else int(sizes.get(each, 1)) for each in shape) * _size(kind)
            for shape, kind in self.params.values()
        )

    def short(self) -> dict[str, Any]:
        """The metadata without the list of weights, for a record that people read."""
        return {key: value for key, value in self.raw.items() if key != "params"}


@dataclass(frozen=True)
class Library:
    """A model library as a file."""

    path: Path
    size: int
    header: elf.Header | None
    """None: it is not an ELF file."""
    code: fatbin.Code
    metadata: Metadata | None
    """None: MLC did not make it, or it is incomplete."""
    tvm: bool
    """Whether it has the symbol by which TVM reads its part."""


def read(path: Path) -> Library:
    """Reads the library in a file. Raises ModelError where it cannot be read."""
    try:
        size = path.stat().st_size
        if not size:
            return Library(path, 0, None, fatbin.NONE, None, False)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = elf.header(data)
            if found is None:
                return Library(path, size, None, fatbin.NONE, None, False)
            marked = any(data.find(mark) >= 0 for mark in MARKS)
            return Library(path, size, found, fatbin.code(data), _metadata(data), marked)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", code="library_unreadable") from error


def _metadata(data: mmap.mmap) -> Metadata | None:
    for begun in _BEGINNING.finditer(data):
        end = data.find(b"\0", begun.start())
        text = data[begun.start() : end if end > 0 else len(data)].decode("utf-8", "replace")
        try:
            raw, _ = json.JSONDecoder().raw_decode(text)
            metadata = Metadata(raw)
            if metadata.quantization and metadata.chunk and "memory_usage" in raw:
                return metadata
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _size(kind: str) -> int:
    found = _BYTES.match(kind)
    return (int(found[1]) + 7) // 8 if found else 1
