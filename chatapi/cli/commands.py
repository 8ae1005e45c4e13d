"""`chatapi commands`: recognizes spoken commands."""

from __future__ import annotations

import argparse
import json

import anyio.to_thread

from chatapi.cli.command_teaching import teach
from chatapi.cli.sources import read_source
from chatapi.cli.turn_io import loaded_appliance
from chatapi.errors import BadInput
from chatapi.services.command_recognition.service import Classification
from chatapi.settings import Settings


async def commands(settings: Settings, chosen: argparse.Namespace) -> int:
    """Classify files, or standard input for `-`: a line each with the label and its probability; or teach the running
    server. Status 0."""
    if chosen.action != "classify":
        return await anyio.to_thread.run_sync(teach, settings, chosen)
    if not chosen.files:
        raise BadInput("`chatapi commands classify` needs at least one file")
    sources = [(name, read_source(name)) for name in chosen.files]
    async with loaded_appliance(settings, {"command"}) as appliance:
        for name, source in sources:
            found = await appliance.command_recognition.classify_file(source)
            print(_line(name, found, chosen.json, several=len(sources) > 1), flush=True)
    return 0


def _line(name: str, found: Classification, as_json: bool, several: bool) -> str:
    if as_json:
        return json.dumps({"file": name, **vars(found)})
    shown = f"{found.label} {found.probability:.2f}"
    return f"{name}: {shown}" if several else shown
