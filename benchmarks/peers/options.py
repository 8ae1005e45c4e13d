"""What all parts of the comparison get."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Options of a comparison."""

    peers_python: str
    """The Python that has the other programs."""
    rounds: int
    models: Path = Path.home() / ".local/share/chatapi/models"
    hours: float = 0.5
    """Length of the recording of the part `files`."""
    model: str = "whisper-tiny.en-ct2"
    """The speech recognition model of the part `files`."""


def chatapi(port: int, *settings: str) -> Sequence[str]:
    """The command that serves on a port, at its defaults but for the settings."""
    given = (f"server.port={port}", *settings)
    return [sys.executable, "-m", "chatapi", *(part for each in given for part in ("--set", each))]
