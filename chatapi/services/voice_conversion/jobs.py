"""Conversion jobs: recordings of any length, converted part by part, each part a step that is not run again.

The steps of a job: measure the recording; convert each part of it, which ends in a pause; join the parts to a WAV file;
delete the upload. They run in the thread of the job, and the engines on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import blocks, duration
from chatapi.audio.provenance import marked_wav_header
from chatapi.engines import VoiceActivityDetector
from chatapi.engines.call import EngineCall
from chatapi.errors import StorageError
from chatapi.jobs import JobKind, JobRecord, JobRequest, JobSteps, Step, StepRun
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.loop_work import wait_for
from chatapi.services.transcription import parts
from chatapi.services.transcription.decoded_file import too_long
from chatapi.services.transcription.parts import RecordingPart
from chatapi.services.voice_conversion.service import TargetVoice, VoiceConversion, mark
from chatapi.settings import Settings
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory

KIND = "conversion"
SOURCE, REFERENCE, PART, RESULT = "source", "reference.npy", "part.pcm", "converted.wav"
"""Files of a job: the upload, the reference, the samples of a part in its step's folder, and the artifact."""
BEFORE_PARTS, AFTER_PARTS = 0.02, 0.97
"""Progress of a job when its first part begins, and when its last part has ended."""


@dataclass(frozen=True)
class ConversionParameters:
    """What is to be converted; stored with the job. The reference is in its folder."""

    name: str
    """What the recording is called."""
    voice: str
    """What the mark calls the voice."""

    def job(self, owner: str, id_: str) -> JobRequest:
        """The request for a job."""
        return JobRequest(KIND, asdict(self), Priority.BULK, "", "", owner, id_)


class ConversionJobs:
    """The kind of job that converts recordings."""

    def __init__(self, engines: Engines, conversion: VoiceConversion, settings: Settings) -> None:
        self.kind = JobKind(KIND, self._steps)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the engines; set before a job runs."""
        self._engines, self._conversion = engines, conversion
        self._longest = settings.voice_converter.max_job_seconds
        self._folders = DataDirectory(settings.data).jobs

    def source(self, job: str) -> Path:
        """Where the recording of a job is stored before the job is added."""
        return self._folders / job / SOURCE

    def store_reference(self, job: str, target: TargetVoice) -> None:
        """Stores a reference for a job, before the job is added: the voice may be deleted while the job waits.
        Blocking. Raises StorageError."""
        place = self._folders / job / REFERENCE
        with atomic_files.writing(self._folders):
            np.save(place, target.rows)
            atomic_files.sync(place)

    def result(self, job: JobRecord) -> Path | None:
        """The WAV file of a job that is done; None: it is missing."""
        found = self._folders / job.id / "artifacts" / RESULT
        return found if found.is_file() else None

    # The steps, in the thread of the job

    def _steps(self, job: JobRecord) -> JobSteps:
        name, voice = str(job.parameters["name"]), str(job.parameters["voice"])
        source, inputs = _Source(self, self.source(job.id), self._longest), {"voice": voice}
        total = yield Step("measure", f"reading {name}", source.measure, inputs, BEFORE_PARTS)
        end, number, last, rate = 0, 0, False, 0
        while not last:
            convert = partial(self._convert, source, voice, end, total)
            share = min(1.0, (end / RATE + parts.PART_SECONDS) / total) if total else 1.0
            until = BEFORE_PARTS + (AFTER_PARTS - BEFORE_PARTS) * share
            found = yield Step(f"part-{number}", f"converting {name}", convert, {**inputs, "start": end}, until)
            end, last, rate, number = found["end"], found["last"], found["rate"], number + 1
        yield Step("result", "writing the file", partial(self._write, number, rate, voice), {"parts": number}, 0.99)
        yield Step("delete-upload", "deleting the upload", self._delete_upload, until=1.0)

    def _convert(self, source: _Source, voice: str, start: int, total: float, run: StepRun) -> dict[str, Any]:
        part = source.part(start, run)
        try:
            rows: Samples = np.load(self._folders / run.job.id / REFERENCE, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StorageError("the reference of the job is damaged; send the recording again") from error
        done = 0.0
        rate = 0

        async def convert() -> None:
            nonlocal done, rate
            target, name = TargetVoice(voice, rows), f"job {run.job.id}"
            async with self._conversion.convert_part(part.samples, target, name) as speech:
                rate = speech.rate
                with (run.folder / PART).open("wb") as file:
                    async for chunk in speech.chunks:
                        file.write(chunk.pcm16())
                        done += chunk.seconds

        def report() -> None:
            seconds = part.start / RATE + done
            share = done * RATE / max(1, len(part.samples))
            run.advance(min(1.0, share), f"{seconds:.0f} of {max(total, seconds):.0f} s converted")

        self.wait_for(convert(), report)
        return {"end": part.end, "last": part.last, "rate": rate}

    def wait_for(self, work: Any, report: Any) -> Any:
        """As `loop_work.wait_for`, on the loop of the engines."""
        assert self.loop is not None  # noqa: S101 - set before a job runs
        return wait_for(self.loop, work, report)

    def probabilities(self, samples: Samples, run: StepRun) -> Sequence[float]:
        """The speech probability of each frame, from the shared detector."""
        call = EngineCall.of(VoiceActivityDetector.probabilities, samples)
        found: list[float] = self.wait_for(self._engines.vad.collect(call, Priority.BULK), run.checkpoint)
        return found

    def _write(self, count: int, rate: int, voice: str, run: StepRun) -> None:
        files = [run.results(f"part-{number}") / PART for number in range(count)]
        frames = sum(each.stat().st_size for each in files) // 2
        draft = run.folder / RESULT
        with draft.open("wb") as file:
            file.write(marked_wav_header(rate, mark(voice), frames))
            for each in files:
                with each.open("rb") as part:
                    while block := part.read(1 << 20):
                        file.write(block)
                        run.checkpoint()
        run.publish(draft, run.artifacts / RESULT)

    def _delete_upload(self, run: StepRun) -> None:
        for name in (SOURCE, REFERENCE):
            (self._folders / run.job.id / name).unlink(missing_ok=True)


class _Source:
    """The recording of one attempt; decoded once, from the first part that is not converted."""

    def __init__(self, jobs: ConversionJobs, place: Path, longest: float) -> None:
        self._jobs, self._place, self._longest = jobs, place, longest
        self._parts: Iterator[RecordingPart] | None = None
        self._run: StepRun | None = None

    def measure(self, run: StepRun) -> float:
        """The length in seconds that the recording states, 0 where it states none. Raises BadInput (bad_audio),
        TooLarge (audio_too_long)."""
        stated = duration(self._place)
        if stated > self._longest:
            raise too_long(self._longest)
        run.checkpoint()
        return stated

    def part(self, start: int, run: StepRun) -> RecordingPart:
        """The part that begins behind so many samples; parts are taken in order."""
        self._run = run
        if self._parts is None:
            self._parts = parts.cut(self._blocks(), self._probabilities, start)
        return next(self._parts)

    def _probabilities(self, samples: Samples) -> Sequence[float]:
        assert self._run is not None  # noqa: S101 - set by `part`
        return self._jobs.probabilities(samples, self._run)

    def _blocks(self) -> Iterator[Samples]:
        count = 0
        for block in blocks(self._place):
            assert self._run is not None  # noqa: S101 - set by `part`
            self._run.checkpoint()
            count += len(block)
            if count > self._longest * RATE:
                raise too_long(self._longest)
            yield block
