"""The context of a model for llama.cpp: its training length, if the free memory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatapi.engines.llm import gguf
from chatapi.settings import LlamaCppSettings
from chatapi.system.jetson import gigabytes

MOST = 16384
"""Tokens that are chosen at most: a longer prompt takes a CPU minutes to read. The setting may be larger."""
LEAST = 1536
"""Tokens that are chosen however little memory is free."""
UNKNOWN = 4096
"""Tokens where the file states no training length."""
LONGEST_AT_ONCE = 2
"""Answers at once that may each fill the context."""
SHARE = 0.25
"""Share of the free memory that the KV cache may take."""
CELLS = 256
"""The library rounds the context up to a multiple of this (llama.cpp b11549, llama_context)."""
BYTES = {"f16": 2.0, "q8_0": 34 / 32}
"""Bytes per element of the KV cache's types; q8_0 has blocks of 32 with a scale of 2 bytes (ggml-common.h)."""


@dataclass(frozen=True)
class ContextSize:
    """The size of the KV cache, which all answers share."""

    tokens: int
    """Tokens of a prompt and its answer together."""
    pool: int
    """Tokens of all prompts and answers at once."""
    kv_cache: str
    """A key of `BYTES`."""
    token_bytes: float
    """Bytes of the KV cache per token; 0: unknown."""
    reason: str
    """What limits the tokens."""
    remedy: str
    """How a longer prompt may fit."""

    def bytes_of(self, tokens: int) -> int:
        """Bytes of a KV cache for this many tokens; 0: unknown."""
        return int(-(-tokens // CELLS) * CELLS * self.token_bytes)

    def __str__(self) -> str:
        cache = f", {self.kv_cache} KV cache up to {gigabytes(self.bytes_of(self.pool))}" if self.token_bytes else ""
        return f"{self.tokens} tokens ({self.reason}), {self.pool} for all answers at once{cache}"


def choose(table: LlamaCppSettings, path: Path, free: int) -> ContextSize:
    """The context of a GGUF file. `free`: bytes of memory beside the model."""
    keys = gguf.metadata(path, lambda key: key.startswith("general.arch") or ".attention." in key or _is_size(key))
    name = keys.get("general.architecture", "")
    keys = {key.removeprefix(f"{name}."): value for key, value in keys.items()}
    trained = _number(keys, "context_length")
    elements = _elements(keys)
    tokens, reason, remedy = _wanted(table.context, trained)
    budget, kind = SHARE * max(0, free), table.kv_cache
    if kind == "auto":
        kind = "f16" if tokens * elements * BYTES["f16"] <= budget else "q8_0"
    per_token = elements * BYTES[kind]
    fitting = int(budget / per_token) // CELLS * CELLS if per_token else tokens
    if not table.context and fitting < tokens:
        tokens = max(fitting, min(LEAST, tokens))
        reason, remedy = f"{gigabytes(free)} of memory are free", "llama_cpp.context raises it at the cost of memory"
    most = max(LONGEST_AT_ONCE * tokens, min(table.slots * tokens, MOST))
    pool = max(tokens, min(table.slots * tokens, most, max(fitting, table.slots * LEAST)))
    return ContextSize(tokens, pool, kind, per_token, reason, remedy)


def _wanted(configured: int, trained: int) -> tuple[int, str, str]:
    """The tokens that the setting and the model permit, what limits them, and how to get more."""
    trained_for = f"the model was trained for {trained}"
    if trained and configured >= trained:
        return trained, trained_for, f"{trained_for}, another may take more"
    if configured:
        most = f" up to {trained}, for which the model was trained" if trained else ""
        return configured, "llama_cpp.context", f"llama_cpp.context raises it{most}"
    if trained and trained <= MOST:
        return trained, trained_for, f"{trained_for}, another may take more"
    most = f" up to {trained}" if trained else ""
    return (MOST if trained else UNKNOWN), "llama_cpp.context raises it", f"llama_cpp.context raises it{most}"


def _elements(keys: Mapping[str, gguf.Value]) -> float:
    """Elements of the KV cache per token; 0: unknown.

    Every layer keeps a key and a value of each of its KV heads (llama.cpp, llama_kv_cache: n_embd_k_gqa and
    n_embd_v_gqa of llama_hparams). Layers with a sliding window keep fewer tokens than this assumes.
    """
    layers, heads = _number(keys, "block_count"), _number(keys, "attention.head_count")
    kv_heads = keys.get("attention.head_count_kv", heads)
    each = kv_heads if isinstance(kv_heads, Sequence) and not isinstance(kv_heads, str) else [kv_heads] * layers
    if not heads or not all(isinstance(number, int) for number in each):
        return 0
    head = _number(keys, "embedding_length") / heads
    key, value = (_number(keys, f"attention.{name}_length") or head for name in ("key", "value"))
    return sum(number for number in each if isinstance(number, int)) * (key + value)


def _is_size(key: str) -> bool:
    return key.rpartition(".")[2] in ("context_length", "block_count", "embedding_length")


def _number(keys: Mapping[str, gguf.Value], key: str) -> int:
    value = keys.get(key)
    return value if isinstance(value, int) and value > 0 else 0
