"""A machine of its own to boot the service on: this one's files behind an overlay, started by systemd-nspawn.

The packages are those that the tests run with. What it writes is kept until the end, so that its power can be cut.
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
# In the place of a virtual environment's Python: pip has nothing to do, all packages are at hand.
case "$1 $2" in "-m pip") exit 0 ;; esac
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH="$(dirname "$(readlink -f "$0")")/../..:/opt/packages"
exec {PYTHON} "$@"
"""
STATES = ("starting", "running", "degraded")
"""What a systemd that answers says of itself."""
COMMAND = '#!/bin/sh\nexec "$(dirname "$0")/python" -m chatapi "$@"\n'
MAKER = f"""#!/bin/sh
# In the place of the Python that makes virtual environments.
case "$1 $2" in
  "-m venv") mkdir -p "$3" && cp -r /opt/template/bin "$3/" ;;
  *) LD_LIBRARY_PATH=/opt/python/lib exec {PYTHON} "$@" ;;
esac
"""


def missing() -> str:
    """What keeps this machine from starting another one; empty: nothing."""
    if os.geteuid() != 0:
        return "only root can boot a machine"
    for program in ("systemd-nspawn", "nsenter", "setpriv", "useradd"):
        if shutil.which(program) is None:
            return f"there is no {program}: apt-get install systemd-container systemd-sysv dbus"
    return ""


class RefusedError(Exception):
    """A command on the machine failed."""


class Machine:
    """Is off until `boot`."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root = root
        self._models = models
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.init = 0
        """Its first process, as seen from here."""

    def boot(self) -> None:
        """Until its systemd answers."""
        shown = {sys.base_prefix: "python", sysconfig.get_path("purelib"): "packages", self._models: "models"}
        binds = [f"--bind-ro={place}:/opt/{name}" for place, name in shown.items()]
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "-b", "--register=no", "--keep-unit", "--console=pipe"]
        log = (self.root.parent / "console").open("ab")
        self._nspawn = subprocess.Popen([*command, *binds], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        # The first child of nspawn only makes the machine.
        until(lambda: self._find_init() and self.run("systemctl", "is-system-running", check=False) in STATES, 60)

    def _find_init(self) -> bool:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self.init = int(children[-1]) if children else 0
        return bool(children)

    def cut_power(self) -> None:
        """Everything on it ends at once, and nothing is told before."""
        assert self._nspawn is not None
        # Without its first process nspawn ends; killed itself, it would leave the machine running.
        while self._nspawn.poll() is None:
            if self._find_init():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init, signal.SIGKILL)
            time.sleep(0.02)
        self._nspawn = None

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command on it says; RefusedError when it fails, with what it said of that."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-p", "-C"]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": "/opt/template/make", "PATIENCE": "30"}
        done = subprocess.run([*enter, *command], env=environ, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise RefusedError(done.stderr.strip())
        return done.stdout.strip() if check or done.stdout.strip() else done.stderr.strip()

    def shown(self, name: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "chatapi.service")

    def write(self, place: str, text: str, mode: int = 0o644) -> None:
        file = self.root / place.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for it; the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it did not come"
        time.sleep(0.03)
    return time.monotonic() - begun


@contextmanager
def machine(models: Path) -> Iterator[Machine]:
    """One that is off, with the source and these models; OSError where this machine's files cannot be overlaid."""
    # A folder that only an empty one's removal removes, because all files of this machine are seen below it.
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
            _furnish(made)
            yield made
        finally:
            if made._nspawn is not None:
                made.cut_power()
            subprocess.run(["umount", "--lazy", root], check=True)
    finally:
        subprocess.run(["umount", "--lazy", layer], check=True)
        (folder / "console").unlink(missing_ok=True)
        for place in (root, layer, folder):
            place.rmdir()


def _mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())


def _furnish(made: Machine) -> None:
    """Nothing starts there but what a bare machine starts."""
    etc = made.root / "etc/systemd/system"
    for place in (*etc.glob("*.wants"), *etc.glob("chatapi*")):
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    (etc / "default.target").unlink(missing_ok=True)
    (etc / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for place in ("opt/python", "opt/packages", "opt/models"):
        (made.root / place).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(made.root / "opt/chatapi", ignore_errors=True)
    shutil.rmtree(made.root / "var/lib/chatapi", ignore_errors=True)
    made.write("/opt/template/make", MAKER, 0o755)
    made.write("/opt/template/bin/python", INTERPRETER, 0o755)
    made.write("/opt/template/bin/chatapi", COMMAND, 0o755)
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "tests")
    shutil.copytree(SOURCE, made.root / "opt/source", ignore=skipped)
