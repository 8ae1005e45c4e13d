"""Runs a plan as a job: its steps, the check of what each wrote, and the publication of the model."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import IO, Any

from chatapi.catalog.compiled.artifact import CONFIG, LIBRARY, WEIGHTS, CompiledModel
from chatapi.catalog.compiled.model_lib import read
from chatapi.catalog.compiled.verify import Target, verify
from chatapi.catalog.manifest import MADE
from chatapi.errors import ModelError, WrongMode
from chatapi.jobs import (
    Artifact,
    Command,
    JobEvent,
    JobKind,
    JobRecord,
    JobRequest,
    JobSteps,
    JobStore,
    Step,
    StepRun,
    run_job,
)
from chatapi.storage import atomic_files
from chatapi_compile.plan import CompilePlan, CompileStep

KIND = "compile"
LOG = "compile.log"
DONE = "steps.json"
"""The record of each complete step as older versions kept it in the work folder: its key, its seconds, and size and
sha256 per file."""
SHARES = {"config": 0.05, WEIGHTS: 0.65, LIBRARY: 0.98}
"""The progress of the whole behind each step, 0 to 1; an estimate."""
_CACHE = re.compile(r"^(params_shard_\d+\.bin|(tensor|ndarray)-cache(-b16)?\.json)$")
"""Files of convert_weight; all other files beside them are gen_config's."""
_PERCENT = re.compile(r"(\d{1,3})%\|")
"""How tqdm begins its progress bars."""


def carry_out(plan: CompilePlan, fetch: Callable[[], object], report: Callable[[JobEvent], None]) -> CompiledModel:
    """Compiles the model; `fetch` downloads the source weights and is called only when a step needs them.

    May be interrupted at any moment and called again. Raises WrongMode while another compilation runs or when the job
    was cancelled, ModelError with the step that failed and the last lines of its output, StorageError.
    """
    folder = plan.place.folder.parent
    with atomic_files.writing(folder), _lock(folder) as lock, closing(JobStore(plan.data)) as store:
        compilation = _Compilation(plan, fetch, lock)
        run_job(store, JobKind(KIND, compilation.steps), _request(plan), report)
    return plan.place


def settle(plan: CompilePlan) -> None:
    """Ends the job of a model whose compilation was killed after the model was published."""
    if not JobStore.exists(plan.data):
        return

    def steps(job: JobRecord) -> JobSteps:
        record = plan.place.made()
        yield Step("publish", "recording the model", lambda run: run.record(_artifact(plan, record)), inputs="settled")

    with closing(JobStore(plan.data)) as store:
        unfinished = store.find(("queued", "running", "paused"), KIND)
        if any(job.subject == plan.manifest.name for job in unfinished):
            run_job(store, JobKind(KIND, steps), _request(plan))


def _request(plan: CompilePlan) -> JobRequest:
    name = plan.manifest.name
    parameters = {"model": name, "quantization": plan.quantization, "board": plan.board.model}
    return JobRequest(KIND, parameters, subject=name, command=f"chatapi compile {name}")


@contextmanager
def _lock(folder: Path) -> Iterator[IO[str]]:
    """Allows one compilation at a time: two would need the memory of two. The command inherits the lock and keeps
    it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read().strip() or "unknown"
            raise WrongMode(f"process {who} is compiling already; wait for it, or stop it and try again") from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock


@dataclass
class _Compilation:
    """One attempt."""

    plan: CompilePlan
    fetch: Callable[[], object]
    lock: IO[str]
    fetched: bool = False
    results: dict[str, Any] = field(default_factory=dict)
    """Step -> its seconds, and size and sha256 per file."""

    def steps(self, job: JobRecord) -> JobSteps:
        plan, work = self.plan, self.plan.work
        work.weights.mkdir(parents=True, exist_ok=True)
        (work.folder / MADE).unlink(missing_ok=True)
        for number, step in enumerate(plan.steps, 1):
            self.results[step.name] = yield Step(
                step.name,
                f"{number}/{len(plan.steps)} {step.description}",
                partial(self._make, step),
                inputs=step.key,
                until=SHARES[step.name],
                intact=partial(_is_intact, work),
            )
        digests = {name: file["sha256"] for each in self.results.values() for name, file in each["files"].items()}
        yield Step("publish", "checking and publishing the model", self._publish, inputs=digests, until=1.0)

    def _make(self, step: CompileStep, run: StepRun) -> Mapping[str, Any]:
        """The step's record: its seconds, and size and sha256 per file."""
        work = self.plan.work
        older = _older_record(work, step)
        if older is not None:
            run.log(f"{step.name}: its results are kept from an older version")
            return older
        if step.source and not self.fetched:
            self.fetch()
            self.fetched = True
        for file in _results(work, step):
            file.unlink()
        started = time.monotonic()
        self._run(step, run)
        _check(self.plan, step)
        files = {}
        for file in _results(work, step):
            atomic_files.sync(file)
            files[str(file.relative_to(work.folder))] = {
                "size": file.stat().st_size,
                "sha256": atomic_files.digest(file),
            }
        return {"seconds": round(time.monotonic() - started, 1), "files": files}

    def _run(self, step: CompileStep, run: StepRun) -> None:
        """Runs the command to its end, with its output in the log. Raises ModelError when it fails."""
        work = self.plan.work
        with (work.folder / LOG).open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n$ {' '.join(step.argv)}\n")

            def write(line: str) -> None:
                log.write(f"{line}\n")
                log.flush()

            command = Command(step.argv, work.folder, _fraction, write, descriptors=(self.lock.fileno(),))
            result = run.run_command(command)
        if result.status:
            killed = "was killed, as happens when memory runs out"
            why = killed if result.was_killed else f"ended with status {result.status}"
            raise _failed(self.plan, step, f"mlc_llm {why}", result.last_lines)

    def _publish(self, run: StepRun) -> str:
        """Writes the record and moves the folder to its place at once, unless the model could not be loaded."""
        plan, work = self.plan, self.plan.work
        record = _record(plan, self.results)
        atomic_files.write_whole(work.folder / MADE, json.dumps(record, indent=2))
        try:
            # Free memory does not count here: what runs now need not run when the model is loaded.
            verify(work.folder, Target(plan.board, plan.host.partition("-")[0], 0, plan.versions)).require()
        except ModelError:
            for name in (MADE, DONE):
                (work.folder / name).unlink(missing_ok=True)
            run.forget(LIBRARY)
            raise
        (work.folder / DONE).unlink(missing_ok=True)
        run.publish(work.folder, plan.place.folder, record["sha256"])
        return str(plan.place.folder)


def _fraction(line: str) -> float | None:
    percent = _PERCENT.search(line)
    return min(int(percent[1]), 100) / 100 if percent else None


def _failed(plan: CompilePlan, step: CompileStep, why: str, last_lines: tuple[str, ...] = ()) -> ModelError:
    output = "".join(f"\n  {line}" for line in last_lines)
    return ModelError(
        f"{step.description} failed: {why}{':' if output else ''}{output}\nThe full log is {plan.work.folder / LOG}. "
        f"Complete steps are kept; when the cause is fixed, resume with: chatapi compile {plan.manifest.name}",
        code="compile_failed",
    )


def _check(plan: CompilePlan, step: CompileStep) -> None:
    """Checks the results: a command that ends with status 0 has not always written them."""
    work, wrong = plan.work, ""
    if step.name == WEIGHTS:
        short = work.short_files()
        wrong = "it wrote no list of weights" if not work.cache() else f"{short[0]} is incomplete" if short else ""
    elif step.name == LIBRARY:
        wrong = "" if work.lib.is_file() and read(work.lib).metadata else "it wrote no model library"
    elif not work.config():
        wrong = f"it wrote no {CONFIG}"
    if wrong:
        raise _failed(plan, step, wrong)


def _results(work: CompiledModel, step: CompileStep) -> list[Path]:
    if step.name == LIBRARY:
        return [work.lib] if work.lib.exists() else []
    files = sorted(path for path in work.weights.iterdir() if path.is_file())
    return [path for path in files if (_CACHE.match(path.name) is not None) == (step.name == WEIGHTS)]


def _is_intact(work: CompiledModel, result: Mapping[str, Any]) -> bool:
    """Whether the results of a step are complete and unchanged."""
    return all(
        path.is_file() and path.stat().st_size == file["size"] and atomic_files.digest(path) == file["sha256"]
        for path, file in ((work.folder / name, file) for name, file in result["files"].items())
    )


def _older_record(work: CompiledModel, step: CompileStep) -> Mapping[str, Any] | None:
    """The record that an older version left of this step, if it was the same command and its results are intact."""
    try:
        record = json.loads((work.folder / DONE).read_text(encoding="utf-8"))[step.name]
        found = {"seconds": record["seconds"], "files": record["files"]}
        return found if record["key"] == step.key and _is_intact(work, found) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _record(plan: CompilePlan, results: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = read(plan.work.lib).metadata
    return {
        "manifest": plan.manifest.name,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": dict(plan.versions),
        "board": plan.board.model,
        "l4t": list(plan.board.l4t),
        "cuda": list(plan.board.cuda),
        "target": dict(plan.target),
        "host": plan.host,
        "quantization": plan.quantization,
        **plan.limits.model_dump(include={"context_window_size", "prefill_chunk_size", "max_batch_size"}),
        "sha256": results[LIBRARY]["files"][LIBRARY]["sha256"],
        "files": {name: file for step in results.values() for name, file in step["files"].items()},
        "seconds": {name: step["seconds"] for name, step in results.items()},
        "metadata": metadata.short() if metadata else {},
    }


def _artifact(plan: CompilePlan, record: Mapping[str, Any]) -> Artifact:
    """The compiled model as an artifact; it is known by the digest of its library."""
    size = sum(each.stat().st_size for each in plan.place.folder.rglob("*") if each.is_file())
    return Artifact(plan.manifest.name, str(plan.place.folder), size, record["sha256"])
