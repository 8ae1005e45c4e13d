"""`chatapi commands`: recognizes spoken commands."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from chatapi.audio.decode import Source
from chatapi.cli.turn_io import loaded_appliance
from chatapi.errors import BadInput
from chatapi.services.command_recognition.service import Classification
from chatapi.settings import Settings


async def commands(settings: Settings, chosen: argparse.Namespace) -> int:
    """Classify files, or standard input for `-`: a line each with the label and its probability. Status 0."""
    sources = [(name, _source(name)) for name in chosen.files]
    async with loaded_appliance(settings, {"command"}) as appliance:
        for name, source in sources:
            found = await appliance.command_recognition.classify_file(source)
            print(_line(name, found, chosen.json, several=len(sources) > 1), flush=True)
    return 0


def _source(name: str) -> Source:
    """Raises BadInput."""
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}") from error


def _line(name: str, found: Classification, as_json: bool, several: bool) -> str:
    if as_json:
        return json.dumps({"file": name, **vars(found)})
    shown = f"{found.label} {found.probability:.2f}"
    return f"{name}: {shown}" if several else shown
