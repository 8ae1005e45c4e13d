"""Snapshots of the registered models, in TorchServe's form: what `models` and `model_snapshot` of a config.properties
state, and the file by which registrations outlast a restart."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatapi.errors import SettingsError
from chatapi.interfaces.torchserve.archive import INTEGERS
from chatapi.interfaces.torchserve.served_model import FIRST_VERSION, ServedModel
from chatapi.storage import atomic_files

log = logging.getLogger("chatapi.torchserve.model")

MOST_BYTES = 1 << 20
"""Largest file, in bytes."""


@dataclass(frozen=True)
class ModelRecord:
    """One version of a model, as a snapshot has it."""

    name: str
    version: str = FIRST_VERSION
    archive: str = ""
    """Its archive or URL; empty: it has none."""
    model: str = ""
    """Name of the box's model; empty: the one that the archive's name stands for."""
    options: Mapping[str, int] = field(default_factory=dict)
    min_workers: int | None = None
    """None: not stated."""
    max_workers: int | None = None
    default: bool = False
    """Whether it is the default version."""


def parse(text: str, source: str) -> list[ModelRecord]:
    """The records of a snapshot in JSON, or of its table of models alone. Raises SettingsError naming the source."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise SettingsError(f"{source} is no JSON object") from None
    return _records(document, source)


def _records(document: Any, source: str) -> list[ModelRecord]:
    models = _table(document, source)
    found = []
    for name, versions in _table(models.get("models", models), source).items():
        for version, values in _table(versions, f"{source}: {name[:200]}").items():
            found.append(_record(name, version, _table(values, f"{source}: {name[:200]} {version[:200]}")))
    return found


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{what} is no JSON object")
    return value


def _record(name: str, version: str, values: Mapping[str, Any]) -> ModelRecord:
    whole = {key: value for key, value in values.items() if type(value) is int and value >= 0}
    least, most = whole.get("minWorkers"), whole.get("maxWorkers")
    if least is not None:
        most = max(least, most or 0)
    return ModelRecord(
        name,
        version,
        str(values.get("marName") or "")[:2000],
        str(values.get("chatapiModel") or "")[:200],
        {option: whole[key] for key, option in INTEGERS.items() if key in whole},
        least,
        most,
        values.get("defaultVersion") is True,
    )


class SnapshotFile:
    """The file of a box's own snapshot. Blocking."""

    def __init__(self, path: Path, settings: Sequence[object]) -> None:
        """`settings`: plain values that decide which models are registered at the start; once they have changed, the
        snapshot is of no use."""
        self._path = path
        self._settings = list(settings)

    def read(self) -> list[ModelRecord] | None:
        """The records; None: there is no snapshot that can be used."""
        try:
            with self._path.open(encoding="utf-8") as file:
                document = _table(json.loads(file.read(MOST_BYTES)), self._path.name)
            if document.get("settings") != self._settings:
                log.info("the settings of the models have changed, so the registrations of clients are not restored")
                return None
            return _records(document, self._path.name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, SettingsError) as error:
            log.warning("registrations of %s not restored: %s", self._path, error)
            return None

    def write(self, models: Iterable[tuple[ServedModel, bool]]) -> None:
        """Write all models, each with whether it is the default version. Raises StorageError."""
        tree: dict[str, dict[str, Any]] = {}
        for served, default in models:
            tree.setdefault(served.name, {})[served.version] = {
                "defaultVersion": default,
                "marName": served.url,
                "chatapiModel": served.model if served.model_is_chosen else served.role,
                "minWorkers": served.min_workers,
                "maxWorkers": served.max_workers,
                **{key: getattr(served.options, option) for key, option in INTEGERS.items()},
            }
        document = {
            "name": self._path.name, "modelCount": len(tree), "created": round(time.time() * 1000),
            "settings": self._settings, "models": tree,
        }  # fmt: skip
        with atomic_files.writing(self._path.parent):
            atomic_files.write_whole(self._path, json.dumps(document, indent=2) + "\n")
