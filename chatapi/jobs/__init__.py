"""Jobs: work that survives the process; an accepted job is stored, and its finished steps are not run again."""

from chatapi.jobs.commands import Command, CommandResult
from chatapi.jobs.following import follow
from chatapi.jobs.foreground import run_job
from chatapi.jobs.records import Artifact, JobEvent, JobFailure, JobLimits, JobRecord, JobState
from chatapi.jobs.runner import JobRunner
from chatapi.jobs.shared_store import SharedStore
from chatapi.jobs.steps import JobKind, JobSteps, Step, StepRun, partial_results
from chatapi.jobs.store import JobRequest, JobStore, new_id

__all__ = [
    "Artifact",
    "Command",
    "CommandResult",
    "JobEvent",
    "JobFailure",
    "JobKind",
    "JobLimits",
    "JobRecord",
    "JobRequest",
    "JobRunner",
    "JobState",
    "JobSteps",
    "JobStore",
    "SharedStore",
    "Step",
    "StepRun",
    "follow",
    "new_id",
    "partial_results",
    "run_job",
]
