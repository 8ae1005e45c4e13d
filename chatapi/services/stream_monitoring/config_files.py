"""Configuration files that are followed: read again when they change, and kept as they were when they are wrong."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatapi.errors import BadInput
from chatapi.services.stream_monitoring.config import MonitorConfig, read

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at the files, in seconds."""


@dataclass(frozen=True)
class ReadFile:
    """A file that has changed and is right."""

    file: Path
    config: MonitorConfig


class ConfigFiles:
    """The files. All methods block."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._seen: dict[Path, str] = {}
        """File -> digest of the content that is in use, or was found wrong."""
        self._before: dict[Path, str] = {}
        """File -> digest at the last look: a file that is being written is read when it has stopped to change."""
        self.faults: dict[Path, str] = {}
        """File -> what is wrong with it now."""

    def first(self) -> list[ReadFile]:
        """All files. Raises BadInput (bad_monitor_config) where one is wrong."""
        found = []
        for file in self.files:
            self._seen[file] = _digest(file)
            found.append(ReadFile(file, read(file)))
        return found

    def changed(self) -> list[ReadFile]:
        """The files that have changed since the last look. One that is wrong, or gone, is named in `faults`."""
        found = []
        for file in self.files:
            digest = _digest(file)
            settled, self._before[file] = digest == self._before.get(file), digest
            if digest == self._seen.get(file) or not settled:
                continue
            self._seen[file] = digest
            try:
                found.append(ReadFile(file, read(file)))
            except BadInput as error:
                log.warning("configuration stays as it was", extra={"reason": error.message})
                self.faults[file] = error.message
            else:
                log.info("configuration has changed", extra={"file": str(file)})
                self.faults.pop(file, None)
        return found


def _digest(file: Path) -> str:
    """Of the content, because the time of a change has too few digits on some disks; empty: it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
