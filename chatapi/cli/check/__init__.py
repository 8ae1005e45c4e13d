"""`chatapi check`: checks settings, models, libraries, devices and memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from chatapi.cli.check import audio_devices, clock, container, conversations, jetson, models, network, storage
from chatapi.cli.check.finding import CheckContext, Finding, Probe
from chatapi.runtime import engine_selection
from chatapi.settings import Loaded, Settings, at, dotted_keys

MARKS = {"good": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]BAD[/] "}
PROBES: tuple[Probe, ...] = (
    models.machine,
    jetson.release,
    container.gpu,
    jetson.power,
    jetson.clocks,
    jetson.heat,
    jetson.current,
    models.plug_ins,
    models.libraries,
    models.files,
    models.compiled,
    models.room,
    models.context_size,
    models.swap,
    storage.data,
    storage.kind,
    storage.artifacts,
    conversations.conversations,
    clock.clock,
    network.address,
    network.named_keys,
    network.certificate,
    network.wyoming,
    network.torchserve,
    network.asr_webservice,
    network.grpc,
    audio_devices.sound,
)

log = logging.getLogger(__name__)


def check(loaded: Loaded, as_json: bool, every_setting: bool = False) -> int:
    """Print all findings and settings. Status 0 when chatapi can run with these settings, else 1."""
    findings = list(look(CheckContext(loaded.settings)))
    keys = dotted_keys(type(loaded.settings))
    shown = {key: (_value(loaded.settings, key), loaded.origins.get(key, "default")) for key in keys}
    if as_json:
        settings = {key: {"value": value, "from": origin} for key, (value, origin) in shown.items()}
        print(json.dumps({"settings": settings, "findings": [asdict(f) for f in findings]}, indent=2, default=str))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for finding in findings:
            console.print(f"{MARKS[finding.level]} {finding.about}: {escape(finding.message)}")
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


def look(context: CheckContext) -> Iterator[Finding]:
    """All findings, in the order in which they are printed."""
    if not context.quick:
        context = replace(context, free=network.shared(context.settings.server.port, context.root))
    context = replace(context, settings=engine_selection.resolve_engines(context.settings, context.root, context.free))
    for probe in PROBES:
        yield from probe(context)


def report(settings: Settings) -> None:
    """Log every finding that is not good, when a server starts. Takes milliseconds."""
    try:
        for finding in look(CheckContext(settings, quick=True)):
            if finding.level != "good":
                level = logging.WARNING if finding.level == "bad" else logging.INFO
                log.log(level, "check: %s: %s", finding.about, finding.message)
    except Exception:
        # chatapi may run on a machine even if the check fails there.
        log.exception("check failed")
