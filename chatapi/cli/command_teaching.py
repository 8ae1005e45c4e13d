"""`chatapi commands submit|record|train|list|rollback|samples`: teaches the server of these settings."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np

from chatapi.audio import RATE, Audio, wav
from chatapi.cli.health import detail, request
from chatapi.cli.sources import read_source
from chatapi.errors import BadInput, SettingsError
from chatapi.settings import Settings

SECONDS = 60.0
"""Longest time for a response, in seconds."""
RECORD_SECONDS = 1.5
"""Length of a recording, in seconds; the silence around the word is cut off."""
POLL_SECONDS = 0.5
"""Time between two looks at a training, in seconds."""


def teach(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run one action. Status 0; 1 for a training that failed, or whose version is not good enough."""
    actions: Mapping[str, Callable[[Settings, argparse.Namespace], int]] = {
        "submit": _submit, "record": _record, "train": _train, "list": _list, "rollback": _roll_back,
        "samples": _samples,
    }  # fmt: skip
    return actions[chosen.action](settings, chosen)


def _submit(settings: Settings, chosen: argparse.Namespace) -> int:
    if len(chosen.files) < 2:
        raise BadInput("`chatapi commands submit` needs a label and at least one file")
    label, *files = chosen.files
    for name in files:
        found = _asked(settings, f"/commands/samples?label={quote(label)}", "POST", read_source(name)).json()
        _print_sample(name, found, chosen.json)
    return 0


def _record(settings: Settings, chosen: argparse.Namespace) -> int:
    if len(chosen.files) != 1:
        raise BadInput("`chatapi commands record` needs one label")
    [label] = chosen.files
    for number in range(chosen.count):
        print(f"{number + 1} of {chosen.count}: press Enter and say {label!r}", file=sys.stderr)
        sys.stdin.readline()
        content = wav(Audio(_heard(settings), RATE))
        _print_sample(
            label, _asked(settings, f"/commands/samples?label={quote(label)}", "POST", content).json(), chosen.json
        )
    return 0


def _heard(settings: Settings) -> Any:
    """A recording of the microphone, 16 kHz mono. Raises SettingsError."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        remedy = "pip install 'chatapi-appliance[audio_device]'"
        raise SettingsError(f"recording needs the extra audio_device: {remedy}") from error
    device = settings.audio_device.input or None
    try:
        heard = sounddevice.rec(int(RECORD_SECONDS * RATE), samplerate=RATE, channels=1, dtype="float32", device=device)
        sounddevice.wait()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise SettingsError(f"the microphone cannot be used: {error}; see audio_device.input") from error
    return np.asarray(heard[:, 0])


def _train(settings: Settings, chosen: argparse.Namespace) -> int:
    job = _asked(settings, "/commands/train", "POST").json()
    shown = ""
    while job["state"] not in ("done", "failed", "cancelled"):
        time.sleep(POLL_SECONDS)
        job = _asked(settings, f"/jobs/{job['id']}").json()
        if job["phrase"] != shown:
            shown = job["phrase"]
            print(f"{job['progress']:.0%} {shown}", file=sys.stderr)
    if job["state"] != "done":
        print(f"the training {job['state']}: {(job['failure'] or {}).get('message', '')}", file=sys.stderr)
        return 1
    found = _asked(settings, "/commands/versions").json()
    made = next(each for each in found["versions"] if each["job"] == job["id"])
    print(json.dumps(made) if chosen.json else _version_line(made))
    return 1 if made["verdict"] else 0


def _list(settings: Settings, chosen: argparse.Namespace) -> int:
    for each in _asked(settings, "/commands/versions").json()["versions"]:
        print(json.dumps(each) if chosen.json else _version_line(each))
    return 0


def _roll_back(settings: Settings, chosen: argparse.Namespace) -> int:
    if len(chosen.files) > 1 or not all(each.isdecimal() for each in chosen.files):
        raise BadInput("`chatapi commands rollback` takes the number of a version, or nothing")
    path = f"/commands/versions/{chosen.files[0]}/activate" if chosen.files else "/commands/rollback"
    print(f"version {_asked(settings, path, 'POST').json()['active']} is active")
    return 0


def _samples(settings: Settings, chosen: argparse.Namespace) -> int:
    if chosen.output is not None:
        chosen.output.write_bytes(_asked(settings, "/commands/samples/export").content)
        print(chosen.output)
        return 0
    before = ""
    while True:
        page = _asked(settings, f"/commands/samples?limit=1000&before={before}").json()
        for each in page["samples"]:
            line = f"{each['id']} {each['label']} {each['state']} {each['reason']}".rstrip()
            print(json.dumps(each) if chosen.json else line)
        if not (before := page["next"] or ""):
            return 0


def _asked(settings: Settings, path: str, method: str = "GET", body: object = None) -> httpx.Response:
    """The server's response. Raises SettingsError where there is no server, BadInput with what it says."""
    try:
        response = request(settings, path, method, body, SECONDS)
    except httpx.TransportError as error:
        message = f"no chatapi answers at port {settings.server.port}: {str(error) or type(error).__name__}"
        raise SettingsError(message) from error
    if not response.is_success:
        raise BadInput(detail(response))
    return response


def _print_sample(name: str, found: Mapping[str, Any], as_json: bool) -> None:
    sample = found["sample"]
    state = "known" if found["duplicate"] else " ".join(filter(None, (sample["state"], sample["reason"])))
    print(json.dumps({"file": name, **found}) if as_json else f"{name}: {state}", flush=True)


def _version_line(version: Mapping[str, Any]) -> str:
    figures, active = version["figures"]["new"], " (active)" if version["active"] else ""
    held_out = "" if figures["held_out"] is None else f", held-out samples {figures['held_out']:.1%}"
    verdict = "".join(f"\n  not activated: {each}" for each in version["verdict"])
    return (
        f"version {version['number']}{active}: {', '.join(version['labels'][:-1])}; accuracy {figures['accuracy']:.1%},"
        f" false accepts {figures['false_accepts']:.1%}{held_out}{verdict}"
    )
