"""The lock file: the sha256 of every file that its manifest could not state, as it first arrived on this box."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatapi.catalog.manifest import File, Manifest
from chatapi.errors import ModelError
from chatapi.storage import atomic_files


@dataclass(frozen=True)
class Pins:
    """What the lock file says of one model; one file for all of them, which stays when a model is removed."""

    file: Path
    model: str

    def read(self) -> Mapping[str, str]:
        """sha256 by file name; empty where nothing had to be recorded. Raises ModelError where it cannot be read."""
        return self._all().get(self.model, {})

    def add(self, name: str, sha256: str) -> None:
        """Accept only this from now on; written at once, whatever others record of their models meanwhile."""
        with self.file.with_name(f".{self.file.name}").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            known = self._all()
            known = {**known, self.model: {**known.get(self.model, {}), name: sha256}}
            atomic_files.write_whole(self.file, json.dumps(known, indent=2, sort_keys=True))

    def complete(self, manifest: Manifest) -> Mapping[str, File]:
        """The manifest's files with what was recorded of them."""
        # Where the manifest states every digest, a damaged lock file is no reason not to use the model.
        recorded = {} if all(file.sha256 for file in manifest.files.values()) else self.read()
        return {
            name: file if file.sha256 else file.model_copy(update={"sha256": recorded.get(name)})
            for name, file in manifest.files.items()
        }

    def _all(self) -> dict[str, dict[str, str]]:
        try:
            found: dict[str, dict[str, str]] = json.loads(self.file.read_text(encoding="utf-8"))
            return found
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            # Not taken for empty: then whatever came next would be accepted for what was fetched first.
            raise ModelError(f"{self.file} cannot be read: {error}; mend it, or delete it to record anew") from error
