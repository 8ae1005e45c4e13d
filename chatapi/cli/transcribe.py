"""`chatapi transcribe`: prints the transcript of one recording, or writes those of any number beside them."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from chatapi.audio import skipped
from chatapi.audio.decode import duration
from chatapi.cli.caption_sources import known_speakers
from chatapi.cli.server_jobs import ServerJobs
from chatapi.cli.server_option import chosen_server
from chatapi.cli.transcribe_backends import LocalBackend, ServerBackend
from chatapi.cli.transcribe_batch import Backend, Batch, BatchSummary, Stopped, watched
from chatapi.cli.transcribe_sources import TranscriptionSource, is_url, sources
from chatapi.cli.turn_io import STANDARD, loaded_appliance, recording
from chatapi.errors import BadInput
from chatapi.events import JobProgress, Transcript
from chatapi.services.transcription import transcript_files
from chatapi.services.transcription.job_parameters import TranscriptionParameters
from chatapi.services.transcription.transcript_files import FORMATS, TranscriptFormat
from chatapi.settings import Settings

INTERRUPTED = 130


async def transcribe(settings: Settings, chosen: argparse.Namespace) -> int:
    """Status 0 when all is transcribed; 1 when a recording failed, when it got no speaker labels, and, of a
    printed one, when it has no speech."""
    if not chosen.server and (chosen.key or chosen.fingerprint):
        raise BadInput("--key and --fingerprint are only used with --server")
    if bool(chosen.source) == bool(chosen.watch):
        raise BadInput("name files, folders or URLs, or a folder with --watch")
    if _writes_files(chosen):
        if STANDARD in chosen.source:
            raise BadInput("standard input is transcribed alone, and printed")
        return await _write(settings, chosen)
    [source] = chosen.source
    plain = not (
        chosen.translate
        or chosen.words
        or chosen.prompt
        or chosen.hotwords
        or chosen.speakers is not None
        or chosen.known_speaker
    )
    if chosen.server or is_url(source) or not plain:
        return await _print_job(settings, chosen, source)
    return await _print_stream(settings, Path(source), chosen.language, chosen.json)


def _writes_files(chosen: argparse.Namespace) -> bool:
    several = len(chosen.source) != 1 or Path(chosen.source[0]).is_dir()
    return bool(several or chosen.format or chosen.output_dir or chosen.watch)


async def _write(settings: Settings, chosen: argparse.Namespace) -> int:
    stop, formats = threading.Event(), _formats(chosen.format)
    output = chosen.output_dir

    def found(unfinished: list[TranscriptionSource]) -> Iterable[TranscriptionSource]:
        return watched(chosen.watch, output, stop) if chosen.watch else unfinished

    listed = [] if chosen.watch else list(sources(chosen.source, output))
    if listed and not chosen.overwrite and all(each.is_done(formats) for each in listed):
        # No models are loaded for nothing.
        print(BatchSummary(skipped=len(listed)), file=sys.stderr)
        return 0
    async with _backend(settings, chosen, formats, stop) as backend:
        batch = Batch(backend, formats, chosen.overwrite)
        with suppress(Stopped):
            await anyio.to_thread.run_sync(batch.run, found(listed))
    for line in batch.summary.failed:
        print(f"failed: {line}", file=sys.stderr)
    for line in batch.summary.without_speakers:
        print(f"without speakers: {line}", file=sys.stderr)
    print(batch.summary, file=sys.stderr)
    return INTERRUPTED if stop.is_set() and not chosen.watch else batch.summary.status


async def _print_job(settings: Settings, chosen: argparse.Namespace, argument: str) -> int:
    """Transcribe one recording as a job and print its segments."""
    stop = threading.Event()
    with recording(Path(argument)) if not is_url(argument) else nullcontext() as path:
        source = TranscriptionSource(path, argument if path is None else "", Path())
        async with _backend(settings, chosen, ("json",), stop) as backend:
            bars = Progress(*_columns(), console=Console(file=sys.stderr), transient=True)

            def run() -> Any:
                with bars:
                    task = bars.add_task(source.name, total=1.0)
                    return backend.transcribe(source, lambda done, *_: bars.update(task, completed=done))

            try:
                document = await anyio.to_thread.run_sync(run)
            except Stopped:
                return INTERRUPTED
    for each in document["segments"]:
        segment = transcript_files.segment_of(each)
        event = Transcript(segment.text, True, segment.start, segment.end, segment.language)
        _print_transcript(event, chosen.json, segment.speaker)
    if "speakers_error" in document:
        print(f"no speaker labels: {document['speakers_error']['message']}", file=sys.stderr)
    if not document["segments"]:
        print("no speech was detected", file=sys.stderr)
    return 0 if document["segments"] and "speakers_error" not in document else 1


async def _print_stream(settings: Settings, file: Path, language: str | None, as_json: bool) -> int:
    """Print each segment of a recording on a line of its own as soon as it is transcribed."""
    with recording(file) as source, skipped.collect() as lost:
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
    if lost:
        print(f"{file.name}: skipped {lost}", file=sys.stderr)
    if not found:
        print("no speech was detected", file=sys.stderr)
    return 0 if found else 1


@asynccontextmanager
async def _backend(
    settings: Settings, chosen: argparse.Namespace, formats: Sequence[TranscriptFormat], stop: threading.Event
) -> AsyncIterator[Backend]:
    """What transcribes, while SIGINT and SIGTERM set `stop`."""
    known = await known_speakers(chosen.known_speaker)
    options = TranscriptionParameters(
        "", language=chosen.language, translate=chosen.translate, words=chosen.words, prompt=chosen.prompt,
        hotwords=tuple(each for text in chosen.hotwords for each in text.split(",")), formats=tuple(formats),
        speakers=chosen.speakers is not None or bool(known), speaker_count=chosen.speakers or None,
        known_speakers=tuple(each.name for each in known),
    )  # fmt: skip

    async def receive_signals() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    async with anyio.create_task_group() as group:
        if chosen.server:
            with await _client(settings, chosen) as client:
                group.start_soon(receive_signals)
                yield ServerBackend(client, options, stop, ServerJobs(settings.data), known)
        else:
            roles = {"vad", "asr", *(("speaker",) if options.speakers else ())}
            async with loaded_appliance(settings, roles) as appliance:
                local = LocalBackend(appliance, options, stop, known)
                group.start_soon(receive_signals)
                group.start_soon(local.yield_to_server)
                yield local
        group.cancel_scope.cancel()


async def _client(settings: Settings, chosen: argparse.Namespace) -> httpx.Client:
    server = await chosen_server(settings, chosen)
    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    return httpx.Client(base_url=server.url, headers=headers, verify=server.verify, trust_env=False, timeout=60.0)


def _formats(given: Sequence[str]) -> tuple[TranscriptFormat, ...]:
    """The formats of `--format`, each once; text when there are none. Raises BadInput."""
    wanted = list(dict.fromkeys(each.strip() for text in given for each in text.split(",") if each.strip())) or ["txt"]
    wrong = [each for each in wanted if each not in FORMATS]
    if wrong:
        raise BadInput(f"--format {wrong[0]} is not supported; supported are: {', '.join(FORMATS)}")
    return tuple(each for each in FORMATS if each in wanted)


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )


def _print_transcript(event: Transcript, as_json: bool, speaker: str = "") -> None:
    if as_json:
        print(json.dumps({**asdict(event), "speaker": speaker}, ensure_ascii=False), flush=True)
    else:
        minutes, seconds = divmod(event.start, 60)
        who = f"{speaker}: " if speaker else ""
        print(f"[{int(minutes):02}:{seconds:04.1f}] {who}{event.text}", flush=True)
