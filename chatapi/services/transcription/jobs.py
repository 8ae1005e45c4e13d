"""Transcription jobs: recordings of any length, transcribed part by part, each part a step that is not run again.

The steps of a job: fetch the recording where it is at a URL; measure it; transcribe each part of it; write the result;
add speaker labels, in one pass over all of it; keep a copy of its audio for playback.
They run in the thread of the job, and the engines on the event loop; every wait for these is a checkpoint of the job.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from chatapi.audio import RATE, Audio, Samples, playback_copy, wav
from chatapi.audio.decode import blocks, decode, duration
from chatapi.audio.skipped import Skipped
from chatapi.errors import ChatapiError, EngineFailed, InternalError, NotReady
from chatapi.jobs import JobKind, JobRecord, JobSteps, Step, StepRun
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.loop_work import POLL_SECONDS, wait_for
from chatapi.services.transcription import parts, transcript_files, url_source, web_page
from chatapi.services.transcription.decoded_file import too_long
from chatapi.services.transcription.job_parameters import KIND, TranscriptionParameters
from chatapi.services.transcription.parts import RecordingPart
from chatapi.services.transcription.shared_detector import SharedDetector
from chatapi.services.transcription.speaker_turns import SpeakerLabels
from chatapi.services.transcription.speakers import KnownSpeaker, SpeakerLabeller, SpeakerOptions
from chatapi.services.transcription.transcriber import FileTranscriber, TranscribedChunk
from chatapi.services.transcription.transcript_documents import part_document, whole_document
from chatapi.services.transcription.transcript_results import AUDIO, PART, RESULT, TranscriptResults
from chatapi.services.transcription.url_source import UrlRules
from chatapi.settings import Settings
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory
from chatapi.system import memory

log = logging.getLogger(__name__)

SOURCE = "source"
"""Name of the file in the job's folder that has the uploaded recording, and of the fetched one in its step's folder."""
FREE_BYTES = 128 << 20
"""Memory that has to be free before a part is started, in bytes: a part takes a third of it beside the engines."""
BEFORE_PARTS, AFTER_PARTS = 0.02, 0.97
"""Progress of a job when its first part begins, and when its last part has ended."""
BEFORE_SPEAKERS = 0.85
"""Progress of a job when its last part has ended, where speaker labels follow."""
MOST_CRASHES = 2
"""How often in a row the step of speaker labels may end the process; then the transcript is left without them."""

NO_LABELS = SpeakerLabels()

T = TypeVar("T")


class TranscriptionJobs:
    """The kind of job that transcribes recordings."""

    def __init__(
        self,
        engines: Engines,
        transcriber: FileTranscriber,
        labeller: SpeakerLabeller,
        settings: Settings,
        max_seconds: float | None = None,
    ) -> None:
        """`max_seconds`: longest recording; None: any."""
        self.kind = JobKind(KIND, self._steps)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the engines; set before a job runs."""
        self.stopping: threading.Event | None = None
        """Set to end the job in the foreground that runs, as Ctrl-C does; None: only its state ends it."""
        self._engines, self._transcriber, self._labeller = engines, transcriber, labeller
        self._max_seconds = max_seconds
        self._folders = DataDirectory(settings.data).jobs
        self.results = TranscriptResults(self._folders)
        table = settings.transcription
        self._keep_audio = table.keep_audio
        self._rules = UrlRules(table.private_urls, table.upload_bytes, table.upload_seconds)
        self._pages = table.pages

    def check(self, parameters: TranscriptionParameters) -> None:
        """Raises Unprocessable (unknown_language, no_translation, invalid_url), NotReady."""
        self._transcriber.check(parameters.request)
        if parameters.url:
            url_source.checked(parameters.url)

    def source(self, job: str) -> Path:
        """Where an uploaded recording is stored before its job is added."""
        return self._folders / job / SOURCE

    def store_voices(self, job: str, known: Sequence[KnownSpeaker]) -> None:
        """Store the samples of known speakers in the folder of a job, before the job is added. Blocking. Raises
        StorageError."""
        for number, each in enumerate(known):
            place = self._voice(job, number)
            with atomic_files.writing(self._folders):
                place.write_bytes(wav(Audio(each.samples, RATE)))
                for written in (place, place.parent, self._folders):
                    atomic_files.sync(written)

    def _voice(self, job: str, number: int) -> Path:
        return self._folders / job / f"voice-{number}.wav"

    # The steps, in the thread of the job

    def _steps(self, job: JobRecord) -> JobSteps:
        parameters = TranscriptionParameters.of(job)
        source = Path(parameters.path) if parameters.path else self.source(job.id)
        if parameters.url:
            description = f"fetching {parameters.name}"
            yield Step("fetch", description, partial(self._fetch, parameters), parameters.url, BEFORE_PARTS / 2)
            source = self._folders / job.id / "work" / "fetch" / SOURCE
        recording = _Recording(self, source, self._max_seconds)
        inputs: dict[str, Any] = {"version": parameters.version, "options": parameters.text_options}
        after_parts = BEFORE_SPEAKERS if parameters.speakers else AFTER_PARTS
        total = yield Step("measure", f"reading {parameters.name}", recording.measure, inputs, BEFORE_PARTS)
        found: dict[str, Any] = {"end": 0, "last": False}
        number = 0
        while not found["last"]:
            transcribe = partial(self._transcribe, parameters, recording, found["end"], total)
            description = f"transcribing {parameters.name}"
            until = _progress(found["end"] / RATE + parts.PART_SECONDS, total, after_parts)
            found = yield Step(f"part-{number}", description, transcribe, {**inputs, "start": found["end"]}, until)
            number += 1
        write = partial(self._write, parameters, number, found)
        # The text is kept from here on, so that a step that labels it cannot lose it.
        inputs |= {"parts": number, "words": parameters.words}
        yield Step("result", "writing the transcript", write, inputs, after_parts)
        if parameters.speakers:
            label = partial(self._label, parameters, source, number, found)
            description = f"speaker labels of {parameters.name}"
            yield Step(
                "speakers",
                description,
                label,
                {**inputs, "speakers": [parameters.speaker_count, *parameters.known_speakers]},
                AFTER_PARTS,
            )
        if self._keep_audio and not parameters.path and not job.command:
            keep = partial(self._copy, source, found["end"] / RATE)
            yield Step("audio", f"keeping the audio of {parameters.name}", keep, until=0.995)
        yield Step("delete-upload", "deleting the upload", partial(self._delete_upload, parameters), until=1.0)

    def _fetch(self, parameters: TranscriptionParameters, run: StepRun) -> None:
        def report(done: int, total: int) -> None:
            self.check_stopping()
            run.advance(done / total if total else 0.0, f"fetching {parameters.name}: {done >> 20} MiB")

        place = run.folder / SOURCE
        url_source.fetch(parameters.url, place, self._rules, report)
        if self._pages and web_page.is_page(place):
            place.unlink()
            run.advance(0.0, "looking for the recording of the page")
            found = web_page.find(parameters.url, self._rules.private)
            url_source.fetch(found.url, place, self._rules, report, headers=found.headers)

    def _transcribe(
        self, parameters: TranscriptionParameters, recording: _Recording, start: int, total: float, run: StepRun
    ) -> dict[str, Any]:
        self._wait_until_possible(run)
        part = recording.part(start, run)
        chunks: list[TranscribedChunk] = []
        stored: list[TranscribedChunk] = []
        begun = time.monotonic()

        async def collect(chunk: TranscribedChunk) -> None:
            chunks.append(chunk)

        def report() -> None:
            seconds = chunks[-1].processed if chunks else 0.0
            done, speed = part.start / RATE + seconds, seconds / (time.monotonic() - begun)
            if len(chunks) > len(stored):
                stored[:] = chunks
                self._store_part(chunks, part, run)
            phrase = f"{_clock(done)} of {_clock(max(total, done))} transcribed"
            pace = f", {speed:.1f} times real time" if seconds else ""
            run.advance(seconds * RATE / len(part.samples), phrase + pace)

        if len(part.samples):
            content = wav(Audio(part.samples, RATE))
            work = self._transcriber.transcribe_file(content, parameters.request, collect, Priority.BULK)
            self._wait_for(work, report)
        self._store_part(chunks, part, run)
        return {"end": part.end, "last": part.last, "skipped": asdict(recording.skipped)}

    def _store_part(self, chunks: Sequence[TranscribedChunk], part: RecordingPart, run: StepRun) -> None:
        """Store what is transcribed of a part; also while it is, for `text`."""
        draft = run.folder / f".{PART}"
        draft.write_text(json.dumps(part_document(chunks, part)), encoding="utf-8")
        draft.replace(run.folder / PART)

    def _wait_until_possible(self, run: StepRun) -> None:
        """Wait until the models are loaded, and until there is memory for a part."""
        while not self._is_loaded() or memory.available() < FREE_BYTES:
            run.advance(0.0, "waiting for free memory" if self._is_loaded() else "waiting until the models are loaded")
            self.check_stopping()
            time.sleep(POLL_SECONDS)

    def check_stopping(self) -> None:
        """Raises KeyboardInterrupt."""
        if self.stopping is not None and self.stopping.is_set():
            raise KeyboardInterrupt

    def _is_loaded(self) -> bool:
        try:
            return bool(self._engines.asr.engine and self._engines.vad.engine)
        except NotReady:
            return False

    def detector(self, report: Callable[[], None]) -> SharedDetector:
        """The shared detector, for the thread of the job; `report` is called while it works."""
        return SharedDetector(
            self._engines.vad, Priority.BULK, lambda judge, samples: self._wait_for(judge(samples), report)
        )

    def _wait_for(self, work: Coroutine[Any, Any, T], report: Callable[[], None]) -> T:
        """The result of work on the event loop; `report` is called meanwhile, and what it raises cancels the work."""
        assert self.loop is not None  # noqa: S101 - set before a job runs

        def reporting() -> None:
            self.check_stopping()
            report()

        return wait_for(self.loop, work, reporting)

    def _write(
        self,
        parameters: TranscriptionParameters,
        count: int,
        last: Mapping[str, Any],
        run: StepRun,
        labels: SpeakerLabels = NO_LABELS,
    ) -> None:
        parts_found = (json.loads((run.results(f"part-{number}") / PART).read_bytes()) for number in range(count))
        document = whole_document(parts_found, last, parameters.translate, parameters.words, labels)
        draft = run.folder / RESULT
        draft.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        run.publish(draft, run.artifacts / RESULT)

    def _label(
        self, parameters: TranscriptionParameters, source: Path, count: int, last: Mapping[str, Any], run: StepRun
    ) -> None:
        """Write the transcript with its speakers, or why there are none; an error is no reason to lose the text."""
        self._write(parameters, count, last, run, self._labels(parameters, source, last["end"] / RATE, run))

    def _labels(self, parameters: TranscriptionParameters, source: Path, total: float, run: StepRun) -> SpeakerLabels:
        if run.job.failures >= MOST_CRASHES:
            message = f"the process ended {run.job.failures} times during the step of speaker labels"
            return SpeakerLabels(fault=EngineFailed(message))
        self._wait_until_possible(run)
        done = 0.0

        def keep(seconds: float) -> None:
            nonlocal done
            done = seconds

        def report() -> None:
            share = min(1.0, done / total) if total else 0.0
            run.advance(share, f"speakers: {_clock(done)} of {_clock(max(total, done))}")

        try:
            known = tuple(
                KnownSpeaker(name, decode(self._voice(run.job.id, number).read_bytes()).samples)
                for number, name in enumerate(parameters.known_speakers)
            )
            options = SpeakerOptions.of(parameters.speaker_count, known)
            return self._wait_for(self._labeller.labels(source, options, Priority.BULK, keep), report)
        except ChatapiError as error:
            run.log(f"no speaker labels: {error.message}")
            return SpeakerLabels(fault=error)
        except Exception as error:
            log.exception("speaker labels of a recording failed")
            return SpeakerLabels(fault=InternalError(f"speaker labels failed: {type(error).__name__}"))

    def _copy(self, source: Path, total: float, run: StepRun) -> None:
        """Keep a copy for playback; an error is no reason to lose the text."""
        draft = run.folder / AUDIO
        count = 0

        def read() -> Iterator[Samples]:
            nonlocal count
            for block in blocks(source):
                count += len(block)
                self.check_stopping()
                run.advance(min(1.0, count / RATE / total) if total else 0.0)
                yield block

        try:
            playback_copy.write(draft, read())
            run.publish(draft, run.artifacts / AUDIO)
        except (ChatapiError, OSError, ValueError) as error:
            run.log(f"the audio is not kept: {error}")
        finally:
            draft.unlink(missing_ok=True)

    def _delete_upload(self, parameters: TranscriptionParameters, run: StepRun) -> None:
        """The result is kept; the upload, which may be large, and the voices are not needed any more."""
        self.source(run.job.id).unlink(missing_ok=True)
        for number in range(len(parameters.known_speakers)):
            self._voice(run.job.id, number).unlink(missing_ok=True)


class _Recording:
    """The recording of one attempt; decoded once, from the first part that is not transcribed."""

    def __init__(self, jobs: TranscriptionJobs, source: Path, max_seconds: float | None) -> None:
        self.skipped = Skipped()
        """What was not decoded; complete with the last part."""
        self._jobs, self._source, self._max_seconds = jobs, source, max_seconds
        self._parts: Iterator[RecordingPart] | None = None
        self._run: StepRun | None = None

    def measure(self, run: StepRun) -> float:
        """The length of the recording, in seconds. Raises BadInput (bad_audio), TooLarge (audio_too_long)."""
        stated = duration(self._source)
        if stated and (self._max_seconds is None or stated <= self._max_seconds):
            return stated
        # It states none, or one that may be wrong.
        return sum(len(block) for block in self._blocks(run)) / RATE

    def part(self, start: int, run: StepRun) -> RecordingPart:
        """The part that begins behind so many samples; parts are taken in order."""
        self._run = run
        if self._parts is None:
            self._parts = parts.cut(self._blocks(run), self._jobs.detector(self._checkpoint).probabilities, start)
        return next(self._parts)

    def _checkpoint(self) -> None:
        assert self._run is not None  # noqa: S101 - set by `part`
        self._run.checkpoint()

    def _blocks(self, run: StepRun) -> Iterator[Samples]:
        count = 0
        self._run = run
        for block in blocks(self._source, report=self._keep_skipped):
            self._checkpoint()
            self._jobs.check_stopping()
            count += len(block)
            if self._max_seconds is not None and count > self._max_seconds * RATE:
                raise too_long(self._max_seconds)
            yield block

    def _keep_skipped(self, skipped: Skipped) -> None:
        self.skipped = skipped


def _progress(seconds: float, total: float, after_parts: float) -> float:
    """The job's progress when so much of the recording is transcribed, 0 to 1."""
    return BEFORE_PARTS + (after_parts - BEFORE_PARTS) * min(1.0, seconds / total if total else 1.0)


def _clock(seconds: float) -> str:
    return transcript_files.clock(seconds, ".").partition(".")[0]
