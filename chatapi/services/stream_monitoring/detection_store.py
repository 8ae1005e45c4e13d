"""What monitoring found: the ledger, the files of detections wherever they are, their reviews and the mutes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from chatapi.errors import NotFound, NotReady, SettingsError, StorageError
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection
from chatapi.services.stream_monitoring.moderation import Moderation
from chatapi.services.stream_monitoring.mutes import Mutes
from chatapi.services.stream_monitoring.outbox import CONTAINERS, PositiveOutbox
from chatapi.storage.layout import DataDirectory


class DetectionStore:
    """One data directory's. All methods block, and may be called from any thread."""

    def __init__(self, ledger: CoverageLedger, outbox: PositiveOutbox) -> None:
        self.ledger, self.outbox = ledger, outbox
        self.moderation, self.mutes = Moderation(ledger), Mutes(ledger)

    @staticmethod
    def exists(data: Path) -> bool:
        """Whether anything was ever monitored with a data directory."""
        return DataDirectory(data).coverage.exists()

    @staticmethod
    def open(data: Path, output: str = "") -> DetectionStore:
        """`output`: URL of the store of detections; empty: in the data directory. Raises StorageError, SettingsError,
        NotReady (ledger_locked)."""
        try:
            from chatapi.storage.artifact_store import ArtifactStore
        except ImportError as error:
            remedy = "pip install 'chatapi-appliance[monitoring]'"
            raise SettingsError(f"monitoring needs a library that is not installed ({error.name}): {remedy}") from error
        layout = DataDirectory(data)
        store = ArtifactStore(output or str(layout.monitoring / "detections"))
        ledger = CoverageLedger(layout.coverage)
        return DetectionStore(ledger, PositiveOutbox(ledger, layout.monitoring / "outbox", store))

    def close(self) -> None:
        self.ledger.close()

    def send(self) -> int:
        """Store the files that wait, and bring reviews into stored records. Returns the number of stored detections."""
        count = self.outbox.send()
        if not self.outbox.fault:
            self.moderation.update_records(self.outbox.store)
        return count

    def waiting(self) -> int:
        """Detections that wait for their store; 0 also where that is not known."""
        try:
            return self.ledger.waiting()
        except (StorageError, NotReady):
            return 0

    def content(self, detection: Detection, suffix: str) -> bytes:
        """A file of a detection: .wav, .png or .json. Raises NotFound (clip_not_kept), StorageError."""
        missing = NotFound(f"{detection.name}{suffix} is not kept", code="clip_not_kept")
        if detection.mute:
            raise missing
        waiting = self.outbox.waiting(detection.name, suffix)
        if waiting is not None:
            return waiting
        with tempfile.TemporaryDirectory(prefix="chatapi-clip-") as folder:
            file = Path(folder) / "file"
            try:
                self.outbox.store.get(f"{CONTAINERS[suffix]}/{detection.name}{suffix}", file)
            except NotFound:
                raise missing from None
            return file.read_bytes()
