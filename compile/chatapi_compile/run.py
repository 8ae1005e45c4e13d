"""Carrying out a plan: one step after another, each kept once it is whole, so that it can be gone on with."""

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
"""What each step that is whole left behind: its key, its seconds, and size and sha256 by file."""
LAST = 5
"""Lines of a failed command that are told."""
PATIENCE = 10.0
"""Seconds a command has to end when it is stopped."""
_CACHE = re.compile(r"^(params_shard_\d+\.bin|(tensor|ndarray)-cache(-b16)?\.json)$")
"""Files of convert_weight; everything else beside them is gen_config's."""
_PERCENT = re.compile(rb"(\d{1,3})%\|")
"""How tqdm begins its bars."""


@dataclass(frozen=True)
class CompileProgress:
    """How far it has come."""

    step: CompileStep
    number: int
    """Of the step, from 1."""
    state: str
    """begun, working, kept or done."""
    fraction: float | None = None
    """Of the step, where its command tells."""


Report = Callable[[CompileProgress], None]


def carry_out(plan: CompilePlan, fetch: Callable[[], object], report: Report) -> CompiledModel:
    """Compile the model; `fetch` brings the source weights, and is called only when a step reads them.

    May be interrupted at any moment and called again. Raises WrongMode while another compiles, ModelError naming the
    step that failed with its last words, StorageError.
    """
    with atomic_files.writing(plan.place.folder.parent), _alone(plan.place.folder.parent) as lock:
        plan.work.weights.mkdir(parents=True, exist_ok=True)
        (plan.work.folder / MADE).unlink(missing_ok=True)
        fetched = False
        for number, step in enumerate(plan.steps, 1):
            if _whole(plan.work, step):
                report(CompileProgress(step, number, "kept"))
                continue
            if step.source and not fetched:
                fetch()
                fetched = True
            report(CompileProgress(step, number, "begun"))

            def tell(fraction: float, step: CompileStep = step, number: int = number) -> None:
                report(CompileProgress(step, number, "working", fraction))

            _do(plan, step, lock, tell)
            report(CompileProgress(step, number, "done"))
        _publish(plan)
    return plan.place


@contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """One compilation at a time: two would need the memory of two. The command inherits the lock and keeps it alive."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read().strip() or "unknown"
            raise WrongMode(f"process {who} is compiling already; wait for it, or end it and try again") from None
        _sign(lock, os.getpid())
        yield lock


def _sign(lock: IO[str], pid: int) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"{pid}\n")
    lock.flush()


def _do(plan: CompilePlan, step: CompileStep, lock: IO[str], tell: Callable[[float], None]) -> None:
    for file in _results(plan.work, step):
        file.unlink()
    begun = time.monotonic()
    _run(plan, step, lock, tell)
    _check(plan, step)
    files = {}
    for file in _results(plan.work, step):
        atomic_files.sync(file)
        files[str(file.relative_to(plan.work.folder))] = {
            "size": file.stat().st_size,
            "sha256": atomic_files.digest(file),
        }
    record = {"key": step.key, "seconds": round(time.monotonic() - begun, 1), "files": files}
    _note(plan.work, {**_done(plan.work), step.name: record})


def _run(plan: CompilePlan, step: CompileStep, lock: IO[str], tell: Callable[[float], None]) -> None:
    """The command to its end, its words in the log. Raises ModelError when it fails."""
    last: deque[str] = deque(maxlen=LAST)
    log = plan.work.folder / LOG
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(step.argv)}\n".encode())
        # A session of its own: Ctrl-C reaches us alone, and what the command has started ends with it.
        process = subprocess.Popen(
            step.argv, cwd=plan.work.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, pass_fds=(lock.fileno(),), start_new_session=True,
        )  # fmt: skip
        _sign(lock, process.pid)
        try:
            for line in _lines(process.stdout):
                if percent := _PERCENT.search(line):
                    tell(min(int(percent[1]), 100) / 100)
                elif line.strip():
                    file.write(line + b"\n")
                    last.append(line.decode("utf-8", "replace").strip())
            code = process.wait()
        finally:
            _end(process)
    if code:
        why = "was killed, as happens when memory runs out" if code == -signal.SIGKILL else f"ended with status {code}"
        raise _failed(plan, step, f"mlc_llm {why}", last)


def _lines(pipe: IO[bytes] | None) -> Iterator[bytes]:
    """What ends in a line feed or, as bars do, in a carriage return."""
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
            process.wait(PATIENCE)
            return


def _failed(plan: CompilePlan, step: CompileStep, why: str, last: deque[str]) -> ModelError:
    said = "".join(f"\n  {line}" for line in last)
    return ModelError(
        f"{step.told} failed: {why}{':' if said else ''}{said}\nThe whole log is {plan.work.folder / LOG}; what was "
        f"done before is kept. When the cause is mended go on with: chatapi compile {plan.manifest.name}",
        code="compile_failed",
    )


def _check(plan: CompilePlan, step: CompileStep) -> None:
    """A command that ends well has not always left what it should."""
    work, wrong = plan.work, ""
    if step.name == WEIGHTS:
        short = work.short_files()
        wrong = "it wrote no list of weights" if not work.cache() else f"{short[0]} is not whole" if short else ""
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


def _done(work: CompiledModel) -> Mapping[str, Any]:
    try:
        found = json.loads((work.folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(work: CompiledModel, done: Mapping[str, Any]) -> None:
    atomic_files.write_whole(work.folder / DONE, json.dumps(done, indent=2))


def _whole(work: CompiledModel, step: CompileStep) -> bool:
    """Whether the step's results are there to the last bit, from the same command."""
    record = _done(work).get(step.name, {})
    return record.get("key") == step.key and all(
        path.is_file() and path.stat().st_size == said["size"] and atomic_files.digest(path) == said["sha256"]
        for path, said in ((work.folder / name, said) for name, said in record["files"].items())
    )


def _publish(plan: CompilePlan) -> None:
    """The record of what made it, and all of it in its place by one move; nothing that could not be loaded."""
    work, done = plan.work, _done(plan.work)
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
        "files": {name: said for step in done.values() for name, said in step["files"].items()},
        "seconds": {name: step["seconds"] for name, step in done.items()},
        "metadata": metadata.short() if metadata else {},
    }
    atomic_files.write_whole(work.folder / MADE, json.dumps(record, indent=2))
    try:
        # Free memory is another matter: what runs now need not run when the model does.
        verify(work.folder, Target(plan.board, plan.host.partition("-")[0], 0, plan.versions)).require()
    except ModelError:
        (work.folder / MADE).unlink()
        _note(work, {name: step for name, step in done.items() if name != LIBRARY})
        raise
    (work.folder / DONE).unlink()
    atomic_files.swap(work.folder, plan.place.folder, work.folder.with_name(f"{plan.manifest.name}.old"))
