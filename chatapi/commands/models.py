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
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "role", "memory", "licence", "languages", ""):
        table.add_column(column, no_wrap=True)
    for m in manifests:
        languages = " ".join(m.languages[:3]) + (f" +{len(m.languages) - 3}" if len(m.languages) > 3 else "")
        state = "installed" if known.installed(m.name) else "default" if m.default else ""
        table.add_row(m.name, m.role, f"{m.memory / 1e6:.0f} MB", m.licence, languages, state)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _fetch(known: Catalog, names: Sequence[str]) -> int:
    """Everything named, or the default models that are missing, with a bar for each step."""
    chosen = list(names) or [m.name for m in known.manifests.values() if m.default and not known.installed(m.name)]
    for name in chosen:
        known.get(name)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bars:
        for name in chosen:
            task = bars.add_task(name, total=None)

            def show(progress: catalog.Progress, task: TaskID = task) -> None:
                told = f"{progress.model}: {progress.step}"
                bars.update(task, description=told, completed=progress.done, total=progress.total or None)

            known.fetch(name, show)
            bars.update(task, description=f"{name}: installed")
    return 0


def _verify(known: Catalog, names: Sequence[str]) -> int:
    wrong = 0
    for name in names or [name for name in known.manifests if known.installed(name)]:
        found = known.verify(name)
        wrong += bool(found)
        print(f"{name}: {'; '.join(map(str, found)) if found else 'every file is as it should be'}")
    return 1 if wrong else 0
