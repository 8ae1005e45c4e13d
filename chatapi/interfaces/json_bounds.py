"""Limits on JSON that clients send: values, digits and depth cost far more memory and time than their bytes suggest."""

from __future__ import annotations

from typing import Any

from chatapi.errors import TooLarge

MOST_DIGITS = 400
"""Longest integer, in digits; a float is infinite beyond 309."""
DEEPEST = 64
"""Deepest nesting, in levels; no real schema is deeper."""


def check_values(text: str | bytes, most: int, code: str = "too_many_values") -> None:
    """Raises TooLarge with that code, before parsing, when the text has more than `most` commas and brackets."""
    if len(text) <= most:
        return
    count = (
        text.count(",") + text.count("[") + text.count("{")
        if isinstance(text, str)
        else text.count(b",") + text.count(b"[") + text.count(b"{")
    )
    if count > most:
        raise TooLarge(
            f"the JSON has {count} commas and brackets; at most {most} are allowed: send fewer values",
            code=code,
            details={"limit_values": most},
        )


def whole_number(digits: str) -> int:
    """An integer parser for `json.loads`. Raises ValueError for long numbers, whose parsing takes quadratic time."""
    if len(digits) > MOST_DIGITS:
        raise ValueError("too long")
    return int(digits)


def too_deep(values: Any, most: int = DEEPEST) -> bool:
    """Whether lists and objects are nested more than `most` levels deep."""
    level, depth = [values], 0
    while level:
        if (depth := depth + 1) > most:
            return True
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = inner
    return False
