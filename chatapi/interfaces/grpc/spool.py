"""Temporary files of calls."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast


@contextmanager
def spooled(data: Path) -> Iterator[BinaryIO]:
    """An unnamed file on the disk of the data directory, where that can be written."""
    with tempfile.TemporaryFile(dir=data if os.access(data, os.W_OK | os.X_OK) else None) as file:
        yield cast("BinaryIO", file)
