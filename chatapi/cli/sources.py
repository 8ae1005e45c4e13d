"""Clips that commands read: files, and standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from chatapi.errors import BadInput


def read_source(name: str) -> bytes:
    """The content of a file; `-` is standard input. Raises BadInput."""
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}") from error
