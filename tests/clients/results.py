"""What became of each feature of each program, kept as data of the documentation."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from clients.environments import command
from clients.programs import PROGRAMS, Program

SCRIPT_SECONDS = 1500
"""Time limit of a program with all its features."""
REPORT = "CLIENTS_REPORT"
"""Environment variable with the path of the data; without it nothing is kept."""


@dataclass(frozen=True)
class Result:
    """One feature of a program."""

    feature: str
    works: bool
    reason: str


def run(program: Program, environment: Mapping[str, str]) -> list[Result]:
    """Runs the script of a program and returns what it says of every feature. Raises NotInstallable."""
    words = command(program)
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=SCRIPT_SECONDS
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"feature"')]
    if not lines or done.returncode:
        raise RuntimeError(f"{program.script} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    Path(environment["CLIENTS_WORK"], f"{program.folder}.log").write_text(done.stderr)
    return [Result(**json.loads(line)) for line in lines]


def keep(program: Program, results: list[Result]) -> None:
    """Replaces the program's part of the data, and sorts the data as the table of programs is."""
    if not (path := os.environ.get(REPORT)):
        return
    file = Path(path)
    known = json.loads(file.read_text()) if file.exists() else {}
    known[program.name] = {
        "version": program.version,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "features": [
            {**asdict(result), "reason": program.fails.get(result.feature, result.reason) if not result.works else ""}
            for result in results
        ],
    }
    ordered = {each.name: known[each.name] for each in PROGRAMS if each.name in known}
    file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
