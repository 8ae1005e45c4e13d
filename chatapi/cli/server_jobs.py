"""The jobs that `chatapi transcribe --server` began: the next run of an interrupted command finds them again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from chatapi.cli.transcribe_sources import TranscriptionSource
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

log = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 86_400.0
"""Time for which a job that no later run used is remembered, in seconds."""


class ServerJobs:
    """Which job of a server has which recording; a small file for each, named by a digest of the recording, its
    version, the server and the options."""

    def __init__(self, data: Path) -> None:
        self._folder = DataDirectory(data).server_jobs

    def place(self, server: str, source: TranscriptionSource, options: Mapping[str, Any]) -> Path:
        """The file for a recording. Raises OSError."""
        path = "" if source.path is None else str(source.path.absolute())
        text = json.dumps([server, path, source.url, source.version, options], sort_keys=True)
        return self._folder / sha256(text.encode()).hexdigest()

    def found(self, place: Path) -> str:
        """The id of the job; empty where there is none."""
        with suppress(OSError, UnicodeDecodeError):
            return place.read_text(encoding="utf-8").strip()
        return ""

    def remember(self, place: Path, job: str) -> None:
        """Remember a job. A disk that cannot be written costs no more than the next run's work."""
        try:
            private_files.folder(self._folder)
            self._delete_old()
            atomic_files.write_whole(place, job, private=True)
        except OSError as error:
            log.warning("the job %s is not remembered for the next run: %s", job, error)

    def forget(self, place: Path) -> None:
        """Forget a job that is not to be found again."""
        with suppress(OSError):
            place.unlink(missing_ok=True)

    def _delete_old(self) -> None:
        for each in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - each.stat().st_mtime > KEPT_SECONDS:
                    each.unlink()
