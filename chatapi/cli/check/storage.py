"""The data directory: whether it can be written, has room, outlives the container, and is fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.storage.atomic_files import RESERVE
from chatapi.system import private_files

ROOM = 1 << 30
"""Bytes: less is too little for the next model."""
FILES = 1000
"""Files that a fetched model, certificates and conversations may need, several times over."""


def data(scene: CheckContext) -> Iterator[Finding]:
    """It is made where it is not there, as every other command would do."""
    folder = scene.settings.data
    try:
        private_files.folder(folder)
        found = os.statvfs(folder)
    except OSError as error:
        yield Finding("bad", "data", f"{folder} cannot be used: {error.strerror}; set data or CHATAPI_DATA")
        return
    if found.f_flag & os.ST_RDONLY:
        told = f"{folder} is on a file system that may only be read: mount it for writing, or set CHATAPI_DATA"
        yield Finding("bad", "data", told)
    elif not os.access(folder, os.W_OK | os.X_OK):
        told = f"{folder} cannot be written by this user: sudo chown -R {os.getuid()} {folder}, or set CHATAPI_DATA"
        yield Finding("bad", "data", told)
    else:
        yield from _room(folder, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)
    yield from _kept(scene)


def _room(folder: Path, free: int, files: int | None) -> Iterator[Finding]:
    told, more = f"{folder}, {free / 1e9:.1f} GB free", "make room, for example with `chatapi models remove NAME`"
    level: Level = "bad" if free < RESERVE else "note" if free < ROOM else "good"
    yield Finding(level, "data", told if level == "good" else f"{told}: {more}")
    # File systems that make room for files as they come tell no number, or 0 of 0.
    if files is not None and files < FILES:
        told = f"only {files} more files can be made where {folder} is, though there may be room: delete files there"
        yield Finding("bad" if files == 0 else "note", "data", told)


def _kept(scene: CheckContext) -> Iterator[Finding]:
    folder = scene.settings.data
    if scene.in_container and folder.stat().st_dev == scene.root.stat().st_dev:
        told = f"{folder} is inside the container, and models and conversations will go with it"
        yield Finding("note", "data", f"{told}: mount a volume there, docker run -v /var/lib/chatapi:{folder}")


def kind(scene: CheckContext) -> Iterator[Finding]:
    """SD cards are told by their driver: sys/dev/block/MAJOR:MINOR leads to the disk or a partition of it, and the
    card's own `type` is SD or MMC (Linux, drivers/mmc/core/bus.c)."""
    try:
        device = scene.settings.data.stat().st_dev
    except OSError:
        return
    place = scene.root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    card = [scene.text(str(each / "device/type")) for each in (place.resolve(), place.resolve().parent)]
    if "SD" in card:
        told = f"{scene.settings.data} is on an SD card, from which large models take a minute or more to load"
        yield Finding("note", "data", f"{told}: an NVMe drive is ten times as fast and lasts longer")
