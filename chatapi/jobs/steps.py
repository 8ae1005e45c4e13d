"""Kinds of jobs, their steps, and what a step may do while it runs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chatapi.jobs import commands
from chatapi.jobs.commands import Command, CommandResult
from chatapi.jobs.records import Artifact, JobRecord
from chatapi.storage import atomic_files

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
"""A step's name, which is also a folder's."""


def always(result: Any) -> bool:
    """A result that stays valid."""
    return True


@dataclass(frozen=True)
class Step:
    """One step of a job. Once it has finished it is not run again for the same inputs, whatever happens to the process.

    A step that was interrupted runs again from its start, so what it changes outside its folder must bear repetition.
    """

    name: str
    """Unique in the job."""
    description: str
    """What it does, for people."""
    run: Callable[[StepRun], Any]
    """Does the work and returns the result, as JSON."""
    inputs: Any = None
    """JSON of everything that the result depends on; other inputs run the step again."""
    until: float = 0.0
    """The job's progress when the step is finished, 0 to 1."""
    intact: Callable[[Any], bool] = always
    """Whether a stored result is still valid, for example whether its files exist; otherwise the step runs again."""

    def key(self, kind: str) -> str:
        """Digest of the kind, the name and the inputs. Raises ValueError."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name for a step; it must match {NAME.pattern}")
        return hashlib.sha256(json.dumps([kind, self.name, self.inputs], sort_keys=True).encode()).hexdigest()


JobSteps = Generator[Step, Any, None]
"""A generator of steps that receives the result of each, also of one that was finished before."""


@dataclass(frozen=True)
class JobKind:
    """A kind of job."""

    name: str
    steps: Callable[[JobRecord], JobSteps]
    """The steps of a job. They must follow from the parameters and from the results of earlier steps alone."""
    retries: int = 5
    """How often in a row a retryable error (WaitAndRetry) is retried before the job fails."""
    stall_seconds: float = 600.0
    """Time without a checkpoint after which a runner declares a step stuck and the job failed, in seconds."""


class StepControl(Protocol):
    """What runs a step; see `execution`."""

    @property
    def job(self) -> JobRecord: ...
    @property
    def folder(self) -> Path:
        """The job's own folder."""

    @property
    def lock(self) -> int:
        """Descriptor of the job's lock."""

    @property
    def nice(self) -> int:
        """What is added to the niceness of its commands."""

    def checkpoint(self, stopped: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`stopped`: entered while the work waits."""

    def advance(self, fraction: float, phrase: str) -> None: ...
    def report(self, fraction: float) -> None:
        """Report progress without a checkpoint."""

    def write_log(self, line: str) -> None: ...
    def add_artifact(self, artifact: Artifact) -> None: ...
    def forget(self, name: str) -> None: ...


class StepRun:
    """One run of a step: what its function receives. For the thread that runs it."""

    def __init__(self, control: StepControl, name: str) -> None:
        self._control, self._name = control, name
        self._folder: Path | None = None

    @property
    def job(self) -> JobRecord:
        """The job as it was when this attempt started."""
        return self._control.job

    @property
    def folder(self) -> Path:
        """A folder for the step's files, empty at first. When the step finishes it becomes `results(name)` as a whole;
        it is deleted when the step does not finish, and with the other steps' when the job is done."""
        if self._folder is None:
            self._folder = partial_results(self._control.folder, self._name)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        return self._folder

    def results(self, name: str) -> Path:
        """The folder of a finished step."""
        return self._control.folder / "work" / name

    @property
    def artifacts(self) -> Path:
        """A folder for artifacts that are deleted with the job."""
        folder = self._control.folder / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def checkpoint(self) -> None:
        """To be called often: ends the step when the job is paused, cancelled or interrupted, and waits while more
        urgent work needs the machine."""
        self._control.checkpoint()

    def advance(self, fraction: float, phrase: str = "") -> None:
        """Report the finished part of the step, 0 to 1, and what it does now; a checkpoint."""
        self._control.advance(fraction, phrase)

    def log(self, line: str) -> None:
        """Append a line to the job's log."""
        self._control.write_log(line)

    def run_command(self, command: Command) -> CommandResult:
        """Run a command, with its output in the job's log. It is stopped (SIGSTOP) while more urgent work needs the
        machine, and ends when the job is paused or cancelled, and when this process ends.

        Raises DeadlineExceeded (step_stalled)."""
        self.log(f"$ {' '.join(command.argv)}")

        def on_line(line: str) -> None:
            if (fraction := command.fraction(line)) is not None:
                # Its checkpoints are those of the command: elsewhere it would run on while its step waits.
                self._control.report(fraction)
            elif line.strip():
                self.log(line)
                command.output(line)

        return commands.run(command, self._control.lock, on_line, self._control.checkpoint, self._control.nice)

    def publish(self, source: Path, place: Path, sha256: str = "") -> Artifact:
        """Move a complete file or folder to its place, by one rename, and record it as an artifact of the job.

        `sha256`: its digest (see `Artifact`), where it is known. Raises StorageError, OSError.
        """
        size = sum(each.stat().st_size for each in _files(source))
        artifact = Artifact(place.name, str(place), size, sha256 or digest(source))
        _sync(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            atomic_files.swap(source, place, source.with_name(f"{place.name}.old"))
        else:
            source.replace(place)
            atomic_files.sync(place.parent)
        self._control.add_artifact(artifact)
        return artifact

    def record(self, artifact: Artifact) -> None:
        """Record an artifact that is at its place already, or that has a URL."""
        self._control.add_artifact(artifact)

    def forget(self, name: str) -> None:
        """Make a finished step run again in the next attempt."""
        self._control.forget(name)

    def keep_folder(self) -> bool:
        """Move the step's folder to `results`; whether there is one. Called when the step's function has returned."""
        if self._folder is None:
            return False
        _sync(self._folder)
        place = self.results(self._name)
        atomic_files.swap(self._folder, place, place.with_name(f".{self._name}.old"))
        return True


def partial_results(folder: Path, step: str) -> Path:
    """The folder of a step that runs; `folder`: that of its job."""
    return folder / "work" / f".{step}.partial"


def digest(source: Path) -> str:
    """The digest of a file or folder, in hex, as an `Artifact` has it."""
    if source.is_file():
        return atomic_files.digest(source)
    lines = (f"{atomic_files.digest(each)}  {each.relative_to(source).as_posix()}\n" for each in _files(source))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(each for each in source.rglob("*") if each.is_file())


def _sync(source: Path) -> None:
    """Wait until a file, or a folder with everything in it, is on the disk."""
    for each in (*source.rglob("*"), source):
        if each.is_file() or each.is_dir():
            atomic_files.sync(each)


def remove_partial(folder: Path) -> None:
    """Delete the work folders of a job that is done."""
    shutil.rmtree(folder / "work", ignore_errors=True)
