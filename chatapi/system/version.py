"""The installed version."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "chatapi-appliance"
"""The name on PyPI, where `chatapi` is another project."""


def version() -> str:
    """The version of chatapi, as pip reports it."""
    return importlib.metadata.version(DISTRIBUTION)
