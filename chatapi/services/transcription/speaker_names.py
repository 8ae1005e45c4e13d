"""Names that users give to the speaker labels of a transcript, kept beside its job."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatapi.errors import Unprocessable
from chatapi.storage import atomic_files

FILE = "speaker-names.json"
"""Name of the file in the folder of a job."""
_changing = threading.Lock()
"""Held from reading to writing, so that two changes at a time both last."""


def read(folder: Path) -> dict[str, str]:
    """Label -> name; a label that is missing has none. Blocking."""
    try:
        return {str(label): str(name) for label, name in json.loads((folder / FILE).read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def change(folder: Path, document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Name the speakers of a transcript; '' removes a name. Returns all names. Blocking. Raises Unprocessable
    (unknown_speaker), StorageError."""
    labels = {str(each.get("speaker", "")) for each in document["segments"]} - {""}
    for label in names:
        if label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise Unprocessable(f"the transcript has no speaker {label!r}; it has: {known}", code="unknown_speaker")
    with _changing:
        merged = {**read(folder), **{label: " ".join(name.split()) for label, name in names.items()}}
        kept = {label: name for label, name in merged.items() if name and name != label}
        with atomic_files.writing(folder):
            atomic_files.write_whole(folder / FILE, json.dumps(kept), private=True)
    return kept


def named(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The transcript with these names as its speakers; a segment whose speaker has one keeps its label beside it."""
    segments = [
        {**each, "speaker": names[each["speaker"]], "speaker_label": each["speaker"]}
        if each.get("speaker") in names
        else each
        for each in document["segments"]
    ]
    return {**document, "segments": segments}
