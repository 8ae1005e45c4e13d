"""Environments of the programs: virtual environments and Node packages, each of one program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from clients.programs import Program
from paths import ROOT

FOLDER = Path(os.environ.get("CLIENTS_FOLDER") or ROOT / ".venv-clients")
SCRIPTS = Path(__file__).parent / "scripts"
INSTALL_SECONDS = 1800
"""Time limit of an installation; Home Assistant is large, and machines are busy."""


class NotInstallable(Exception):
    """This machine lacks what the program needs."""


def find_python(least: tuple[int, int]) -> str:
    """A Python of at least that version: one in the path, or of pyenv. Raises NotInstallable."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [sys.executable, *(f"python3.{minor}" for minor in range(least[1], 15))]
    candidates += [str(path) for path in sorted(pyenv.glob("3.*/bin/python"))]
    check = f"import sys; sys.exit(sys.version_info[:2] < {least} or sys.version_info[:2] > (3, 14))"
    for candidate in candidates:
        if shutil.which(candidate) and subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return candidate
    raise NotInstallable(f"there is no Python {least[0]}.{least[1]} here")


def command(program: Program) -> list[str]:
    """Installs the program, if its packages changed, and returns the command of its script. Raises NotInstallable."""
    folder = FOLDER / program.folder
    wanted = json.dumps([program.packages, program.options, program.python])
    mark = folder / "installed"
    if not mark.exists() or mark.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        (_install_node if program.is_node else _install_python)(program, folder)
        mark.write_text(wanted)
    if program.is_node:
        # Node looks for packages beside the script.
        shutil.copy(SCRIPTS / "features.mjs", folder)
        shutil.copy(SCRIPTS / program.script, folder)
        return ["node", str(folder / program.script)]
    return [str(folder / "bin" / "python"), str(SCRIPTS / program.script)]


def _install_python(program: Program, folder: Path) -> None:
    _run(find_python(program.python), "-m", "venv", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, "--upgrade", "pip")
    _run(*pip, *program.options, *program.packages)


def _install_node(program: Program, folder: Path) -> None:
    if not shutil.which("npm"):
        raise NotInstallable("there is no npm here")
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    _run("npm", "install", "--prefix", str(folder), "--silent", "--no-audit", "--no-fund", *program.packages)


def _run(*words: str) -> None:
    """Runs a command; its output is part of the error when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
