"""The usage of run.sh and of the other scripts: asking for help, or a mistake, never does anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatapi.cli import COMMANDS
from paths import ROOT

HARMLESS = ("bash", "cat", "cut", "dirname", "env", "grep", "head", "id", "sed", "sh", "tail", "tr", "uname")
"""Programs that only read."""
RECORDED = (
    "apt-get", "dpkg-query", "docker", "podman", "buildah", "systemctl", "journalctl", "flock", "useradd", "userdel",
    "usermod", "tar", "rm", "mkdir", "ln", "mv", "install", "python", "python3", "python3.10", "python3.11",
    "python3.12", "python3.13", "python3.14", "pip", "uv", "npm", "curl", "wget", "git", "jetson-containers", "mktemp",
    "chown", "sync", "setpriv",
)  # fmt: skip
"""Programs that do something: each only records that it was called."""
OF_SCRIPT = ("install", "update", "uninstall", "status", "logs", "build", "test", "lint", "fix", "docs", "fuzz", "soak",
             "set-up")  # fmt: skip
ALL = (*COMMANDS, *OF_SCRIPT)


class Checkout:
    """A copy of the scripts without an environment, on a machine whose programs only record that they were called."""

    def __init__(self, folder: Path) -> None:
        self.root, self._record, programs = folder / "chatapi", folder / "record", folder / "bin"
        for name in ("systemd", "containers", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ("run.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        programs.mkdir()
        for name in HARMLESS:
            (programs / name).symlink_to(shutil.which(name) or "")
        for name in RECORDED:
            (programs / name).write_text(f'#!/bin/bash\necho "{name} $*" >>{self._record}\nexit 1\n')
            (programs / name).chmod(0o755)
        self._environ = {"PATH": str(programs), "HOME": str(folder), "TEGRA_RELEASE": str(folder / "release")}
        self._before = self._files()

    def run(self, *words: str, script: str = "run.sh", **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs a script, and checks that it has done nothing."""
        done = subprocess.run(
            [self.root / script, *words], env={**self._environ, **environ}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not self._record.exists(), self._record.read_text()
        assert self._files() == self._before
        return done

    def _files(self) -> list[Path]:
        return sorted(self.root.rglob("*"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


def test_programs_of_the_checkout_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="python"):
        Checkout(tmp_path).run("lint")


@pytest.mark.parametrize("mode", ["venv", "container"])
@pytest.mark.parametrize("command", ALL)
def test_help_of_a_command_shows_its_usage_and_does_nothing(checkout: Checkout, command: str, mode: str) -> None:
    for words in ([command, "--help"], [command, "-h"], ["--set", "a.b=c", command, "x", "-h", "--", "y"]):
        done = checkout.run(*words, RUN_IN=mode)
        assert done.returncode == 0 and done.stdout.startswith(f"usage: ./run.sh {command}"), done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--set", "a.b=c", "--help"]])
def test_help_lists_every_command(checkout: Checkout, words: list[str]) -> None:
    shown = checkout.run(*words).stdout
    assert sorted(line.split()[0] for line in shown.splitlines() if line.startswith("  ")) == sorted(ALL)
    for command, (_, description, _) in COMMANDS.items():
        assert f"  {command:<11} {description}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["instal"], "there is no command instal"),
        (["--instal"], "there is no option --instal"),
        (["install", "--dry-run"], "install takes no arguments"),
        (["install", "here"], "install takes no arguments"),
        (["uninstall", "--purge-all"], "uninstall takes nothing but --purge"),
        (["uninstall", "--purge", "now"], "uninstall takes nothing but --purge"),
        (["update", "--check"], "update takes at most the name of an image"),
        (["update", "one", "two"], "update takes at most the name of an image"),
        (["status", "-x"], "status takes no arguments"),
        (["build", "cpu"], "build takes no arguments"),
        (["lint", "--fix"], "lint takes no arguments"),
        (["fix", "file.py"], "fix takes no arguments"),
        (["docs", "serve"], "docs takes no arguments"),
    ],
)
def test_mistake_is_an_error_and_no_action(checkout: Checkout, words: list[str], message: str) -> None:
    done = checkout.run(*words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_version_needs_no_environment(checkout: Checkout) -> None:
    assert checkout.run("--version").stdout.startswith("chatapi ")


@pytest.mark.parametrize(
    ("script", "word", "status"),
    [
        ("docs/generate.py", "--nothing", 2),
        ("containers/gather.py", "--help", 0),
        ("containers/gather.py", "--nothing", 2),
        ("containers/monitoring/dashboard.py", "--help", 0),
        ("containers/monitoring/dashboard.py", "--nothing", 2),
    ],
)
def test_scripts_in_python_show_their_usage(script: str, word: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script, word], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status and "usage:" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "words", "status", "shown"),
    [
        ("containers/build.sh", ["--help"], 0, "containers/build.sh cpu"),
        ("containers/build.sh", ["cpu", "-h"], 0, "containers/build.sh cpu"),
        ("containers/build.sh", ["cuda", "--help"], 0, "containers/build.sh cuda"),
        ("containers/build.sh", ["arm"], 1, "the target must be cpu"),
        ("containers/build.sh", ["cpu", "--push"], 1, "takes one target"),
        (".ci/run", ["--help"], 0, "usage: .ci/run"),
        (".ci/run", ["fast"], 2, "usage: .ci/run"),
    ],
)
def test_other_scripts_show_their_usage(
    checkout: Checkout, script: str, words: list[str], status: int, shown: str
) -> None:
    done = checkout.run(*words, script=script)
    assert done.returncode == status and shown in done.stdout + done.stderr
