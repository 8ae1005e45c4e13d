"""What a check says, and what it may look at."""

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
    """One thing looked at."""

    level: Level
    """bad keeps chatapi from working as it is set; note is worth knowing."""
    about: str
    told: str
    """In one sentence, with the mend where one is needed."""


@dataclass(frozen=True)
class CheckContext:
    """What is looked at."""

    settings: Settings
    root: Path = Path("/")
    """Where the machine's files begin."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    free: int | None = None
    """Bytes that models may take, where that is not what is free now: chatapi, which runs already, has them."""
    quick: bool = False
    """Only what takes a few milliseconds, for the start of a server that holds its port already."""

    @cached_property
    def board(self) -> JetsonBoard | None:
        return board.find(self.root)

    @cached_property
    def in_container(self) -> bool:
        """Docker and podman each leave a file at the root of what they run."""
        return any((self.root / name).exists() for name in (".dockerenv", "run/.containerenv"))

    @property
    def needs_gpu(self) -> bool:
        """Whether a chosen engine runs on nothing else."""
        return self.settings.llm.engine == "mlc"

    def text(self, path: str) -> str:
        """A file's text; empty where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \n")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """What sysfs says in a file that holds one whole number; None where it does not."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Paths as `text` takes them, in order."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))


Probe = Callable[[CheckContext], Iterator[Finding]]
"""Looks at one thing. It raises nothing that it can expect."""
