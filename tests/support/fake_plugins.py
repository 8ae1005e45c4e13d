"""Plug-ins of a test: distributions with entry points, on the path without being installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from chatapi.engines import registry


class PlugIns:
    """A folder on the path; each call of `add` is one more distribution in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, points: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> None:
        """`points`: group -> name -> object; `modules`: name -> source."""
        about = self._folder / f"{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            line
            for group, each in points.items()
            for line in (f"[{group}]", *(f"{key} = {value}" for key, value in each.items()))
        ]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, source in modules.items():
            (self._folder / f"{module}.py").write_text(source)
        registry.reset()


def plug_ins_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PlugIns:
    """An empty folder of plug-ins, on the path until the test ends."""
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    registry.reset()
    return PlugIns(folder)
