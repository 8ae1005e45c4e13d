"""How many tokens of context a compiled model has memory for on this board."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from chatapi.errors import ModelError
from chatapi.system.jetson import gigabytes

HEADROOM = 400 << 20
"""Bytes beside weights, temporary memory and KV cache: MLC's workspaces, and the other engines while they compute."""


def fitting(metadata: Mapping[str, Any], weights: int, available: int, context: int) -> int:
    """Tokens whose keys and values fit the memory that is left beside the weights; all of these are bytes.

    Bytes a token as MLC counts them (`EstimateMemoryUsageOnMode`, config.cc): 16 bits for each key and value, and 1.25.
    Without a bound for a model that keeps none. ModelError where not even one context fits.
    """
    cache = metadata.get("kv_cache")
    if not cache:
        return sys.maxsize
    each = cache["head_dim"] * cache["num_key_value_heads"] * cache["num_hidden_layers"] * 4 + 1.25
    taken = weights + max(metadata.get("memory_usage", {}).values(), default=0) + HEADROOM
    tokens = int((available - taken) / each)
    if tokens < context:
        raise ModelError(
            f"the model needs {gigabytes(taken + each * context)} of memory with a context of {context} and "
            f"{gigabytes(available)} are free; set mlc.context lower, take a smaller model, or stop what else runs"
        )
    return tokens
