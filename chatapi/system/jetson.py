"""Detection of the Jetson board, from files of Linux for Tegra and its containers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

CHIPS = {"tegra234": ("Orin", "sm_87"), "tegra264": ("Thor", "sm_110")}
"""Device-tree name of a chip -> its family, and CUDA's name of its GPU (NVIDIA's list of CUDA GPUs)."""
CUDA_OF_L4T = {36: (12, 6), 38: (13, 0), 39: (13, 2)}
"""Major version of L4T -> the CUDA version of its JetPack."""
ALLOCATOR_FAULT, ALLOCATOR_FIXED = (36, 4, 7), (36, 5)
"""Releases of L4T from and before which large allocations of CUDA fail, from about 3 GB on, although memory is free: a
security fix in NvMap rejects them. Fixed issue 5602402 of the release notes of Jetson Linux 36.5."""
COPY = "run/board/device-tree"
"""Path of the copy of the device tree in a container."""


@dataclass(frozen=True)
class JetsonBoard:
    """The properties of a board that a compiled model and an image must match."""

    model: str
    """Model name in the device tree, such as "NVIDIA Jetson AGX Orin Developer Kit"."""
    chip: str
    """Chip, such as tegra234; empty: unknown."""
    gpu: str
    """CUDA's name of the GPU, such as sm_87; empty for a chip not in `CHIPS`."""
    l4t: tuple[int, ...]
    """Release of Linux for Tegra, such as (36, 4, 3); empty: unknown (a container without the file)."""
    cuda: tuple[int, ...]
    """CUDA version of the installed toolkit, else that of L4T's JetPack; empty: unknown."""
    memory: int
    """Memory shared by CPU and GPU, in bytes."""

    @property
    def family(self) -> str:
        """Family of the chip, such as Orin; empty for a chip not in `CHIPS`."""
        return CHIPS.get(self.chip, ("", ""))[0]

    @property
    def fault(self) -> str:
        """A known fault of the board's L4T with its remedy; empty: none."""
        if not ALLOCATOR_FAULT <= self.l4t < ALLOCATOR_FIXED:
            return ""
        release = ".".join(map(str, self.l4t))
        return (
            f"L4T r{release} fails to allocate large blocks of GPU memory (NvMapMemAllocInternalTagged, error 12), so "
            "that models of more than about 3 GB may not load: update to r36.5 (JetPack 6.2.2): write r36.5 for r36.4 "
            "in /etc/apt/sources.list.d/nvidia-l4t-apt-source.list, then sudo apt update, sudo apt dist-upgrade, and "
            "restart; until then a smaller model loads"
        )


def find(root: Path = Path("/")) -> JetsonBoard | None:
    """The board whose files are under `root`; None on any other machine."""
    # Docker hides the device tree from a container; run.sh mounts a copy.
    tree = next((place for place in (root / "proc/device-tree", root / COPY) if (place / "compatible").exists()), root)
    compatible = _text(tree / "compatible").split("\0")
    chip = next((name.partition(",")[2] for name in compatible if name.startswith("nvidia,tegra")), "")
    l4t = _l4t(root)
    if not chip and not l4t:
        return None
    model = _text(tree / "model").strip("\0 \n") or "NVIDIA Jetson"
    gpu = CHIPS.get(chip, ("", ""))[1]
    return JetsonBoard(model, chip, gpu, l4t, _cuda(root, l4t), meminfo(root, "MemTotal"))


def meminfo(root: Path = Path("/"), key: str = "MemAvailable") -> int:
    """An entry of /proc/meminfo, in bytes; 0 if it is missing."""
    found = re.search(rf"^{key}:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def available(root: Path = Path("/")) -> int:
    """Available memory in bytes: MemAvailable, or less if the process's control group allows less; 0: unknown.

    The inactive file pages of a control group count as available, because the kernel reclaims them first (inactive_file
    in memory.stat, Documentation/admin-guide/cgroup-v2.rst). Version 1 control groups are ignored.
    """
    least = meminfo(root)
    top = root / "sys/fs/cgroup"
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    group = top / (own[1] if own else "")
    for each in (group, *group.parents):
        limit, used = _text(each / "memory.max").strip(), _text(each / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            found = re.search(r"^inactive_file (\d+)$", _text(each / "memory.stat"), re.MULTILINE)
            least = min(least, max(0, int(limit) - int(used) + (int(found[1]) if found else 0)))
        if each == top:
            break
    return least


def gigabytes(size: float) -> str:
    """A size in bytes as text for people, in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _l4t(root: Path) -> tuple[int, ...]:
    # "# R36 (release), REVISION: 4.3, GCID: ..."
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return (int(found[1]), *map(int, found[2].split("."))) if found else ()


def _cuda(root: Path, l4t: tuple[int, ...]) -> tuple[int, ...]:
    try:
        version = json.loads(_text(root / "usr/local/cuda/version.json"))["cuda"]["version"]
        return tuple(int(part) for part in version.split("."))
    except (ValueError, KeyError, TypeError):
        return CUDA_OF_L4T.get(l4t[0], ()) if l4t else ()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
