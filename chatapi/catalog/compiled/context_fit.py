"""How many tokens of context fit the memory beside a compiled model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from chatapi.errors import ModelError
from chatapi.system.jetson import gigabytes

HEADROOM = 400 << 20
"""Bytes beyond weights, temporary memory and KV cache: MLC's workspaces, and the memory of the other engines."""


def fitting(metadata: Mapping[str, Any], weights: int, available: int, context: int) -> int:
    """Tokens whose keys and values fit the memory beside the weights; all sizes are in bytes.

    Bytes per token as MLC counts them (`EstimateMemoryUsageOnMode`, config.cc): 16 bits for each key and value, and
    1.25. Unlimited for a model without KV cache. ModelError where not even one context fits.
    """
    cache = metadata.get("kv_cache")
    if not cache:
        return sys.maxsize
    each = cache["head_dim"] * cache["num_key_value_heads"] * cache["num_hidden_layers"] * 4 + 1.25
    taken = weights + max(metadata.get("memory_usage", {}).values(), default=0) + HEADROOM
    tokens = int((available - taken) / each)
    if tokens < context:
        raise ModelError(
            f"the model needs {gigabytes(taken + each * context)} of memory with a context of {context} tokens, and "
            f"{gigabytes(available)} are free; lower mlc.context, choose a smaller model, or stop other programs"
        )
    return tokens
