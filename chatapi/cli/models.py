"""`chatapi models`: lists, fetches, verifies and removes models of the catalog; lists engines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from chatapi import catalog
from chatapi.catalog import Catalog
from chatapi.cli.check import network
from chatapi.engines import registry
from chatapi.errors import BadInput, ChatapiError, SettingsError
from chatapi.runtime import engine_selection, model_selection
from chatapi.settings import Settings
from chatapi.system.systemd_notify import ServiceManager

WIDE = 100
"""Width of a terminal from which the licences are shown, in columns."""
PROGRESS_SECONDS = 120
"""Longest time without progress of a working fetch, retries and pauses included, in seconds."""


def models(settings: Settings, action: str, names: Sequence[str], as_json: bool) -> int:
    """Run an action. Status 0; 1 when `verify` found damage, or a model to remove is not installed."""
    known = Catalog(settings.data)
    for fault in (*known.faults.values(), *registry.orphans(known.manifests.values())):
        print(f"chatapi: {fault}", file=sys.stderr)
    if action == "list":
        return _list(known, _active(known, settings), as_json)
    if action == "engines":
        return _engines(settings, as_json)
    if action == "fetch":
        return _fetch(known, names)
    if not names and action == "remove":
        raise BadInput("name the models to remove")
    return _verify(known, names) if action == "verify" else _remove(known, names)


def _active(known: Catalog, settings: Settings) -> set[str]:
    """The models that the settings select now."""
    # The memory of a running chatapi holds the same models.
    free = network.shared(settings.server.port) or model_selection.available()
    settings, found = engine_selection.resolve_engines(settings, free=free), set()
    for role in registry.roles():
        table = getattr(settings, role)
        with suppress(ChatapiError):
            if registry.entry(role, table.engine).needs_model:
                found.add(known.choose(role, table.engine, table.model, free).name)
    return found


def _list(known: Catalog, active: Collection[str], as_json: bool) -> int:
    manifests = sorted(known.manifests.values(), key=lambda m: (m.role, -m.quality))
    if as_json:
        rows = [
            {
                "name": m.name,
                "role": m.role,
                "title": m.title,
                "licence": m.licence,
                "languages": list(m.languages),
                "size_bytes": m.size,
                "memory_bytes": m.memory,
                "installed": known.installed(m.name),
                "default": m.default,
                "active": m.name in active,
            }
            for m in manifests
        ]
        print(json.dumps(rows, indent=2))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 120)
    wide = console.width >= WIDE
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
    for column in ("name", "role", "disk", "memory", "languages", "", "licence"):
        right = column in ("disk", "memory")
        # On a narrow terminal the licence is left out; it is in the manifest and in the JSON output.
        if column != "licence" or wide:
            table.add_column(column, no_wrap=True, justify="right" if right else "left")
    for m in manifests:
        languages = " ".join(m.languages[:2]) + (f" +{len(m.languages) - 2}" if len(m.languages) > 2 else "")
        state = "active" if m.name in active else "installed" if known.installed(m.name) else ""
        marks = " ".join(filter(None, (state, "default" if m.default else "")))
        row = (m.name, m.role, f"{m.size / 1e6:.0f} MB", f"{m.memory / 1e6:.0f} MB", languages, marks, m.licence)
        table.add_row(*row[: len(table.columns)])
    console.print(table)
    print("active: installed and selected by the settings; default: fetched by set-up", file=sys.stderr)
    return 0


def _engines(settings: Settings, as_json: bool) -> int:
    """Print the engines of every role, those of plug-ins too. Faults of plug-ins go to standard error."""
    settings = engine_selection.resolve_engines(settings)
    rows = [_engine(settings, role, name) for role in registry.roles() for name in registry.engines(role)]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("role", "engine", "", "plug-in"):
            table.add_column(column, no_wrap=True)
        for row in rows:
            state = "active" if row["active"] else "installed" if row["installed"] else str(row["remedy"])
            table.add_row(row["role"], row["engine"], state, row["plug_in"] or "")
        Console(width=None if sys.stdout.isatty() else 120).print(table)
    for fault in registry.faults():
        print(f"chatapi: {fault}", file=sys.stderr)
    return 0


def _engine(settings: Settings, role: str, name: str) -> dict[str, Any]:
    """An engine in plain values; `remedy` says how to install it, or what is wrong with its plug-in."""
    try:
        installed, remedy = registry.installed(role, name), registry.entry(role, name).install
    except SettingsError as error:
        installed, remedy = False, error.message
    return {
        "role": role,
        "engine": name,
        "installed": installed,
        "active": getattr(settings, role).engine == name,
        "plug_in": registry.distribution(role, name) or None,
        "remedy": "" if installed else remedy,
    }


def _fetch(known: Catalog, names: Sequence[str]) -> int:
    """Fetch the named models, or the missing default ones, with a progress bar each."""
    chosen = list(names) or [
        m.name for m in known.manifests.values() if engine_selection.in_default_set(m) and not known.installed(m.name)
    ]
    for name in chosen:
        known.get(name)
    if not chosen:
        # A progress display without a task would print an empty line.
        print("every default model is installed")
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    reporter = _StartReporter()
    with Progress(*columns, console=Console(file=sys.stderr)) as bars:
        for name in chosen:
            task = bars.add_task(name, total=None)

            def show(progress: catalog.FetchProgress, task: TaskID = task) -> None:
                description = f"{progress.model}: {progress.step}"
                bars.update(task, description=description, completed=progress.done, total=progress.total or None)
                reporter.report(progress)

            known.fetch(name, show)
            bars.update(task, description=f"{name}: installed")
    return 0


class _StartReporter:
    """Extends systemd's start timeout while models are fetched before the start of the service."""

    def __init__(self) -> None:
        self._manager = ServiceManager.of()
        self._next = 0.0

    def report(self, progress: catalog.FetchProgress) -> None:
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + 1
        done = f" {progress.done / progress.total:.0%}" if progress.total else ""
        self._manager.more_time(PROGRESS_SECONDS, f"{progress.model}: {progress.step}{done}")


def _remove(known: Catalog, names: Sequence[str]) -> int:
    missing = 0
    for name in names:
        removed = known.remove(name)
        missing += not removed
        print(f"{name} is {'removed' if removed else 'not installed'}")
    return 1 if missing else 0


def _verify(known: Catalog, names: Sequence[str]) -> int:
    damaged = 0
    for name in names or [name for name in known.manifests if known.installed(name)]:
        problems = known.verify(name)
        damaged += bool(problems)
        print(f"{name}: {'; '.join(map(str, problems)) if problems else 'all files are correct'}")
    return 1 if damaged else 0
