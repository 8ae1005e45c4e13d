#!/usr/bin/env python3
"""Copies the runtime files of a build image: Python with all engines, and the libraries that they load.

`gather.py FOLDER` creates FOLDER/system (libraries and the loader's configuration), FOLDER/python (interpreter and
environment) and FOLDER/chatapi, each with the paths of the image below it. Compilers, headers, static libraries and
installers are left out. It needs only Python and ldd.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PRODUCT = Path("/opt/chatapi")
FROM_THE_BASE = re.compile(r"/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|util|resolv|gcc_s|stdc\+\+))\.so[.\d]*$")
"""The C library and its parts: the base image has the same ones."""
FROM_THE_BOARD = re.compile(r"libcuda\.so|libnv(idia|rm|os|sci|cu|dla|media|sipl|tegra)|/(tegra|nvidia)/|/stubs/")
"""The driver: NVIDIA's container runtime mounts the board's own into every container."""
OPENED_LATER = ("libcudnn*", "libnvinfer*", "libnvonnxparser*", "libcublas*", "libnvrtc*", "libcufft*", "libcurand*")
"""Libraries that others open by name at run time, so no ELF header lists them."""
LEFT_BEHIND = shutil.ignore_patterns(
    "*.a", "*.h", "*.hpp", "*.cuh", "cmake", "cmake-*", "ninja", "ninja-*", "pip", "pip-*", "pip3*", "uv", "uv-*",
    "uvx", "twine", "twine-*", "Cython", "cython*", "ensurepip", "include",
)  # fmt: skip
"""Build and installation tools, by their names in an environment."""


def environments() -> list[Path]:
    """This Python's environment, and its interpreter's folder unless the base image has it."""
    home = Path(sys.base_prefix).resolve()
    return [Path(sys.prefix)] + ([] if home in (Path("/usr"), Path("/usr/local")) else [home])


def loaded(libraries: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Name and path of each dependency of the libraries, "" if the loader does not find it (glibc's ldd)."""
    for library in libraries:
        output = subprocess.run(["ldd", str(library)], check=False, capture_output=True, text=True).stdout
        for name, path in re.findall(r"^\s*(\S+) => (/\S+|not found)", output, re.MULTILINE):
            yield name, "" if path == "not found" else path


def needed(folders: list[Path]) -> tuple[set[Path], set[str]]:
    """Libraries outside `folders` that those inside need, and the names of missing ones."""
    inside = [file for folder in folders for file in folder.rglob("*.so*") if file.is_file()]
    found: set[Path] = set()
    missing: set[str] = set()
    for name, place in loaded(inside):
        if FROM_THE_BOARD.search(place or name):
            continue
        if not place:
            missing.add(name)
        elif not FROM_THE_BASE.search(place) and not any(folder in Path(place).parents for folder in folders):
            found.add(Path(place))
    # Some libraries of an environment are found only after Python has loaded another one.
    missing -= {file.name for file in inside}
    return found | _opened_later(found), missing


def _opened_later(found: set[Path]) -> set[Path]:
    """Libraries beside the `found` ones that are opened by name, and their dependencies."""
    places = {path.parent for path in found}
    more = {file for place in places for name in OPENED_LATER for file in place.glob(f"{name}.so.*")}
    for _, place in loaded(more):
        if place and not FROM_THE_BASE.search(place) and not FROM_THE_BOARD.search(place):
            more.add(Path(place))
    return more


def keep(library: Path, root: Path) -> Path:
    """Copy a library, and every link to it, below `root`. Returns its folder in the image."""
    here = library
    while here.is_symlink():
        link = root / here.relative_to("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(here.readlink())
        here = here.parent / here.readlink()
    copied = root / here.resolve().relative_to("/")
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(here, copied)
    return library.parent


def main(target: Path) -> None:
    """Copy everything into `target`. Exits with a message if chatapi is not in this image."""
    if not PRODUCT.is_dir():
        sys.exit(f"there is no {PRODUCT} in this image: it is not one that the package chatapi was built into")
    folders = environments()
    libraries, missing = needed(folders)
    places = {keep(library, target / "system") for library in libraries}
    loader = target / "system/etc/ld.so.conf.d/chatapi.conf"
    loader.parent.mkdir(parents=True, exist_ok=True)
    loader.write_text("".join(f"{place}\n" for place in sorted(places)))
    for folder in folders:
        shutil.copytree(
            folder, target / "python" / folder.relative_to("/"), symlinks=True, ignore=LEFT_BEHIND, dirs_exist_ok=True
        )
    # uv installs interpreters below /root, which other users cannot read.
    for folder in (target / "python").rglob("root"):
        folder.chmod(0o755)
    shutil.copytree(PRODUCT, target / "chatapi", symlinks=True)
    print(f"gathered {len(libraries)} libraries from {len(places)} folders")
    if missing:
        print(f"not found, and not part of the board's driver as far as known: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="folder to copy to")
    main(parser.parse_args().target)
