"""How an engine learns that nobody wants the rest, and how it shows meanwhile that it is at work."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""True once nobody wants the rest. To ask is a sign of life: whatever gives none for `limits.step_seconds` is stuck."""


def never() -> bool:
    """The `Stop` of a caller who wants everything."""
    return False


def still_wanted(stop: Stop) -> bool:
    """Whether `stop` is false, asked by a thread that only waits: to ask it directly is a sign that work goes on."""
    unmarked: Stop = getattr(stop, "unmarked", stop)
    return not unmarked()
