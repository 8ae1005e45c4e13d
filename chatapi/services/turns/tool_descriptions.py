"""The description of tools in a prompt, the same for the same tools, so that the prompt cache holds it.

Clients send their tools and the keys of their schemas in any order, some in a new one each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatapi.engines import Tool

FIRST_KEYS = ("type", "description", "enum", "properties", "required", "items")
"""Keys of JSON schemas in the order in which models know them; others follow by name."""
NAMED = ("properties", "$defs", "definitions", "patternProperties")
"""Keywords whose keys are names; only these are sorted as names."""


def described(tools: Sequence[Tool]) -> str:
    """The tools as JSON, one a line, by name."""
    return "\n".join(
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": _ordered(tool.parameters)},
            ensure_ascii=False,
        )
        for tool in sorted(tools, key=lambda tool: tool.name)
    )


def _ordered(value: Any, named: bool = False) -> Any:
    """A schema whose keys are in a fixed order. `named`: its keys are names."""
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    keys = sorted(value) if named else sorted(value, key=_rank)
    return {key: _ordered(value[key], named=not named and key in NAMED) for key in keys}


def _rank(key: str) -> tuple[int, str]:
    return (FIRST_KEYS.index(key) if key in FIRST_KEYS else len(FIRST_KEYS), key)
