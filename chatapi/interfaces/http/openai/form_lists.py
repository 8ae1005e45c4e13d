"""Lists in forms: each client writes them in its own way, and all of them mean the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_origin

from pydantic.fields import FieldInfo


def normalized(values: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The values of a form, with lists where the fields are lists, and text where they are text.

    A list is written as `name[]`, as `name[0]`, as `name` once or several times, as JSON, or separated by commas.
    """
    return {
        name: _items(value) if name in fields and get_origin(fields[name].annotation) is tuple else _single(value)
        for name, value in values.items()
    }


def _single(value: Any) -> Any:
    """The value; of a list with one item, the item."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _items(value: Any) -> Any:
    given = value if isinstance(value, list) else [value]
    found: list[Any] = []
    for each in given:
        found += _split(each) if isinstance(each, str) else [each]
    return tuple(found)


def _split(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        return listed if isinstance(listed, list) else [text]
    if text.startswith("data:"):
        # A data URL has a comma itself.
        return [text]
    return [part for each in text.split(",") if (part := each.strip())]
