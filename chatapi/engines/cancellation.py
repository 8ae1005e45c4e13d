"""Cancellation of an engine, and its sign of life."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""True once nobody needs the rest. Each poll is a sign of life: an engine that does not poll for `limits.step_seconds`
counts as stuck."""


def never() -> bool:
    """The `Stop` of a caller that needs everything."""
    return False


def still_wanted(stop: Stop) -> bool:
    """Whether `stop` is false, without giving a sign of life: for a thread that only waits for the work."""
    unmarked: Stop = getattr(stop, "unmarked", stop)
    return not unmarked()
