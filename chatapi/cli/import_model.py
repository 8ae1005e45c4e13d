"""`chatapi models import`: converts a Whisper checkpoint into a model of the box, without running code of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatapi.catalog.whisper_import import import_whisper
from chatapi.errors import BadInput
from chatapi.settings import Settings


def import_model(settings: Settings, paths: Sequence[str], name: str) -> int:
    """Import a file or a folder. Status 0. Raises BadInput, ModelError, WrongMode, StorageError."""
    if len(paths) != 1:
        raise BadInput("name one file or folder to import")
    source = Path(paths[0]).expanduser()
    chosen = name or (source.resolve().stem if source.is_file() else source.resolve().name)
    import_whisper(settings.data, source, chosen)
    print(f"{chosen} is installed; asr.model={chosen} uses it")
    return 0
