"""`chatapi jobs`: lists, shows, pauses, resumes, cancels and retries jobs, also while another process runs them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from contextlib import closing
from pathlib import Path

from chatapi.errors import BadInput, NotFound, WrongMode
from chatapi.jobs import JobRecord, JobStore
from chatapi.system import private_files

TIMES = ("created", "started", "ended")
"""Fields of a job that are seconds since 1970."""


def manage(data: Path, chosen: argparse.Namespace) -> int:
    """Run an action; status 0. Raises BadInput, NotFound, WrongMode, StorageError, NotReady."""
    if (chosen.job is None) != (chosen.action == "list"):
        raise BadInput("`jobs list` names no job, and every other action names one, for example `jobs show j0123`")
    if chosen.json and chosen.action not in ("list", "show"):
        raise BadInput("--json is only used by `jobs list` and `jobs show`")
    for each in private_files.moved_aside(JobStore.file(data)):
        print(f"damaged: {each} holds jobs that could not be read", file=sys.stderr)
    if not JobStore.exists(data):
        return _no_jobs(chosen)
    with closing(JobStore(data)) as store:
        if chosen.action == "list":
            return _list(store, chosen.json)
        return _act(store, _named(store, chosen.job), chosen)


def _no_jobs(chosen: argparse.Namespace) -> int:
    if chosen.job is not None:
        raise NotFound(f"there is no job {chosen.job!r}", code="unknown_job")
    print("[]" if chosen.json else "there is no job")
    return 0


def _named(store: JobStore, name: str) -> JobRecord:
    """The job of an id, or of the beginning of one. Raises NotFound, BadInput."""
    found = [job for job in store.find() if job.id.startswith(name)] if name else []
    if not found:
        raise NotFound(f"there is no job {name!r}; `chatapi jobs list` names them", code="unknown_job")
    if len(found) > 1:
        raise BadInput(f"{len(found)} jobs begin with {name!r}; write more of the id")
    return found[0]


def _act(store: JobStore, job: JobRecord, chosen: argparse.Namespace) -> int:
    if chosen.action == "show":
        _show(store, job, chosen.json)
    elif chosen.action == "log":
        sys.stdout.write(store.log(job.id).read())
    else:
        if job.command and chosen.action in ("resume", "retry"):
            raise WrongMode(f"job {job.id} runs in the foreground; resume it with: {job.command}")
        changed = getattr(store, chosen.action)(job.id)
        asked = f", and is to be {'paused' if changed.wanted == 'pause' else 'cancelled'}" if changed.wanted else ""
        print(f"{job.id} is {changed.state}{asked}", file=sys.stderr)
    return 0


def _list(store: JobStore, as_json: bool) -> int:
    jobs = store.find()
    if as_json:
        print(json.dumps([_plain(job) for job in jobs], indent=2))
        return 0
    if not jobs:
        print("there is no job")
        return 0
    lines = [("id", "kind", "about", "state", "progress", "created", "now")]
    for job in jobs:
        now = job.failure.message.splitlines()[0] if job.failure and job.failure.message else job.phrase
        lines.append((job.id, job.kind, job.subject, job.state, f"{job.progress:.0%}", _time(job.created), now))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _show(store: JobStore, job: JobRecord, as_json: bool) -> None:
    """Print a job's record and its last events."""
    events = store.events(job.id, after=max(0, job.events - 50))
    if as_json:
        shown = [dataclasses.asdict(event) for event in events]
        print(json.dumps({**_plain(job), "latest_events": shown}, indent=2))
        return
    for name, value in _plain(job).items():
        if value not in (None, "", [], (), {}):
            print(f"{name}: {_time(value) if isinstance(value, float) and name in TIMES else value}")
    for event in events:
        facts = " ".join(f"{name}={value}" for name, value in event.data.items() if value not in (None, ""))
        print(f"  {event.number:4d} {_time(event.at)} {event.type} {facts}")


def _plain(job: JobRecord) -> dict[str, object]:
    return {**dataclasses.asdict(job), "priority": job.priority.name.lower()}


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
