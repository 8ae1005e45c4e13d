"""Whether containers on a Jetson are given its GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding, Level

DEVICES = ("dev/nvhost*", "dev/nvmap", "dev/nvgpu", "dev/nvidia[0-9]*")
"""The GPU's, of Orin and of Thor; the nvidia runtime hands them to a container (its devices.csv)."""
LIBRARIES = tuple(f"usr/lib/aarch64-linux-gnu/{folder}libcuda.so*" for folder in ("nvidia/", "tegra/", ""))
"""Where L4T 36 and later, L4T before it, and everybody else have the driver's library."""
REGISTER = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"


def gpu(scene: CheckContext) -> Iterator[Finding]:
    """Inside a container: what the nvidia runtime gives. Outside: whether Docker has that runtime."""
    if scene.board is None:
        return
    level: Level = "bad" if scene.needs_gpu else "note"
    missing = [
        what for what, patterns in (("device", DEVICES), ("libcuda", LIBRARIES)) if not any(map(scene.glob, patterns))
    ]
    if missing and scene.in_container:
        told = f"the container was given no GPU (no {' and no '.join(missing)} is there)"
        yield Finding(level, "GPU", f"{told}: start it with --runtime nvidia, as ./run.sh does")
    elif missing:
        told = f"the GPU cannot be used (no {' and no '.join(missing)} is there)"
        yield Finding(level, "GPU", f"{told}: install NVIDIA's driver, sudo apt-get install nvidia-l4t-cuda")
    else:
        yield Finding("good", "GPU", "its devices and driver are there")
    if not scene.in_container and any(map(scene.glob, ("usr/bin/docker", "usr/bin/dockerd"))):
        yield from _docker(scene)


def _docker(scene: CheckContext) -> Iterator[Finding]:
    """`runtimes` in Docker's configuration, as NVIDIA's container toolkit writes it; a CDI file would do as well."""
    if any(map(scene.glob, ("etc/cdi/nvidia*", "var/run/cdi/nvidia*"))):
        return
    text = scene.text("etc/docker/daemon.json")
    try:
        runtimes = json.loads(text or "{}").get("runtimes", {})
        known = "nvidia" in runtimes
    except (ValueError, AttributeError, TypeError):
        yield Finding(
            "note", "docker", "/etc/docker/daemon.json is not what Docker can read: mend it, then " + REGISTER
        )
        return
    if not known:
        yield Finding("note", "docker", f"Docker has no nvidia runtime, containers will see no GPU: {REGISTER}")
