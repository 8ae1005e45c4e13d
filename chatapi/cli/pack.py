"""`chatapi models pack`: writes archives of the box's models, which TorchServe's clients register."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatapi.catalog import Catalog
from chatapi.errors import BadInput
from chatapi.interfaces.torchserve import archive
from chatapi.interfaces.torchserve.served_model import FIRST_VERSION
from chatapi.settings import Settings
from chatapi.storage.atomic_files import writing


def pack(settings: Settings, names: Sequence[str], folder: Path) -> int:
    """Write NAME.mar for each model. Status 0. Raises BadInput, NotFound, StorageError."""
    known = Catalog(settings.data)
    if not names:
        raise BadInput("name the models to pack")
    manifests = [known.get(name) for name in names]
    for manifest in manifests:
        if manifest.role != "asr":
            raise BadInput(f"{manifest.name} has the role {manifest.role}; TorchServe's clients use the role asr only")
    for manifest in manifests:
        path = folder / f"{manifest.name}.mar"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            archive.write(path, manifest.name, FIRST_VERSION, manifest.name)
        print(path)
    return 0
