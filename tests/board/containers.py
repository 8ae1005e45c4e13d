"""Images and containers without a Docker engine: buildah and podman, with a temporary store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
"""apt-get install --no-install-recommends buildah podman runc netavark aardvark-dns mmdebstrap"""
PYTHON = "3.11"
"""Python's version in Debian 12, the base image of the tests."""
GLIBC = range(36, 4, -1)
"""Minor versions of glibc 2 whose wheels run on Debian 12."""

SETTINGS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{0}/graph"\nrunroot = "{0}/run"\n'


def missing() -> list[str]:
    """The tools that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Containers:
    """buildah and podman on a store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(parents=True)
        (folder / "containers.conf").write_text(SETTINGS)
        (folder / "storage.conf").write_text(STORAGE.format(folder))
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
            "TMPDIR": str(folder / "tmp"),
        }

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """The standard output of a command; fails the test, with all output, where the command fails."""
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=ROOT, env={**self.environment, **environment}
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def base(self, name: str, *more: str) -> str:
        """Makes a bare Debian 12 with Python from Debian's packages; `more` are arguments of mmdebstrap."""
        archive = self.folder / "base.tar"
        include = "--include=ca-certificates,python3"
        self.run("mmdebstrap", "-q", "--variant=minbase", "--mode=root", include, *more, "bookworm", str(archive))
        self.run("podman", "import", "--quiet", str(archive), f"localhost/{name}")
        archive.unlink()
        return f"localhost/{name}"

    def clear(self) -> None:
        """Removes the containers and the images."""
        self.run("podman", "rm", "--all", "--force", "--time", "2", check=False)
        # Layers are mounted; a store is unmounted by its own tool.
        self.run("podman", "unmount", "--all", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def wheels(folder: Path, machine: str) -> Path:
    """Downloads the wheels of chatapi's image for `machine` (x86_64, aarch64) with this Python's pip.

    So the builds need no network, and no settings of this machine's pip get into an image.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    own = next(folder.glob("chatapi_appliance-*.whl"))
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC] + [
        f"--platform=manylinux2014_{machine}"
    ]
    subprocess.run(
        [
            *pip, "download", "--dest", str(folder), "--only-binary=:all:", "--implementation=cp",
            f"--python-version={PYTHON}", *platforms, "--constraint", str(ROOT / "constraints.txt"),
            f"{own}[engines,torchserve,grpc]", "hatchling",
        ],
        check=True,
    )  # fmt: skip
    own.unlink()
    return folder


def wait(containers: Containers, name: str, url: str, seconds: float = 300) -> None:
    """Waits until the server at `url` is ready; fails the test with the container's log after a timeout."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ready", timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not ready after {seconds} s: {containers.run('podman', 'logs', name)}")
