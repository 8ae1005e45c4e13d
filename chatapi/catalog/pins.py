"""The lock file: the sha256 of each file whose manifest states none, recorded at its first download."""

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
    """The lock file's digests of one model; one file for all models, which stays when a model is removed."""

    file: Path
    model: str

    def read(self) -> Mapping[str, str]:
        """sha256 by file name; empty where nothing was recorded. Raises ModelError where the file cannot be read."""
        return self._all().get(self.model, {})

    def add(self, name: str, sha256: str) -> None:
        """Records a digest, the only one accepted from now on; other processes may record theirs meanwhile."""
        with self.file.with_name(f".{self.file.name}").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            known = self._all()
            known = {**known, self.model: {**known.get(self.model, {}), name: sha256}}
            atomic_files.write_whole(self.file, json.dumps(known, indent=2, sort_keys=True))

    def complete(self, manifest: Manifest) -> Mapping[str, File]:
        """The manifest's files with the recorded digests."""
        # Where the manifest states every digest, a damaged lock file does not matter.
        recorded = {} if all(file.sha256 for file in manifest.files.values()) else self.read()
        return {
            name: file if file.sha256 else file.model_copy(update={"sha256": recorded.get(name)})
            for name, file in manifest.files.items()
        }

    def _all(self) -> dict[str, dict[str, str]]:
        try:
            digests: dict[str, dict[str, str]] = json.loads(self.file.read_text(encoding="utf-8"))
            return digests
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            # Not treated as empty: then a later download would be accepted as the first.
            raise ModelError(
                f"{self.file} cannot be read: {error}; repair it, or delete it to record the digests again"
            ) from error
