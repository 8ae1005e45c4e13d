"""The JSON documents of jobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.jobs import JobEvent, JobRecord, JobState


class JobFailureModel(ResponseModel):
    """Why a job failed."""

    code: str
    message: str


class JobModel(ResponseModel):
    """A job."""

    id: str
    kind: str
    subject: str
    """What it is about, for example a model; empty: not stated."""
    name: str
    """What a transcribed recording is called; empty: it is no transcription."""
    command: str
    """Command line that runs and resumes it in the foreground; empty: a runner does."""
    state: JobState
    wanted: str
    """pause or cancel, while a running job was asked for it and has not done it; else empty."""
    created: float
    """In seconds since 1970, as are `started` and `ended`."""
    started: float | None
    """Start of the last attempt."""
    ended: float | None
    progress: float
    """Finished part, 0 to 1."""
    phrase: str
    """What it does now; empty once it is done."""
    seconds_left: float | None
    """Estimated time until it is done, in seconds; null: unknown."""
    attempts: int
    failure: JobFailureModel | None
    """Why it failed; of a queued job: why it is tried again."""
    events: int
    """Number of its last event."""


class JobStepModel(ResponseModel):
    """A step of a job, as its latest event tells."""

    name: str
    state: str
    """started, kept (it was finished in an earlier attempt) or finished."""
    description: str
    at: float
    """When it reached this state, in seconds since 1970."""


class JobDetails(JobModel):
    """A job with its steps."""

    steps: list[JobStepModel]
    """The steps that its kept events name, in the order in which they started."""
    text: str | None
    """Of a transcription: the text so far; of a long one its end."""
    audio: bool = False
    """Of a transcription: whether /jobs/ID/audio has its recording."""


class TranscriptWordModel(ResponseModel):
    """A word of a transcript."""

    word: str
    start: float
    end: float


class TranscriptSegmentModel(ResponseModel):
    """A segment of a transcript."""

    start: float
    """Seconds from the start of the recording."""
    end: float
    text: str
    language: str
    """ISO 639-1 code."""
    avg_logprob: float
    """Mean log-probability of its tokens; below -1 is unreliable."""
    speaker: str = ""
    """The speaker, only where `speakers` requested it: A, B and so on, by their first words, or a name."""
    speaker_label: str = ""
    """The label of a speaker who has a name."""
    words: tuple[TranscriptWordModel, ...] = ()
    """Where `words` requested them."""


class TranscriptGapModel(ResponseModel):
    """A stretch of a recording in which speech was detected and no words were recognized."""

    start: float
    end: float
    reason: str
    """no_words: the recogniser found no words."""


class TranscriptModel(ResponseModel):
    """The transcript of a recording."""

    task: Literal["transcribe", "translate"]
    language: str
    """ISO 639-1 code of the first segment; empty: there is none."""
    duration: float
    """Length of the recording, in seconds."""
    text: str
    segments: list[TranscriptSegmentModel]
    gaps: list[TranscriptGapModel]
    """What was left out."""
    audio_skipped: str = ""
    """What of the file could not be decoded."""
    speakers_error: JobFailureModel | None = None
    """Why there are no speaker labels; the text is not affected."""


class JobPage(ResponseModel):
    """Jobs, the newest first."""

    jobs: list[JobModel]
    next: str | None
    """Value of `before` for the next page; null: this is the last one."""


def job_document(job: JobRecord) -> dict[str, Any]:
    """The members of a JobModel."""
    phrase = "" if job.state == "done" else job.phrase
    whole = {**asdict(job), "name": str(job.parameters.get("name", "")), "phrase": phrase}
    return {name: whole[name] for name in JobModel.model_fields}


def step_documents(events: Iterable[JobEvent]) -> list[dict[str, Any]]:
    """The members of each JobStepModel."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.type == "step" and "step" in event.data:
            name = str(event.data["step"])
            found[name] = {
                "name": name, "state": event.data["state"], "description": event.data["description"], "at": event.at
            }  # fmt: skip
    return list(found.values())
