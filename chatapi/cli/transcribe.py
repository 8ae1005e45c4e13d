"""`chatapi transcribe`: the transcript of an audio file of any length, or of standard input."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import anyio.to_thread
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from chatapi.audio.decode import duration
from chatapi.cli.turn_io import loaded_appliance, recording
from chatapi.events import JobProgress, Transcript
from chatapi.settings import Settings


async def transcribe(settings: Settings, file: Path, language: str | None, as_json: bool) -> int:
    """Print each segment on a line of its own as soon as it is transcribed. Status 1 when no speech was detected."""
    with recording(file) as source:
        # Report an unreadable file before loading models for it.
        await anyio.to_thread.run_sync(duration, source)
        found = False
        async with loaded_appliance(settings, {"vad", "asr"}) as appliance:
            with Progress(*_columns(), console=Console(stderr=True), transient=True) as bars:
                task = bars.add_task(file.name, total=None)
                async with appliance.transcriber.stream_file(source, language) as events:
                    async for event in events:
                        if isinstance(event, JobProgress):
                            bars.update(task, completed=event.done, total=event.total or None)
                        elif isinstance(event, Transcript):
                            found = True
                            _print_transcript(event, as_json)
    if not found:
        print("no speech was detected", file=sys.stderr)
    return 0 if found else 1


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )


def _print_transcript(event: Transcript, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(event), ensure_ascii=False), flush=True)
    else:
        minutes, seconds = divmod(event.start, 60)
        print(f"[{int(minutes):02}:{seconds:04.1f}] {event.text}", flush=True)
