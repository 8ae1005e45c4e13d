"""A run of `chatapi transcribe` that writes files: what is done is skipped, and a failure does not end it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chatapi.cli.transcribe_sources import TranscriptionSource, sources
from chatapi.errors import ChatapiError
from chatapi.services.transcription import transcript_files
from chatapi.services.transcription.transcript_files import TranscriptFormat
from chatapi.storage import atomic_files

WATCH_SECONDS = 2.0
"""Interval between two looks at a watched folder, in seconds; a file that has not changed meanwhile is complete."""
POLL_SECONDS = 0.2

Show = Callable[[float, str, float | None], None]
"""Receives the finished part of a recording, 0 to 1, what is done now, and the seconds left where they are known."""


class Stopped(Exception):
    """The user ended the run."""


class Backend(Protocol):
    """What transcribes: this machine, or a server."""

    def transcribe(self, source: TranscriptionSource, show: Show) -> Mapping[str, Any]:
        """The document of a transcript. Blocking. Raises ChatapiError, Stopped."""


@dataclass
class BatchSummary:
    """What became of the recordings of a run."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    """A line for each."""
    without_speakers: list[str] = field(default_factory=list)
    """A line for each that got no speaker labels; its text is written."""
    audio_seconds: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> int:
        """The exit status: 1 when a recording failed, or got no speaker labels."""
        return 1 if self.failed or self.without_speakers else 0

    def __str__(self) -> str:
        seconds = max(1e-3, time.monotonic() - self.begun)
        counts = f"{self.done} transcribed, {self.skipped} done before, {len(self.failed)} failed"
        if not self.audio_seconds:
            return counts
        length = transcript_files.clock(self.audio_seconds, ".").partition(".")[0]
        return f"{counts}; {length} of audio in {seconds:.0f} s, {self.audio_seconds / seconds:.1f} times real time"


class Batch:
    """One run. Its methods block."""

    def __init__(self, backend: Backend, formats: Sequence[TranscriptFormat], overwrite: bool = False) -> None:
        self.summary = BatchSummary()
        self._backend, self._formats, self._overwrite = backend, formats, overwrite

    def run(self, found: Iterable[TranscriptionSource]) -> BatchSummary:
        """Transcribe each recording. Raises Stopped."""
        with _bars() as bars:
            for source in found:
                self._run_one(source, bars)
        return self.summary

    def _run_one(self, source: TranscriptionSource, bars: Progress) -> None:
        try:
            if not self._overwrite and source.is_done(self._formats):
                self.summary.skipped += 1
                return
            task = bars.add_task(escape(source.name), total=1.0, now="")

            def show(progress: float, phrase: str, left: float | None) -> None:
                now = phrase if left is None else f"{phrase}, {_left(left)} left"
                bars.update(task, completed=progress, now=escape(now))

            try:
                document = self._backend.transcribe(source, show)
            finally:
                bars.remove_task(task)
            self._write(source, document)
        except (ChatapiError, OSError) as error:
            reason = error.message if isinstance(error, ChatapiError) else str(error)
            self.summary.failed.append(f"{source.name}: {reason}")
            bars.console.print(f"{source.name}: {reason}", markup=False, highlight=False, soft_wrap=True)

    def _write(self, source: TranscriptionSource, document: Mapping[str, Any]) -> None:
        source.output.parent.mkdir(parents=True, exist_ok=True)
        for form, file in zip(self._formats, source.files(self._formats), strict=True):
            atomic_files.write_whole(file, transcript_files.rendered(document, form))
        if "speakers_error" in document:
            self.summary.without_speakers.append(f"{source.name}: {document['speakers_error']['message']}")
        self.summary.done += 1
        self.summary.audio_seconds += document["duration"]


def watched(folder: Path, output: Path | None, stop: threading.Event) -> Iterator[TranscriptionSource]:
    """The recordings of a folder, those that are there and each new or changed one, until `stop`."""
    seen: dict[Path, str] = {}
    given: dict[Path, str] = {}
    while not stop.is_set():
        for source in sources([str(folder)], output):
            assert source.path is not None  # noqa: S101 - a folder has no URLs
            try:
                version = source.version
            except OSError:
                # It was deleted meanwhile.
                continue
            if seen.get(source.path) == version and given.get(source.path) != version:
                given[source.path] = version
                yield source
            seen[source.path] = version
        stop.wait(WATCH_SECONDS)


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    return Progress(*columns, console=Console(file=sys.stderr), transient=True)


def _left(seconds: float) -> str:
    return transcript_files.clock(seconds, ".").partition(".")[0]
