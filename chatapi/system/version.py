"""The version that is installed."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "chatapi-appliance"
"""The name on PyPI, where `chatapi` is another project."""


def version() -> str:
    """Of this program, as pip knows it."""
    return importlib.metadata.version(DISTRIBUTION)
