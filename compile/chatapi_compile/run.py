"""Runs a plan step by step; each complete step is kept, so that an interrupted run can be resumed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from chatapi.catalog.compiled.artifact import CONFIG, LIBRARY, WEIGHTS, CompiledModel
from chatapi.catalog.compiled.model_lib import read
from chatapi.catalog.compiled.verify import Target, verify
from chatapi.catalog.manifest import MADE
from chatapi.errors import ModelError, WrongMode
from chatapi.storage import atomic_files
from chatapi_compile.plan import CompilePlan, CompileStep

LOG = "compile.log"
DONE = "steps.json"
"""The record of each complete step: its key, its seconds, and size and sha256 per file."""
LAST_LINES = 5
"""Last lines of a failed command's output that the error quotes."""
STOP_SECONDS = 10.0
"""Seconds a command has to end when it is stopped."""
_CACHE = re.compile(r"^(params_shard_\d+\.bin|(tensor|ndarray)-cache(-b16)?\.json)$")
"""Files of convert_weight; all other files beside them are gen_config's."""
_PERCENT = re.compile(rb"(\d{1,3})%\|")
"""How tqdm begins its progress bars."""


@dataclass(frozen=True)
class CompileProgress:
    """Progress of a run."""

    step: CompileStep
    number: int
    """The step's number, from 1."""
    state: str
    """started, working, kept or done."""
    fraction: float | None = None
    """Fraction of the step that is done, 0 to 1, where its command reports it."""


Report = Callable[[CompileProgress], None]


def carry_out(plan: CompilePlan, fetch: Callable[[], object], report: Report) -> CompiledModel:
    """Compiles the model; `fetch` downloads the source weights and is called only when a step needs them.

    May be interrupted at any moment and called again. Raises WrongMode while another compilation runs, ModelError with
    the step that failed and the last lines of its output, StorageError.
    """
    with atomic_files.writing(plan.place.folder.parent), _lock(plan.place.folder.parent) as lock:
        plan.work.weights.mkdir(parents=True, exist_ok=True)
        (plan.work.folder / MADE).unlink(missing_ok=True)
        fetched = False
        for number, step in enumerate(plan.steps, 1):
            if _is_complete(plan.work, step):
                report(CompileProgress(step, number, "kept"))
                continue
            if step.source and not fetched:
                fetch()
                fetched = True
            report(CompileProgress(step, number, "started"))

            def report_fraction(fraction: float, step: CompileStep = step, number: int = number) -> None:
                report(CompileProgress(step, number, "working", fraction))

            _run_step(plan, step, lock, report_fraction)
            report(CompileProgress(step, number, "done"))
        _publish(plan)
    return plan.place


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
        _write_pid(lock, os.getpid())
        yield lock


def _write_pid(lock: IO[str], pid: int) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"{pid}\n")
    lock.flush()


def _run_step(plan: CompilePlan, step: CompileStep, lock: IO[str], report: Callable[[float], None]) -> None:
    for file in _results(plan.work, step):
        file.unlink()
    started = time.monotonic()
    _run(plan, step, lock, report)
    _check(plan, step)
    files = {}
    for file in _results(plan.work, step):
        atomic_files.sync(file)
        files[str(file.relative_to(plan.work.folder))] = {
            "size": file.stat().st_size,
            "sha256": atomic_files.digest(file),
        }
    record = {"key": step.key, "seconds": round(time.monotonic() - started, 1), "files": files}
    _write_records(plan.work, {**_records(plan.work), step.name: record})


def _run(plan: CompilePlan, step: CompileStep, lock: IO[str], report: Callable[[float], None]) -> None:
    """Runs the command to its end, with its output in the log. Raises ModelError when it fails."""
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    log = plan.work.folder / LOG
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(step.argv)}\n".encode())
        # A session of its own: Ctrl-C reaches this process only, and stopping the command also stops its child
        # processes.
        process = subprocess.Popen(
            step.argv, cwd=plan.work.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, pass_fds=(lock.fileno(),), start_new_session=True,
        )  # fmt: skip
        _write_pid(lock, process.pid)
        try:
            for line in _lines(process.stdout):
                if percent := _PERCENT.search(line):
                    report(min(int(percent[1]), 100) / 100)
                elif line.strip():
                    file.write(line + b"\n")
                    last_lines.append(line.decode("utf-8", "replace").strip())
            code = process.wait()
        finally:
            _end(process)
    if code:
        why = "was killed, as happens when memory runs out" if code == -signal.SIGKILL else f"ended with status {code}"
        raise _failed(plan, step, f"mlc_llm {why}", last_lines)


def _lines(pipe: IO[bytes] | None) -> Iterator[bytes]:
    """Lines that end in a line feed or, as progress bars do, in a carriage return."""
    held = b""
    while pipe and (chunk := os.read(pipe.fileno(), 1 << 16)):
        *whole, held = re.split(rb"[\r\n]", held + chunk)
        yield from whole
    yield held


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdout:
        process.stdout.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def _failed(plan: CompilePlan, step: CompileStep, why: str, last_lines: deque[str]) -> ModelError:
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
        raise _failed(plan, step, wrong, deque())


def _results(work: CompiledModel, step: CompileStep) -> list[Path]:
    if step.name == LIBRARY:
        return [work.lib] if work.lib.exists() else []
    files = sorted(path for path in work.weights.iterdir() if path.is_file())
    return [path for path in files if (_CACHE.match(path.name) is not None) == (step.name == WEIGHTS)]


def _records(work: CompiledModel) -> Mapping[str, Any]:
    try:
        records = json.loads((work.folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def _write_records(work: CompiledModel, done: Mapping[str, Any]) -> None:
    atomic_files.write_whole(work.folder / DONE, json.dumps(done, indent=2))


def _is_complete(work: CompiledModel, step: CompileStep) -> bool:
    """Whether the step's results are complete and unchanged, from the same command."""
    record = _records(work).get(step.name, {})
    return record.get("key") == step.key and all(
        path.is_file() and path.stat().st_size == file["size"] and atomic_files.digest(path) == file["sha256"]
        for path, file in ((work.folder / name, file) for name, file in record["files"].items())
    )


def _publish(plan: CompilePlan) -> None:
    """Writes the record and moves the folder to its place at once, unless the model could not be loaded."""
    work, done = plan.work, _records(plan.work)
    metadata = read(work.lib).metadata
    record = {
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
        "sha256": done[LIBRARY]["files"][LIBRARY]["sha256"],
        "files": {name: file for step in done.values() for name, file in step["files"].items()},
        "seconds": {name: step["seconds"] for name, step in done.items()},
        "metadata": metadata.short() if metadata else {},
    }
    atomic_files.write_whole(work.folder / MADE, json.dumps(record, indent=2))
    try:
        # Free memory does not count here: what runs now need not run when the model is loaded.
        verify(work.folder, Target(plan.board, plan.host.partition("-")[0], 0, plan.versions)).require()
    except ModelError:
        (work.folder / MADE).unlink()
        _write_records(work, {name: step for name, step in done.items() if name != LIBRARY})
        raise
    (work.folder / DONE).unlink()
    atomic_files.swap(work.folder, plan.place.folder, work.folder.with_name(f"{plan.manifest.name}.old"))
