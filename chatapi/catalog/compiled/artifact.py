"""The folder of a compiled model and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatapi.catalog.manifest import MADE
from chatapi.errors import ModelError
from chatapi.storage.layout import DataDirectory

LIBRARY = "lib.so"
WEIGHTS = "weights"
CONFIG = "mlc-chat-config.json"
CACHES = ("tensor-cache.json", "ndarray-cache.json")
"""The index of the weights' files: as mlc_llm writes it now, and as it did before tvm-ffi."""


@dataclass(frozen=True)
class CompiledModel:
    """The folder of one compiled model, complete or in progress."""

    folder: Path

    @property
    def lib(self) -> Path:
        return self.folder / LIBRARY

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def made(self) -> Mapping[str, Any]:
        """The record of its compilation; empty: it is not complete."""
        return _table(self.folder / MADE)

    def config(self) -> Mapping[str, Any]:
        """The configuration that MLC's engine reads; empty: it is missing."""
        return _table(self.weights / CONFIG)

    def cache(self) -> Mapping[str, Any]:
        """The index of the weights' files; empty: it is missing."""
        return next((found for name in CACHES if (found := _table(self.weights / name))), {})

    def short_files(self) -> list[str]:
        """Files of weights that are missing or have another size than the index says."""
        return [
            record["dataPath"]
            for record in self.cache().get("records", ())
            if _size(self.weights / record["dataPath"]) != record["nbytes"]
        ]

    def size(self) -> int:
        """Bytes of the weights."""
        return sum(file.stat().st_size for file in self.weights.glob("params_shard_*.bin"))

    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each weight in the files, by name."""
        return {
            each["name"]: (tuple(each["shape"]), each["dtype"])
            for record in self.cache().get("records", ())
            for each in record["records"]
        }


def compiled(data: Path, name: str) -> CompiledModel:
    """The folder of the compiled model of a manifest."""
    return CompiledModel(DataDirectory(data).compiled / name)


def _table(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}", code="library_damaged") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} is not a JSON object", code="library_damaged")
    return found


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
