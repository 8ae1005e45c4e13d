"""A finding of a check, and the context that checks read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Literal

from chatapi.settings import Settings
from chatapi.system import jetson as board
from chatapi.system.jetson import JetsonBoard

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Level
    """bad: chatapi cannot run with these settings; note: worth knowing."""
    about: str
    """What was checked, in one or two words."""
    message: str
    """The finding in one sentence, with the remedy for a problem."""


@dataclass(frozen=True)
class CheckContext:
    """The settings and the machine that are checked."""

    settings: Settings
    root: Path = Path("/")
    """Root of the machine's file system."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    free: int | None = None
    """Memory that models may use, in bytes, if a running chatapi holds some of it; None: the memory that is free."""
    quick: bool = False
    """Whether to run only checks of a few milliseconds, for a starting server that already has its port."""

    @cached_property
    def board(self) -> JetsonBoard | None:
        return board.find(self.root)

    @cached_property
    def in_container(self) -> bool:
        """Whether this is a container; Docker and podman create a file at its root."""
        return any((self.root / name).exists() for name in (".dockerenv", "run/.containerenv"))

    @property
    def needs_gpu(self) -> bool:
        """Whether a selected engine requires a GPU."""
        return self.settings.llm.engine == "mlc"

    def text(self, path: str) -> str:
        """A file's text; empty if it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \n")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """The integer in a sysfs file; None if there is none."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Matching paths relative to the root, sorted."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))


Probe = Callable[[CheckContext], Iterator[Finding]]
"""A check; it turns expected errors into findings."""
