"""The error of python/mlc_llm/protocol/error_protocol.py."""

from __future__ import annotations


class BadRequestError(ValueError):
    """A request that the engine will not take."""
