"""Machines laid out as files, for what is checked of them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from chatapi import settings
from chatapi.cli.check.finding import CheckContext, Probe
from conftest import FAKE_ENGINES
from test_board import written

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
SWAPS = "Filename Type Size Used Priority\n"


def scene(files: dict[str, str], *chosen: str, environ: dict[str, str] | None = None, **more: Any) -> CheckContext:
    """A machine of these files, and these settings, in the test's own folder."""
    here = Path.cwd()
    root = written(here / "machine", files)
    for folder in (root, here / "data"):
        folder.mkdir(exist_ok=True)
    loaded = settings.load([*FAKE_ENGINES, f"data={here}/data", *chosen], environ={}).settings
    return CheckContext(loaded, root, environ or {}, **{"now": NOW, **more})


def told(probe: Probe, scene: CheckContext) -> list[str]:
    return [f"{finding.level} {finding.about}: {finding.told}" for finding in probe(scene)]
