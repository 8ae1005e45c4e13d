"""Memory of a server and its child processes by kind, from /proc/PID/smaps (Linux, proc(5)).

python benchmarks/held_memory.py PID [--models FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections import Counter
from pathlib import Path

import psutil

from chatapi.storage.layout import DataDirectory

MODELS = Path.home() / ".local/share/chatapi/models"
HEADER = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")
"""The first line of a mapping: its addresses, permissions, offset, device, inode and path."""
PREPARED = f"/{DataDirectory(MODELS).prepared.name}/"
"""In the paths of the graphs that chatapi made of model files."""
MODEL_KIND = "mapped model files"
"""The kind that does not count as held: the system may drop these pages at any time."""


def by_kind(pid: int, models: Path = MODELS) -> Counter[str]:
    """Proportional set size (PSS) of a process and its descendants in bytes, by kind of mapping."""
    found: Counter[str] = Counter()
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            found += _of_process(process.pid, models.resolve())
    return found


def _of_process(pid: int, models: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    kind = "anonymous"
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if header := HEADER.fullmatch(line):
            kind = _kind(header[1], models)
        elif line.startswith("Pss:"):
            found[kind] += int(line.split()[1]) << 10
    return found


def _kind(path: str, models: Path) -> str:
    if path.startswith(str(models)) or PREPARED in path:
        return MODEL_KIND
    if path == "[heap]":
        return "heap"
    if ".so" in path:
        return "libraries"
    return "other files" if path.startswith("/") else "anonymous"


def held(pid: int, models: Path = MODELS) -> int:
    """PSS of a process and its descendants without mapped model files, in bytes."""
    kinds = by_kind(pid, models)
    return sum(kinds.values()) - kinds[MODEL_KIND]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pid", type=int)
    parser.add_argument("--models", type=Path, default=MODELS)
    chosen = parser.parse_args()
    for name, size in by_kind(chosen.pid, chosen.models).most_common():
        print(f"{name:<20} {size / 1e6:7.1f} MB")
