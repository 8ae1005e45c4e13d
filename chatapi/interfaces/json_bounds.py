"""Bounds on JSON that clients send: values, digits and depth cost far more than the bytes they are written in."""

from __future__ import annotations

from typing import Any

from chatapi.errors import TooLarge

MOST_DIGITS = 400
"""Of a whole number; a float is infinite beyond 309."""
DEEPEST = 64
"""Levels; a schema of more is no schema anybody wrote."""


def check_values(text: str | bytes, most: int, code: str = "too_many_values") -> None:
    """Raises TooLarge with that code where the text has more commas and brackets, before it is parsed."""
    if len(text) <= most:
        return
    count = (
        text.count(",") + text.count("[") + text.count("{")
        if isinstance(text, str)
        else text.count(b",") + text.count(b"[") + text.count(b"{")
    )
    if count > most:
        raise TooLarge(
            f"the JSON has {count} commas and brackets; at most {most} are taken: send fewer values",
            code=code,
            details={"limit_values": most},
        )


def whole_number(digits: str) -> int:
    """For `json.loads`. Raises ValueError: long numbers take a time that is quadratic in their length."""
    if len(digits) > MOST_DIGITS:
        raise ValueError("too long")
    return int(digits)


def too_deep(values: Any, most: int = DEEPEST) -> bool:
    """Whether lists and objects are nested in more levels."""
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
