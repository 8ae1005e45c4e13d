"""What is stored of a job, as plain data, and the limits of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatapi.runtime.admission import Priority
from chatapi.settings.tables import JobSettings

JobState = Literal["queued", "running", "paused", "cancelled", "failed", "done"]
EventType = Literal["state", "step", "progress"]
StepState = Literal["started", "kept", "finished"]

DAY = 86_400
"""Seconds in a day."""
FINISHED: tuple[JobState, ...] = ("cancelled", "failed", "done")
"""States of a job that nothing will run unless it is retried."""


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed."""

    code: str
    """Stable code of the error, such as `compile_failed`."""
    message: str


@dataclass(frozen=True)
class Artifact:
    """A result of a job: a file, a folder or a URL."""

    name: str
    location: str
    """Absolute path, or URL."""
    size: int
    """Size in bytes; of a folder the sum over its files."""
    sha256: str
    """Digest in hex. Of a folder it is that of a list with a line `SHA256  PATH` for each file, sorted by path, unless
    the kind of the job takes that of the file that identifies it."""


@dataclass(frozen=True)
class JobRecord:
    """The state of one job."""

    id: str
    kind: str
    subject: str
    """What the job is about, for example a model; only one unfinished job of a kind has it; empty: not stated."""
    command: str
    """Command line that runs and resumes the job in the foreground; empty: a runner does."""
    parameters: Mapping[str, Any]
    priority: Priority
    owner: str
    """Id of the API key that created it, or the name of one that is in no file; empty: none."""
    state: JobState
    wanted: Literal["", "pause", "cancel"]
    """What a running job was asked for and has not done yet."""
    created: float
    """Wall clock, in seconds since 1970, as are `started` and `ended`."""
    started: float | None
    """Start of the last attempt; None: there was none."""
    ended: float | None
    """When it was done, failed or was cancelled; None: it is unfinished."""
    progress: float
    """Finished part of the job, 0 to 1."""
    phrase: str
    """What it does now, for people."""
    seconds_left: float | None
    """Estimated time until it is done, in seconds; None: unknown."""
    attempts: int
    """How often it was started."""
    failures: int
    """Retryable errors and crashes since the last finished step."""
    failure: JobFailure | None
    """Why it failed; of a queued job: why it is tried again."""
    artifacts: tuple[Artifact, ...]
    events: int
    """Number of its last event."""
    damage: str
    """What of it cannot be read, so that it cannot be run; empty: it is whole."""

    @property
    def finished(self) -> bool:
        """Whether nothing will run it unless it is retried."""
        return self.state in FINISHED


@dataclass(frozen=True)
class JobEvent:
    """One event of a job."""

    job: str
    number: int
    """1 for the job's first event, and so on; 0: only reported to the process that runs the job, not stored."""
    at: float
    """Wall clock, in seconds since 1970."""
    type: EventType
    data: Mapping[str, Any]
    """`state`: state, attempt, code, message. `step`: step, state, description. `progress`: step, fraction (of the
    step), phrase. All of them: progress (of the job, 0 to 1) and seconds_left."""


@dataclass(frozen=True)
class JobLimits:
    """Limits of the store and of one job."""

    unfinished: int = 100
    """Largest number of jobs that are queued, running or paused; one more is rejected. Interrupted jobs of commands do
    not count."""
    per_owner: int = 50
    """Largest number of them that one API key owns, where its jobs are limited."""
    parameter_bytes: int = 64 << 10
    """Largest size of a job's parameters as JSON, in bytes."""
    result_bytes: int = 64 << 10
    """Largest size of a step's result as JSON, in bytes."""
    steps: int = 10_000
    """Largest number of finished steps of a job."""
    events: int = 1000
    """Number of the latest events kept of a job."""
    artifacts: int = 1000
    """Largest number of artifacts of a job."""
    log_bytes: int = 4 << 20
    """Largest size of a job's log, in bytes; the oldest lines are dropped."""
    finished: int = 200
    """Largest number of finished jobs that are kept; the oldest are deleted first."""
    finished_seconds: float = 30 * 86_400
    """Time that a finished job, or an interrupted one of a command, is kept, in seconds."""

    @classmethod
    def of(cls, settings: JobSettings) -> JobLimits:
        """The limits that the settings state."""
        return cls(
            settings.max_unfinished,
            settings.max_per_key,
            finished=settings.max_finished,
            finished_seconds=settings.keep_days * DAY,
        )
