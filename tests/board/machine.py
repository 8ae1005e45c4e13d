"""A machine to boot the service on: an overlay over the files of this machine, started by systemd-nspawn.

It has the Python packages of the tests. Its disk survives a power cut, until the tests end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).parents[2]
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
INTERPRETER = f"""#!/bin/sh
# Replaces a virtual environment's Python: pip does nothing, because all packages are installed.
case "$1 $2" in "-m pip") exit 0 ;; esac
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH="$(dirname "$(readlink -f "$0")")/../..:/opt/packages"
exec {PYTHON} "$@"
"""
STATES = ("starting", "running", "degraded")
"""States of a systemd that is up."""
COMMAND = '#!/bin/sh\nexec "$(dirname "$0")/python" -m chatapi "$@"\n'
MAKER = f"""#!/bin/sh
# Replaces the Python that makes virtual environments.
case "$1 $2" in
  "-m venv") mkdir -p "$3" && cp -r /opt/template/bin "$3/" ;;
  *) LD_LIBRARY_PATH=/opt/python/lib exec {PYTHON} "$@" ;;
esac
"""


def missing() -> str:
    """Why this machine cannot boot another one; empty if it can."""
    if os.geteuid() != 0:
        return "only root can boot a machine"
    for program in ("systemd-nspawn", "nsenter", "setpriv", "useradd"):
        if shutil.which(program) is None:
            return f"there is no {program}: apt-get install systemd-container systemd-sysv dbus"
    return ""


class CommandError(Exception):
    """A command on the machine failed."""


class Machine:
    """A machine that is off until `boot`."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root = root
        self._models = models
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.init = 0
        """The host's process ID of its first process."""

    def boot(self) -> None:
        """Boots it, and waits until its systemd is up."""
        mounts = {sys.base_prefix: "python", sysconfig.get_path("purelib"): "packages", self._models: "models"}
        binds = [f"--bind-ro={path}:/opt/{name}" for path, name in mounts.items()]
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "-b", "--register=no", "--keep-unit", "--console=pipe"]
        log = (self.root.parent / "console").open("ab")
        self._nspawn = subprocess.Popen([*command, *binds], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        # The first child of nspawn only sets up the machine.
        until(lambda: self._find_init() and self.run("systemctl", "is-system-running", check=False) in STATES, 60)

    def _find_init(self) -> bool:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self.init = int(children[-1]) if children else 0
        return bool(children)

    def cut_power(self) -> None:
        """Kills everything on it at once, without a warning."""
        assert self._nspawn is not None
        # nspawn ends with the first process; if nspawn were killed, the machine would keep running.
        while self._nspawn.poll() is None:
            if self._find_init():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init, signal.SIGKILL)
            time.sleep(0.02)
        self._nspawn = None

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """The output of a command on it; raises CommandError with its standard error when it fails."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-p", "-C"]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": "/opt/template/make", "PATIENCE": "30"}
        completed = subprocess.run([*enter, *command], env=environ, capture_output=True, text=True, timeout=timeout)
        if check and completed.returncode:
            raise CommandError(completed.stderr.strip())
        return completed.stdout.strip() if check or completed.stdout.strip() else completed.stderr.strip()

    def unit_property(self, name: str) -> str:
        """A property of the service's unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "chatapi.service")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Waits for the condition; returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "timed out"
        time.sleep(0.03)
    return time.monotonic() - started


@contextmanager
def machine(models: Path) -> Iterator[Machine]:
    """A machine that is off, with the source and these models; OSError where an overlay cannot be mounted."""
    # Removed only with rmdir, because all files of this machine are visible below it.
    folder = Path(tempfile.mkdtemp(prefix="machine-"))
    layer, root = folder / "layer", folder / "root"
    layer.mkdir()
    root.mkdir()
    _mount("-t", "tmpfs", "tmpfs", layer)
    try:
        (layer / "upper").mkdir()
        (layer / "work").mkdir()
        _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work", root)
        try:
            made = Machine(root, models)
            _prepare(made)
            yield made
        finally:
            if made._nspawn is not None:
                made.cut_power()
            subprocess.run(["umount", "--lazy", root], check=True)
    finally:
        subprocess.run(["umount", "--lazy", layer], check=True)
        (folder / "console").unlink(missing_ok=True)
        for path in (root, layer, folder):
            path.rmdir()


def _mount(*words: str | Path) -> None:
    completed = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if completed.returncode:
        raise OSError(completed.stderr.strip())


def _prepare(made: Machine) -> None:
    """Prepares the disk: a bare system with the source, the packages and the models."""
    etc = made.root / "etc/systemd/system"
    for path in (*etc.glob("*.wants"), *etc.glob("chatapi*")):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (etc / "default.target").unlink(missing_ok=True)
    (etc / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for path in ("opt/python", "opt/packages", "opt/models"):
        (made.root / path).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(made.root / "opt/chatapi", ignore_errors=True)
    shutil.rmtree(made.root / "var/lib/chatapi", ignore_errors=True)
    made.write("/opt/template/make", MAKER, 0o755)
    made.write("/opt/template/bin/python", INTERPRETER, 0o755)
    made.write("/opt/template/bin/chatapi", COMMAND, 0o755)
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "tests")
    shutil.copytree(SOURCE, made.root / "opt/source", ignore=skipped)
