"""TOML, read by the standard library where it can (Python 3.11), else by tomli."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOMLDecodeError = tomllib.TOMLDecodeError


def loads(text: str) -> dict[str, Any]:
    """Parses a document. Raises TOMLDecodeError."""
    document: dict[str, Any] = tomllib.loads(text)
    return document
