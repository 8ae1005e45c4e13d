"""`chatapi models`: what the catalog has, here and to fetch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from chatapi import catalog
from chatapi.catalog import Catalog
from chatapi.errors import BadInput
from chatapi.settings import Settings


def models(settings: Settings, action: str, names: Sequence[str], as_json: bool) -> int:
    """Status 0 when all is well, 1 when `verify` found something."""
    known = Catalog(settings.data)
    if action == "list":
        return _list(known, as_json)
    if action == "fetch":
        return _fetch(known, names)
    if not names and action == "remove":
        raise BadInput("name the models to remove")
    if action == "verify":
        return _verify(known, names)
    for name in names:
        known.remove(name)
        print(f"{name} is removed")
    return 0


def _list(known: Catalog, as_json: bool) -> int:
    manifests = sorted(known.manifests.values(), key=lambda m: (m.role, -m.quality))
    if as_json:
        rows = [
            {
                "name": m.name,
                "role": m.role,
                "title": m.title,
                "licence": m.licence,
                "languages": list(m.languages),
                "memory_bytes": m.memory,
                "installed": known.installed(m.name),
                "default": m.default,
            }
            for m in manifests
        ]
        print(json.dumps(rows, indent=2))
        return 0
    table = Table("name", "role", "memory", "licence", "languages", "", box=None, header_style="bold")
    for m in manifests:
        languages = " ".join(m.languages[:6]) + (f" +{len(m.languages) - 6}" if len(m.languages) > 6 else "")
        state = "installed" if known.installed(m.name) else "default" if m.default else ""
        table.add_row(m.name, m.role, f"{m.memory / 1e6:.0f} MB", m.licence, languages, state)
    Console().print(table)
    return 0


def _fetch(known: Catalog, names: Sequence[str]) -> int:
    """Everything named, or the default models that are missing, with a bar for each step."""
    chosen = list(names) or [m.name for m in known.manifests.values() if m.default and not known.installed(m.name)]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    for name in chosen:
        known.get(name)
    with Progress(*columns, console=Console(file=sys.stderr)) as bars:
        for name in chosen:
            steps: dict[tuple[str, str], TaskID] = {}

            def show(progress: catalog.Progress, steps: dict[tuple[str, str], TaskID] = steps) -> None:
                key = (progress.step, progress.file)
                if key not in steps:
                    told = f"{progress.model}: {progress.step} {progress.file}".rstrip()
                    steps[key] = bars.add_task(told, total=progress.total or None)
                bars.update(steps[key], completed=progress.done, total=progress.total or None)

            known.fetch(name, show)
    return 0


def _verify(known: Catalog, names: Sequence[str]) -> int:
    wrong = 0
    for name in names or [name for name in known.manifests if known.installed(name)]:
        found = known.verify(name)
        wrong += bool(found)
        print(f"{name}: {'; '.join(map(str, found)) if found else 'every file is as it should be'}")
    return 1 if wrong else 0
