"""Positive clips on their way to the store: on disk before the ledger names them, and there until they are stored.

Names and contents of a detection are the same however often it is made, so what is stored twice after a crash replaces
itself. The record is stored last: whoever finds it finds its files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chatapi.engines.sound_detector import orcahello
from chatapi.errors import StorageError
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection
from chatapi.storage import atomic_files

if TYPE_CHECKING:
    from chatapi.storage.artifact_store import ArtifactStore

log = logging.getLogger(__name__)

CONTAINERS = {".wav": orcahello.AUDIO_CONTAINER, ".png": orcahello.IMAGE_CONTAINER, ".json": orcahello.RECORD_CONTAINER}
"""Suffix -> folder of the store; in the order in which files are stored."""
CLIPS = "clips"
"""Folder of the store for clips that are kept though they are not positive."""


class PositiveOutbox:
    """The files that are to be stored. All methods block."""

    def __init__(self, ledger: CoverageLedger, folder: Path, store: ArtifactStore) -> None:
        self._ledger, self._folder, self.store = ledger, folder, store
        self.fault = ""
        """Why the last attempt to store failed; empty: it did not."""

    def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write the files of a detection, by suffix. Raises StorageError."""
        for suffix, data in files.items():
            self._write(self._folder / f"{name}{suffix}", data)

    def keep_clip(self, name: str, data: bytes) -> None:
        """Store the WAV of a clip at once. Raises StorageError."""
        file = self._folder / f".clip-{name}.wav"
        self._write(file, data)
        try:
            self.store.put(file, f"{CLIPS}/{name}.wav")
        finally:
            file.unlink(missing_ok=True)

    def send(self) -> int:
        """Store what is waiting, the oldest first, until something fails. Returns the number of stored detections."""
        count = 0
        while waiting := self._ledger.to_store():
            for detection in waiting:
                try:
                    self._store(detection)
                except StorageError as error:
                    if self.fault != error.message:
                        log.warning("detections wait for their store", extra={"reason": error.message})
                    self.fault = error.message
                    return count
                self.fault = ""
                count += 1
        return count

    def waiting(self, name: str, suffix: str) -> bytes | None:
        """A file that is not stored yet; None: there is none. Raises StorageError."""
        try:
            return (self._folder / f"{name}{suffix}").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{name}{suffix} cannot be read: {error.strerror}") from error

    def _store(self, detection: Detection) -> None:
        """Raises StorageError."""
        for suffix, container in CONTAINERS.items():
            file = self._folder / f"{detection.name}{suffix}"
            # A crash after the last file was deleted, and before the mark, leaves none: all were stored.
            if file.exists():
                self.store.put(file, f"{container}/{detection.name}{suffix}")
        self._ledger.mark_stored(detection)
        for suffix in CONTAINERS:
            with suppress(OSError):
                (self._folder / f"{detection.name}{suffix}").unlink()

    def _write(self, file: Path, data: bytes) -> None:
        draft = file.with_name(f".{file.name}.draft")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(file)
            atomic_files.sync(file.parent)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise StorageError(f"{file} cannot be written: {error.strerror}; is the disk full?") from error
