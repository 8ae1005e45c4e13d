"""Machines as files, for tests of `chatapi check`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from chatapi import settings
from chatapi.cli.check.finding import CheckContext, Probe
from conftest import FAKE_ENGINES
from fake_jetson import write_files

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
SWAPS = "Filename Type Size Used Priority\n"


def check_context(
    files: dict[str, str], *chosen: str, environ: dict[str, str] | None = None, **more: Any
) -> CheckContext:
    """A machine with these files and settings, in the working directory of the test."""
    here = Path.cwd()
    root = write_files(here / "machine", files)
    for folder in (root, here / "data"):
        folder.mkdir(exist_ok=True)
    loaded = settings.load([*FAKE_ENGINES, f"data={here}/data", *chosen], environ={}).settings
    return CheckContext(loaded, root, environ or {}, **{"now": NOW, **more})


def findings(probe: Probe, context: CheckContext) -> list[str]:
    """The findings of a probe, as level, subject and message."""
    return [f"{finding.level} {finding.about}: {finding.message}" for finding in probe(context)]
