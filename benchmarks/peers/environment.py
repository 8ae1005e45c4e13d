"""The Python environment of the other programs, and what a table says about the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("PEERS_FOLDER") or HERE.parents[1] / ".venv-peers")
REQUIREMENTS = HERE / "requirements.txt"
NAMED = ("piper-tts", "wyoming-piper", "onnxruntime", "faster-whisper", "ctranslate2", "pywhispercpp")
"""Packages whose versions are printed."""


def python() -> str:
    """The environment's Python; the first call installs the programs from PyPI."""
    found, installed = FOLDER / "bin/python", FOLDER / "installed"
    wanted = REQUIREMENTS.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing the other programs into {FOLDER}", flush=True)
        venv.create(FOLDER, clear=True, symlinks=True, with_pip=True)
        subprocess.run([str(found), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)], check=True)
        installed.write_text(wanted)
    return str(found)


def described(peers_python: str) -> str:
    """The machine and the versions, in Markdown."""
    code = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    versions = subprocess.run([peers_python, "-c", code, *NAMED], capture_output=True, text=True, check=True).stdout
    describe = ["git", "-C", str(HERE), "describe", "--always"]
    ours = subprocess.run(describe, capture_output=True, text=True, check=False).stdout
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {cores} cores, load {load:.1f} before, Python {platform.python_version()}"
        f"; chatapi {ours.strip()}; {versions.strip()}\n"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
