"""What a transcription job has to show: its text so far, its transcript, and its audio for playback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chatapi.jobs import JobRecord, partial_results
from chatapi.services.transcription import speaker_names, transcript_files

RESULT = "transcript.json"
"""Name of the artifact that is the transcript."""
AUDIO = "audio.mp3"
"""Name of the artifact that is the copy of the recording for playback."""
PART = "part.json"
"""Name of the file in the folder of a part's step that has its transcript."""


class TranscriptResults:
    """The results of the jobs of one data directory. All methods block."""

    def __init__(self, folders: Path) -> None:
        """`folders`: the folder that has those of the jobs."""
        self._folders = folders

    def transcript(self, job: JobRecord) -> dict[str, Any] | None:
        """The transcript of a job that is done, with the names that users gave to its speakers; None: it has none."""
        found = self._unnamed(job)
        return None if found is None else speaker_names.named(found, speaker_names.read(self._folders / job.id))

    def name_speakers(self, job: JobRecord, names: Mapping[str, str]) -> dict[str, str] | None:
        """Name the speakers of a transcript; returns all names; None: the job has none. Raises Unprocessable
        (unknown_speaker), StorageError."""
        found = self._unnamed(job)
        return None if found is None else speaker_names.change(self._folders / job.id, found, names)

    def audio(self, job: JobRecord) -> Path | None:
        """The copy of the recording for playback; None: there is none."""
        found = (Path(each.location) for each in job.artifacts if each.name == AUDIO)
        return next((place for place in found if place.is_file()), None)

    def text(self, job: JobRecord) -> str:
        """The transcript so far, as text."""
        document = self._unnamed(job) or {"segments": list(self._stored_segments(job.id))}
        return transcript_files.joined([transcript_files.segment_of(each) for each in document["segments"]])

    def _unnamed(self, job: JobRecord) -> dict[str, Any] | None:
        for each in job.artifacts:
            if each.name == RESULT:
                with suppress(OSError, ValueError):
                    found: dict[str, Any] = json.loads(Path(each.location).read_bytes())
                    return found
        return None

    def _stored_segments(self, job: str) -> Iterator[dict[str, Any]]:
        number = 0
        with suppress(OSError, ValueError):
            while True:
                file = self._folders / job / "work" / f"part-{number}" / PART
                if not file.exists():
                    file = partial_results(self._folders / job, f"part-{number}") / PART
                yield from json.loads(file.read_bytes())["segments"]
                number += 1
