"""Checks whether containers on a Jetson can use its GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding, Level

DEVICES = ("dev/nvhost*", "dev/nvmap", "dev/nvgpu", "dev/nvidia[0-9]*")
"""Device files of the GPU of Orin and Thor; the nvidia runtime passes them to a container (its devices.csv)."""
LIBRARIES = tuple(f"usr/lib/aarch64-linux-gnu/{folder}libcuda.so*" for folder in ("nvidia/", "tegra/", ""))
"""The driver's library: of L4T 36 and later, of older L4T, of other systems."""
REGISTER = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"


def gpu(context: CheckContext) -> Iterator[Finding]:
    """The GPU's device files and driver, and outside a container Docker's nvidia runtime."""
    if context.board is None:
        return
    level: Level = "bad" if context.needs_gpu else "note"
    missing = [
        what for what, patterns in (("device", DEVICES), ("libcuda", LIBRARIES)) if not any(map(context.glob, patterns))
    ]
    if missing and context.in_container:
        message = f"the container has no GPU (no {' and no '.join(missing)})"
        yield Finding(level, "GPU", f"{message}: start it with --runtime nvidia, as ./run.sh does")
    elif missing:
        message = f"the GPU cannot be used (no {' and no '.join(missing)})"
        yield Finding(level, "GPU", f"{message}: install NVIDIA's driver, sudo apt-get install nvidia-l4t-cuda")
    else:
        yield Finding("good", "GPU", "its devices and driver are available")
    if not context.in_container and any(map(context.glob, ("usr/bin/docker", "usr/bin/dockerd"))):
        yield from _docker(context)


def _docker(context: CheckContext) -> Iterator[Finding]:
    """The nvidia runtime in Docker's configuration, as NVIDIA's container toolkit writes it; a CDI file works too."""
    if any(map(context.glob, ("etc/cdi/nvidia*", "var/run/cdi/nvidia*"))):
        return
    text = context.text("etc/docker/daemon.json")
    try:
        runtimes = json.loads(text or "{}").get("runtimes", {})
        known = "nvidia" in runtimes
    except (ValueError, AttributeError, TypeError):
        yield Finding("note", "docker", "/etc/docker/daemon.json cannot be parsed: repair it, then " + REGISTER)
        return
    if not known:
        yield Finding("note", "docker", f"Docker has no nvidia runtime, so containers have no GPU: {REGISTER}")
