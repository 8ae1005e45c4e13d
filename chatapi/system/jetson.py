"""The Jetson this runs on, if it is one: read from files that Linux for Tegra and its containers have."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

CHIPS = {"tegra234": ("Orin", "sm_87"), "tegra264": ("Thor", "sm_110")}
"""Device-tree name of a chip -> its family, and its GPU as CUDA names it (CUDA GPUs list of NVIDIA)."""
CUDA_OF_L4T = {36: (12, 6), 38: (13, 0), 39: (13, 2)}
"""Major of L4T -> the CUDA that its JetPack brings."""
COPY = "run/board/device-tree"
"""Where a container finds what the device tree says of the board."""


@dataclass(frozen=True)
class JetsonBoard:
    """What a compiled model and an image have to fit."""

    model: str
    """As the device tree names it, such as "NVIDIA Jetson AGX Orin Developer Kit"."""
    chip: str
    """Such as tegra234; empty where it is not told."""
    gpu: str
    """CUDA's name of the GPU, such as sm_87; empty for a chip not in `CHIPS`."""
    l4t: tuple[int, ...]
    """Release of Linux for Tegra, such as (36, 4, 3); empty where it is not told (a container without the file)."""
    cuda: tuple[int, ...]
    """Of the toolkit that is installed, else what L4T's JetPack brings; empty where neither is known."""
    memory: int
    """Bytes, shared by CPU and GPU."""

    @property
    def family(self) -> str:
        """Such as Orin; empty for a chip not in `CHIPS`."""
        return CHIPS.get(self.chip, ("", ""))[0]


def find(root: Path = Path("/")) -> JetsonBoard | None:
    """The board whose files stand under `root`; None on any other machine."""
    # Docker hides the device tree from a container; run.sh then shows a copy.
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
    """Bytes the kernel names so in /proc/meminfo; 0 where it does not."""
    found = re.search(rf"^{key}:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def available(root: Path = Path("/")) -> int:
    """Bytes that may still be taken: MemAvailable, or less where the process's control group allows less; 0: untold.

    Of what counts as a group's memory the inactive file pages are given up first, as the kernel's memory.stat names
    them (Documentation/admin-guide/cgroup-v2.rst). Groups of version 1 are not asked.
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
    """So many bytes for people, with as many digits as mean something."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _l4t(root: Path) -> tuple[int, ...]:
    # "# R36 (release), REVISION: 4.3, GCID: ..."
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return (int(found[1]), *map(int, found[2].split("."))) if found else ()


def _cuda(root: Path, l4t: tuple[int, ...]) -> tuple[int, ...]:
    try:
        told = json.loads(_text(root / "usr/local/cuda/version.json"))["cuda"]["version"]
        return tuple(int(part) for part in told.split("."))
    except (ValueError, KeyError, TypeError):
        return CUDA_OF_L4T.get(l4t[0], ()) if l4t else ()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
