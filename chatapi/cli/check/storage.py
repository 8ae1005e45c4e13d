"""Checks the data directory: access, free space, persistence in a container, and speed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.errors import ChatapiError
from chatapi.storage.atomic_files import RESERVE
from chatapi.system import private_files

ROOM = 1 << 30
"""Free space below which the next model may not fit, in bytes."""
FILES = 1000
"""Free inodes below which there may be too few; a model, certificates and conversations need far fewer."""


def data(context: CheckContext) -> Iterator[Finding]:
    """The data directory; it is created if it is missing, as by every other command."""
    folder = context.settings.data
    try:
        private_files.folder(folder)
        found = os.statvfs(folder)
    except OSError as error:
        yield Finding("bad", "data", f"{folder} cannot be used: {error.strerror}; set data or CHATAPI_DATA")
        return
    if found.f_flag & os.ST_RDONLY:
        message = f"{folder} is on a read-only file system: mount it for writing, or set CHATAPI_DATA"
        yield Finding("bad", "data", message)
    elif not os.access(folder, os.W_OK | os.X_OK):
        message = f"this user cannot write {folder}: sudo chown -R {os.getuid()} {folder}, or set CHATAPI_DATA"
        yield Finding("bad", "data", message)
    else:
        yield from _free_space(folder, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)
    yield from _persistent(context)


def _free_space(folder: Path, free: int, files: int | None) -> Iterator[Finding]:
    message, remedy = f"{folder}, {free / 1e9:.1f} GB free", "free space, for example with `chatapi models remove NAME`"
    level: Level = "bad" if free < RESERVE else "note" if free < ROOM else "good"
    yield Finding(level, "data", message if level == "good" else f"{message}: {remedy}")
    # File systems with dynamic inodes report no number, or 0 of 0.
    if files is not None and files < FILES:
        message = f"only {files} more files can be created on the file system of {folder}: delete files there"
        yield Finding("bad" if files == 0 else "note", "data", message)


def _persistent(context: CheckContext) -> Iterator[Finding]:
    folder = context.settings.data
    if context.in_container and folder.stat().st_dev == context.root.stat().st_dev:
        message = f"{folder} is inside the container: models and conversations are lost when it is removed"
        yield Finding("note", "data", f"{message}; mount a volume there, docker run -v /var/lib/chatapi:{folder}")


def kind(context: CheckContext) -> Iterator[Finding]:
    """Whether the disk is an SD card: sys/dev/block/MAJOR:MINOR leads to the disk or a partition of it, and the card's
    `type` is SD or MMC (Linux, drivers/mmc/core/bus.c)."""
    try:
        device = context.settings.data.stat().st_dev
    except OSError:
        return
    place = context.root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    card = [context.text(str(each / "device/type")) for each in (place.resolve(), place.resolve().parent)]
    if "SD" in card:
        message = f"{context.settings.data} is on an SD card, from which large models take a minute or more to load"
        yield Finding("note", "data", f"{message}: an NVMe drive is ten times as fast and lasts longer")


def artifacts(context: CheckContext) -> Iterator[Finding]:
    """Whether the artifact store, if there is one, takes, returns and deletes a file."""
    url = context.settings.storage.artifacts
    if not url:
        return
    try:
        # Imported here, because only an artifact store needs its library.
        from chatapi.storage.artifact_store import ArtifactStore

        ArtifactStore(url).check()
    except ImportError:
        remedy = "pip install 'chatapi-appliance[object_store]'"
        yield Finding("bad", "artifacts", f"storage.artifacts needs a library that is not installed: {remedy}")
    except ChatapiError as error:
        yield Finding("bad", "artifacts", error.message)
    else:
        yield Finding("good", "artifacts", f"{url} takes, returns and deletes files")
