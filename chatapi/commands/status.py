"""`chatapi check`: what is set and what is here, in plain words."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from chatapi import engines
from chatapi.catalog import Catalog
from chatapi.errors import ChatapiError
from chatapi.settings import Loaded, Settings, at, dotted_keys

MARKS = {"good": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]BAD[/] "}
NEEDED_DISK = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    level: str
    """good, note or bad; bad keeps chatapi from working."""
    about: str
    told: str
    """In one sentence, with the mend where one is needed."""


def check(loaded: Loaded, as_json: bool, every_setting: bool = False) -> int:
    """Status 0 when chatapi can work as it is set, 1 when not."""
    findings = list(_findings(loaded.settings))
    shown = {key: (_value(loaded.settings, key), loaded.origins.get(key, "default")) for key in dotted_keys()}
    if as_json:
        settings = {key: {"value": value, "from": origin} for key, (value, origin) in shown.items()}
        print(json.dumps({"settings": settings, "findings": [asdict(f) for f in findings]}, indent=2, default=str))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for finding in findings:
            console.print(f"{MARKS[finding.level]} {finding.about}: {escape(finding.told)}")
        console.print()
        _print_settings(console, shown, every_setting)
    return 1 if any(finding.level == "bad" for finding in findings) else 0


def _print_settings(console: Console, shown: Mapping[str, tuple[object, str]], every: bool) -> None:
    defaults = 0
    for key, (value, origin) in shown.items():
        line = escape(f"{key} = {json.dumps(value, default=str)}  ({origin})")
        if origin != "default":
            console.print(line)
        elif every:
            console.print(f"[dim]{line}[/]")
        else:
            defaults += 1
    if defaults:
        which = "every setting has its default" if defaults == len(shown) else "every other setting has its default"
        console.print(f"[dim]{which}; `chatapi check --all` shows them[/]")


def _value(settings: Settings, key: str) -> object:
    value = at(settings, key)
    return "(set)" if isinstance(value, SecretStr) else value


def _findings(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "good", "machine", f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    yield from _libraries(settings)
    yield from _models(settings)
    yield from _memory(settings)
    yield from _disk(settings)
    yield from _network(settings)


def _libraries(settings: Settings) -> Iterator[Finding]:
    for role in engines.ENGINES:
        name = getattr(settings, role).engine
        try:
            engines.load(role, name)
        except (ChatapiError, ImportError, OSError) as error:
            yield Finding("bad", f"{role} engine", str(error))
        else:
            yield Finding("good", f"{role} engine", f"{name} can be loaded")


def _models(settings: Settings) -> Iterator[Finding]:
    catalog = Catalog(settings.data)
    for role in engines.ENGINES:
        table = getattr(settings, role)
        if not engines.entry(role, table.engine).needs_model:
            continue
        try:
            chosen = catalog.choose(role, table.engine, table.model, psutil.virtual_memory().available)
            found = catalog.verify(chosen.name)
        except ChatapiError as error:
            yield Finding("bad", f"{role} model", error.message)
            continue
        if found:
            yield Finding("bad", f"{role} model", f"{chosen.name}: {'; '.join(map(str, found))}")
        else:
            yield Finding("good", f"{role} model", f"{chosen.name}, every file as it should be")


def _memory(settings: Settings) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    told = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB are free"
    yield Finding("good" if memory.available > 700e6 else "note", "memory", told)


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("bad", "data", f"{folder} cannot be used: {error.strerror}; set data or CHATAPI_DATA")
        return
    if not os.access(folder, os.W_OK):
        yield Finding("bad", "data", f"{folder} cannot be written; set data or CHATAPI_DATA")
    else:
        level = "good" if free > NEEDED_DISK else "note"
        yield Finding(level, "data", f"{folder}, {free / 1e9:.1f} GB free")


def _network(settings: Settings) -> Iterator[Finding]:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            yield Finding("good", "address", f"{host}:{port} is free")
    except OSError as error:
        # Python puts the address into its own text; it stands here already.
        reason = os.strerror(error.errno) if error.errno else error
        yield Finding("note", "address", f"{host}:{port}: {reason}; is chatapi running already?")
    if settings.server.api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        yield Finding("note", "address", "open to everyone on the network; set server.api_key")
