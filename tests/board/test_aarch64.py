"""The image for aarch64, with the wheels that this machine's pip resolves for it, runs and answers under emulation.

It shows nothing about speed or CUDA. Needs qemu-user-static and binfmt-support beside what test_images.py needs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from board.containers import GLIBC, PYTHON, ROOT, Containers, missing, wait
from conftest import MODELS

EMULATED = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
pytestmark = [
    pytest.mark.image,
    pytest.mark.real,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root alone may make a base and mount layers"),
    pytest.mark.skipif(not EMULATED.exists(), reason="no emulation of aarch64: update-binfmts --enable qemu-aarch64"),
]
BASE = (
    "dash,bash,coreutils,libc-bin,base-files,base-passwd,sed,grep,findutils,passwd,"
    "ca-certificates,python3,libstdc++6,libgomp1,libportaudio2"
)
"""Packages that mmdebstrap only unpacks: running their scripts would take minutes under emulation."""
HOOK = """#!/bin/sh
set -e
cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
mkdir -p "$1/tmp" "$1/proc" "$1/sys" "$1/run" "$1/root"
"""
PROCESSOR = """processor\t: {number}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
"""An Orin's Cortex-A78AE. ONNX Runtime exits where /proc/cpuinfo, which is that of the host, is not an ARM's."""


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    made = Containers(tmp_path_factory.mktemp("containers"))
    yield made
    made.clear()


def engines(folder: Path) -> None:
    """Makes the files of wheels.Dockerfile from wheels for aarch64, without running any of them."""
    environment = folder / "python/opt/venv"
    packages = environment / f"lib/python{PYTHON}/site-packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    wheel = next(folder.glob("chatapi_appliance-*.whl"))
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in GLIBC] + ["--platform=manylinux2014_aarch64"]
    options = [f"--python-version={PYTHON}", "--implementation=cp", "--only-binary=:all:", *platforms]
    pinned = f"--constraint={ROOT / 'constraints.txt'}"
    wanted = f"{wheel}[engines,torchserve,grpc]"
    subprocess.run([*pip, "install", f"--target={packages}", *options, pinned, wanted], check=True)
    wheel.unlink()
    (folder / "system").mkdir()
    (folder / "chatapi").mkdir()
    for path in packages.glob("chatapi*"):
        path.rename(folder / "chatapi" / path.name)
    shutil.rmtree(environment / "bin", ignore_errors=True)
    (environment / "bin").mkdir()
    (environment / "bin/python3").symlink_to("/usr/bin/python3")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")


@pytest.fixture(scope="module")
def image(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("aarch64")
    hook, made = folder / "hook", folder / "engines"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    containers.run(
        "mmdebstrap", "-q", "--variant=extract", "--arch=arm64", "--mode=root", f"--include={BASE}",
        f"--extract-hook={hook}", "bookworm", str(folder / "base.tar"),
    )  # fmt: skip
    containers.run("podman", "import", "--quiet", "--arch=arm64", str(folder / "base.tar"), "localhost/base")
    made.mkdir()
    engines(made)
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    build = ("buildah", "build", "--quiet", "--arch=arm64", "--pull-never", "--format=docker")
    containers.run(*build, f"--file={dockerfile}", "--tag=engines", str(made))
    containers.run(
        *build, "--file=containers/Dockerfile", "--build-arg=BASE_IMAGE=localhost/base",
        "--build-arg=ENGINES_IMAGE=localhost/engines", "--tag=chatapi", str(ROOT),
    )  # fmt: skip
    shutil.rmtree(made)
    return "localhost/chatapi"


def test_server_answers_on_aarch64(containers: Containers, image: str, tmp_path: Path) -> None:
    processors = tmp_path / "cpuinfo"
    processors.write_text("".join(PROCESSOR.format(number=number) for number in range(os.cpu_count() or 1)))
    data = tmp_path / "data"
    for name in ("smollm2-135m-instruct", "en_US-joe-medium"):
        shutil.copytree(MODELS / "models" / name, data / "models" / name)
    subprocess.run(["chown", "-R", "10001:10001", str(data)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Emulated, whisper.cpp takes minutes to warm up, so ASR is fake. Long limits: a slow engine is not stuck.
    settings = {
        "SERVER_PORT": str(port),
        "LIMITS_STEP_SECONDS": "300",
        "LIMITS_TURN_SECONDS": "300",
        "ASR_ENGINE": "fake",
    }
    containers.run(
        "podman", "run", "--detach", "--name=emulated", "--arch=arm64", "--network=host", "--read-only", "--tmpfs=/tmp",
        "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--volume={processors}:/proc/cpuinfo:ro",
        f"--volume={data}:/data", *(f"--env=CHATAPI_{name}={value}" for name, value in settings.items()), image,
    )  # fmt: skip
    wait(containers, "emulated", f"http://127.0.0.1:{port}", 300)
    assert containers.run("podman", "exec", "emulated", "uname", "-m").strip() == "aarch64"
    request = {"prompt": "What is the capital of France?", "temperature": 0, "max_tokens": 12}
    reply = httpx.post(f"http://127.0.0.1:{port}/completion", json=request, timeout=300)
    assert "Paris" in reply.json()["reply"], reply.text
