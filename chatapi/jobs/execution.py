"""One attempt of a job: runs its unfinished steps, and stores how it ended."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from chatapi.errors import ChatapiError, WaitAndRetry
from chatapi.jobs.claims import MISSING, Claim, ClaimLost
from chatapi.jobs.job_log import JobLog
from chatapi.jobs.progress import ProgressMeter
from chatapi.jobs.records import Artifact, JobEvent, JobFailure, JobRecord, JobState, StepState
from chatapi.jobs.steps import JobKind, Step, StepRun, remove_partial
from chatapi.runtime.admission import Priority

log = logging.getLogger(__name__)

Report = Callable[[JobEvent], None]
"""Receives each event of an attempt, in the thread that runs it."""
MustYield = Callable[[Priority], bool]
"""Whether work of a class has to wait at its checkpoint, for any thread."""
Working = Callable[[Priority], AbstractContextManager[None]]
"""A context in which work of a class runs, for any thread."""

LOOK_SECONDS = 0.2
"""Interval between checks whether the job was paused or cancelled, in seconds."""
YIELD_SECONDS = 0.05
"""Interval between checks whether work still has to wait, in seconds."""
NICE = 19
"""What is added to the niceness of the commands of bulk work and training: the most that there is."""
REPORT_SECONDS = 1.0
"""Shortest time between two stored reports of progress, in seconds."""
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 5.0, 600.0
"""Time before the first retry, doubled for each further one, and its upper bound, in seconds."""


def ignore(event: JobEvent) -> None:
    """A `Report` that ignores the events."""


def never(priority: Priority) -> bool:
    """A `MustYield` for work that has the machine to itself."""
    return False


def uncounted(priority: Priority) -> AbstractContextManager[None]:
    """The `Working` of a job outside of a server: no scheduler counts its work."""
    return nullcontext()


class _Stopped(BaseException):
    """The attempt is to end at this checkpoint; steps that catch Exception do not catch it."""

    def __init__(self, state: JobState) -> None:
        super().__init__(state)
        self.state: JobState = state


class Execution:
    """One attempt of a job. Its methods are for the thread that runs it, except where they say so."""

    def __init__(
        self, claim: Claim, kind: JobKind, log_file: JobLog, report: Report = ignore, must_yield: MustYield = never
    ) -> None:
        self.kind = kind
        self.alive_at = time.monotonic()
        """When the last checkpoint was, in seconds of `time.monotonic`. For any thread."""
        self.error: BaseException | None = None
        """What ended it, when the job failed or is to be tried again."""
        self._claim, self._log, self._report, self._must_yield = claim, log_file, report, must_yield
        self._meter = ProgressMeter()
        self._stopping = threading.Event()
        self._seen: set[str] = set()
        self._failures = claim.job.failures
        self._next_look = self._next_report = 0.0
        self._phrase = ""
        self._step = ""

    @property
    def job(self) -> JobRecord:
        """The job as it was when this attempt started."""
        return self._claim.job

    @property
    def folder(self) -> Path:
        return self._claim.folder

    @property
    def lock(self) -> int:
        return self._claim.lock

    def stop(self) -> None:
        """End the attempt at its next checkpoint, so that it can be resumed. For any thread."""
        self._stopping.set()

    def declare_stuck(self) -> None:
        """Store that the job failed because its step does not come to a checkpoint. For any thread."""
        limit = self.kind.stall_seconds
        message = f"step {self._step} came to no checkpoint for {limit:g} seconds; the job can be retried"
        self._declare("failed", JobFailure("step_stalled", message))

    def declare_interrupted(self) -> None:
        """Store that the job was stopped, although its thread still runs: the process ends, and that is no crash of the
        job. Others can claim it when the thread and its command have ended. For any thread."""
        self._declare(self._interrupted)

    def _declare(self, state: JobState, failure: JobFailure | None = None) -> None:
        try:
            self._claim.end(state, failure)
        except (ChatapiError, ClaimLost) as error:
            log.warning("the end of a job could not be stored: %s", error)

    def run(self) -> None:
        """Run to the end. The job's failure is stored and is in `error`; KeyboardInterrupt and other exits are raised
        after the job was stored as interrupted."""
        try:
            self._run_steps()
            self._end("done")
            remove_partial(self.folder)
        except _Stopped as stopped:
            self._end(stopped.state)
        except ClaimLost:
            log.warning("job %s was declared stuck and has ended now", self.job.id)
        except Exception as error:
            self.error = error
            self._end_failed(error)
        except BaseException:
            self._end(self._interrupted)
            raise
        finally:
            self._claim.release()

    @property
    def nice(self) -> int:
        """See `StepControl.nice`: in the foreground too, because a server may run beside it."""
        return NICE if self.job.priority > Priority.REQUEST else 0

    def checkpoint(self, stopped: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """See `StepRun.checkpoint`. `stopped`: entered while the work waits."""
        self._look()
        if self._must_yield(self.job.priority):
            with stopped():
                while self._must_yield(self.job.priority):
                    time.sleep(YIELD_SECONDS)
                    self._meter.idle(YIELD_SECONDS)
                    self._look()

    def advance(self, fraction: float, phrase: str) -> None:
        """See `StepRun.advance`; stored once in REPORT_SECONDS."""
        self.checkpoint()
        self.report(fraction, phrase)

    def report(self, fraction: float, phrase: str = "") -> None:
        """See `StepControl.report`; stored once in REPORT_SECONDS."""
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + REPORT_SECONDS
            data = {"step": self._step, "fraction": round(fraction, 4), "phrase": phrase[:200] or self._phrase}
            self._report(self._claim.progress(data, *self._meter.at(fraction)))

    def write_log(self, line: str) -> None:
        """See `StepRun.log`."""
        self._log.write(line)

    def add_artifact(self, artifact: Artifact) -> None:
        """See `StepRun.record`."""
        self._claim.add_artifact(artifact)

    def forget(self, name: str) -> None:
        """See `StepRun.forget`."""
        self._claim.forget(name)

    @property
    def _interrupted(self) -> JobState:
        """The state of an interrupted job: a runner goes on with a queued one, a command with a paused one."""
        return "paused" if self.job.command else "queued"

    def _look(self) -> None:
        self.alive_at = time.monotonic()
        if self._stopping.is_set():
            raise _Stopped(self._interrupted)
        if self.alive_at >= self._next_look:
            self._next_look = self.alive_at + LOOK_SECONDS
            wanted = self._claim.wanted()
            if wanted:
                raise _Stopped("cancelled" if wanted == "cancel" else "paused")

    def _run_steps(self) -> None:
        steps = self.kind.steps(self.job)
        try:
            step = next(steps)
            while True:
                step = steps.send(self._result(step))
        except StopIteration:
            pass
        finally:
            steps.close()

    def _result(self, step: Step) -> Any:
        """The result of a step: the stored one, or that of running it."""
        key = step.key(self.kind.name)
        if step.name in self._seen:
            raise ValueError(f"a job of kind {self.kind.name} has two steps with the name {step.name}")
        self._seen.add(step.name)
        run = StepRun(self, step.name)
        stored = self._claim.result(key)
        if stored is not MISSING and self._is_intact(step, run, stored):
            self._meter.keep(step.until)
            self._report(JobEvent(self.job.id, 0, time.time(), "step", _data(step, "kept")))
            return stored["result"]
        self.checkpoint()
        self._step, self._phrase, self._next_report = step.name, step.description, 0.0
        self._meter.begin(step.until)
        self._report(self._claim.begin_step(step.name, _data(step, "started"), *self._meter.at(0)))
        result = step.run(run)
        outcome = {"result": result, "folder": run.keep_folder()}
        done = _data(step, "finished")
        self._report(self._claim.finish_step(step.name, key, outcome, done, self._meter.at(1)))
        self._failures = 0
        return result

    def _is_intact(self, step: Step, run: StepRun, stored: Any) -> bool:
        return (not stored["folder"] or run.results(step.name).is_dir()) and step.intact(stored["result"])

    def _end_failed(self, error: Exception) -> None:
        failure = self._failure(error)
        if isinstance(error, WaitAndRetry) and not self.job.command and self._failures < self.kind.retries:
            backoff = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**self._failures)
            self._end("queued", failure, max(backoff, error.retry_after or 0.0))
        else:
            self._end("failed", failure)

    def _failure(self, error: Exception) -> JobFailure:
        if isinstance(error, ChatapiError):
            return JobFailure(error.code, error.message)
        self._write_traceback(error)
        if isinstance(error, OSError):
            return JobFailure("storage_fault", f"step {self._step}: {error}")
        return JobFailure("internal_error", f"step {self._step} raised {type(error).__name__}: {error}")

    def _write_traceback(self, error: Exception) -> None:
        try:
            for line in "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines():
                self.write_log(line)
        except OSError as fault:
            log.warning("a job's log cannot be written: %s", fault)

    def _end(self, state: JobState, failure: JobFailure | None = None, delay: float | None = None) -> None:
        """Store how it ended; what cannot be stored is stored when the job is recovered."""
        try:
            self._report(self._claim.end(state, failure, delay))
        except (ChatapiError, ClaimLost) as error:
            log.warning("the end of a job could not be stored: %s", error)


def _data(step: Step, state: StepState) -> dict[str, Any]:
    return {"step": step.name, "state": state, "description": step.description}
