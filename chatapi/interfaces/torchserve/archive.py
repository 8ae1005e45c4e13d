"""Model archives (.mar): reads what torch-model-archiver and `chatapi models pack` write, and runs nothing of it.

An archive is a ZIP file with `MAR-INF/MANIFEST.json`. Its other files are never unpacked: the box runs its own models,
and the handler of an archive is a stranger's code.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatapi.errors import BadInput

MANIFEST = "MAR-INF/MANIFEST.json"
MOST_FILES = 10_000
"""Most files of an archive."""
MOST_BYTES = 64 << 10
"""Largest manifest or configuration, in bytes."""
INTEGERS = {
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay",
    "responseTimeout": "response_timeout",
    "startupTimeout": "startup_timeout",
}
"""Key of a model's configuration -> the option of a registration."""


@dataclass(frozen=True)
class ArchivedModel:
    """What an archive says of its model."""

    name: str
    version: str
    model: str
    """Name of the box's model in an archive of `chatapi models pack`; empty in others."""
    file: str
    """Its serialized file; empty: it names none."""
    handler: str
    """The handler, which is not run."""
    options: dict[str, int] = field(default_factory=dict)
    min_workers: int = 0
    max_workers: int = 0


def read(path: Path) -> ArchivedModel:
    """Reads an archive. Raises BadInput (invalid_archive) with what is wrong with it. Blocking."""
    if path.name.lower().endswith((".tgz", ".tar.gz")):
        raise _invalid(path, "it is a compressed tar file; make it without --archive-format tgz")
    try:
        with zipfile.ZipFile(path) as file:
            if len(file.infolist()) > MOST_FILES:
                raise _invalid(path, f"it has more than {MOST_FILES} files")
            document = _object(_content(file, MANIFEST, path), path)
            model = document.get("model")
            if not isinstance(model, dict):
                raise _invalid(path, f"{MANIFEST} has no table `model`")
            config = _text(model, "configFile")
            values = _configuration(_content(file, config, path), path) if config else {}
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise _invalid(path, str(error)) from error
    least, most = values.get("minWorkers", 0), values.get("maxWorkers", 0)
    return ArchivedModel(
        name=_text(model, "modelName"),
        version=_text(model, "modelVersion") or "1.0",
        model=_text(model, "chatapiModel"),
        file=_text(model, "serializedFile"),
        handler=_text(model, "handler"),
        options={option: values[key] for key, option in INTEGERS.items() if key in values},
        min_workers=least,
        max_workers=max(least, most),
    )


def write(path: Path, name: str, version: str, model: str) -> None:
    """Writes the archive of a model of the box. Blocking. Raises OSError."""
    document = {
        "runtime": "python3",
        "model": {"modelName": name, "modelVersion": version, "chatapiModel": model},
        "archiverVersion": "chatapi",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        # The time of every archive is the same, so that the same model makes the same bytes.
        file.writestr(zipfile.ZipInfo(MANIFEST, (1980, 1, 1, 0, 0, 0)), json.dumps(document, indent=2) + "\n")


def _content(file: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """A small file of the archive, without trusting the size that it states."""
    try:
        member = file.getinfo(name)
    except KeyError:
        raise _invalid(path, f"it has no file {name}") from None
    with file.open(member) as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _invalid(path, f"{name} has more than {MOST_BYTES} bytes")
    return content


def _object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise _invalid(path, f"{MANIFEST} is not JSON") from None
    if not isinstance(found, dict):
        raise _invalid(path, f"{MANIFEST} is no JSON object")
    return found


def _configuration(content: bytes, path: Path) -> dict[str, int]:
    """The whole numbers at the top level of a model-config.yaml, which are all that the box uses of it.

    They are read line by line: a key, a colon and a number have one form in every YAML file.
    """
    found = {}
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise _invalid(path, "its configuration is not UTF-8 text") from None
    for line in lines:
        key, colon, rest = line.partition(":")
        value = rest.partition("#")[0].strip().strip("\"'")
        if colon and key == key.strip() and value.isascii() and value.isdecimal() and len(value) < 10:
            found[key] = int(value)
    return found


def _text(model: dict[str, Any], name: str) -> str:
    value = model.get(name, "")
    return str(value)[:200] if isinstance(value, (str, int, float)) else ""


def _invalid(path: Path, reason: str) -> BadInput:
    return BadInput(f"{path.name} is no model archive that can be registered: {reason}", code="invalid_archive")
