"""The model catalog: manifests, installed models, fetching, and verified files for the engines."""

from __future__ import annotations

import difflib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from chatapi.catalog import manifest
from chatapi.catalog.download import PAUSES
from chatapi.catalog.manifest import MADE, RECORD, Manifest, Source, Wheels
from chatapi.catalog.pins import Pins
from chatapi.catalog.sources import CONVERTERS, FetchProgress, Gathering, gather
from chatapi.errors import ModelError, ModelMissing, NotFound, StorageError
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory

__all__ = ["Catalog", "FetchProgress", "InstalledModel", "Manifest", "ModelCheck"]

SHIPPED = (Path(__file__).parents[1] / "manifests", Path(__file__).parents[2] / "models")
"""Where the manifests are: in an installed package, and in a checkout."""


@dataclass(frozen=True)
class InstalledModel:
    """An installed model whose files have been verified."""

    name: str
    role: str
    engine: str
    folder: Path
    files: Mapping[str, Path]
    languages: tuple[str, ...]
    """ISO 639-1 codes."""
    memory: int
    """Bytes of the loaded model."""
    quality: int
    options: Mapping[str, Any]
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file, in hex."""


@dataclass(frozen=True)
class ModelCheck:
    """A fault of an installed model."""

    file: str
    """Empty: the model as a whole."""
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}" if self.file else self.problem


@dataclass(frozen=True)
class _Installed:
    """A model's record of one file."""

    size: int
    sha256: str


def _nothing(progress: FetchProgress) -> None:
    """A progress report that is ignored."""


class Catalog:
    """The models of one data directory. Any number of processes may use it at once."""

    def __init__(self, data: Path, pauses: Sequence[float] = PAUSES) -> None:
        """A manifest of the user's own that cannot be read is ignored, and reported in `faults`."""
        self._layout = DataDirectory(data)
        self.folder, self.own = self._layout.models, self._layout.manifests
        """The user's own manifests; one with the name of a shipped manifest replaces it."""
        self.pauses = pauses
        """Seconds before each retry of a download."""
        shipped = next((folder for folder in SHIPPED if folder.is_dir()), SHIPPED[0])
        own, self.faults = manifest.load_able(self.own)
        """Name -> what is wrong with the user's own manifest of that name."""
        self.manifests: Mapping[str, Manifest] = {**manifest.load_all([shipped]), **own}

    def get(self, name: str) -> Manifest:
        """A model's manifest. Raises NotFound (unknown_model), ModelError where its manifest cannot be read."""
        if name in self.faults and name not in self.manifests:
            raise ModelError(self.faults[name])
        try:
            return self.manifests[name]
        except KeyError:
            close = self._like(name)
            hint = f"did you mean {close[0]}?" if close else "`chatapi models list` lists the models"
            raise NotFound(f"there is no model {name!r}; {hint}", code="unknown_model") from None

    def _like(self, name: str) -> list[str]:
        """Names similar to what was typed, the closest first; most often the beginning of a name is typed."""
        begun = [each for each in self.manifests if each.lower().startswith(name.lower())] if name else []
        return (
            difflib.get_close_matches(name, begun, cutoff=0)
            or difflib.get_close_matches(name, self.manifests)
            or [each for each in self.manifests if name and name in each]
        )

    def installed(self, name: str) -> bool:
        """Whether the model is installed, by its record and the sizes of its files, without reading them."""
        files = self._record(name)
        return set(files) == set(self.get(name).files) and all(
            path.is_file() and path.stat().st_size == file.size
            for path, file in ((self._place(name) / each, file) for each, file in files.items())
        )

    def ready(self, name: str) -> bool:
        """Whether an engine can use it: it is installed, or it is compiled, even if its source weights were removed."""
        if self.get(name).compile is None:
            return self.installed(name)
        return (self._layout.compiled / name / MADE).is_file()

    def open(self, name: str) -> InstalledModel:
        """The model, after verifying each of its files. Raises ModelError with the file and the command that repairs
        it.

        A compiled model is verified by its engine: the catalog's files are its source weights, and may have been
        removed.
        """
        stated = self.get(name)
        if stated.compile is not None:
            if not self.ready(name):
                message = f"the model {name} is not compiled; compile it with: {_install_command(stated)}"
                raise ModelMissing(message)
            return self._model(name)
        for finding in self.verify(name):
            message = f"the model {name}: {finding}; repair it with: {_fetch_command(name)}"
            raise ModelError(message, code="model_damaged") if self._record(name) else ModelMissing(message)
        return self._model(name)

    def choose(
        self, role: str, engine: str, name: str = "auto", memory: int | None = None, language: str | None = None
    ) -> Manifest:
        """The requested model, or for auto the best installed one that fits `memory` bytes and supports `language`.

        Raises NotFound, ModelMissing with the command that fetches what is missing, ModelError (model_too_large).
        """
        if name != "auto":
            return self._named(role, engine, name)
        able = [each for each in self.manifests.values() if (each.role, each.engine) == (role, engine)]
        matching = [each for each in able if language is None or language in each.languages]
        here = [each for each in matching if self.ready(each.name)]
        fitting = [each for each in here if memory is None or each.memory <= memory]
        if fitting:
            return max(fitting, key=lambda each: (each.quality, each.default, -each.memory))
        kind = f"{role} model for {engine}" + (f" that supports {language}" if language else "")
        if here:
            least = min(here, key=lambda each: each.memory)
            smaller = [each for each in matching if memory is not None and each.memory <= memory]
            hint = f"; a smaller one: {_install_command(_first(smaller))}" if smaller else ""
            raise ModelError(
                f"no installed {kind} fits the memory: {memory} bytes are free and the smallest, {least.name}, needs "
                f"{least.memory}{hint}",
                code="model_too_large",
            )
        if not matching:
            raise ModelMissing(f"the catalog has no {kind}")
        raise ModelMissing(f"no {kind} is installed; install one with: {_install_command(_first(matching))}")

    def fetch(self, name: str, progress: Callable[[FetchProgress], None] = _nothing) -> InstalledModel:
        """Installs or repairs a model from the first source that works; does nothing where it is installed correctly.

        May be interrupted at any moment and called again. Raises ModelError with the reason of each source,
        StorageError.
        """
        stated = self.get(name)
        with atomic_files.writing(self.folder), self._locked(name, progress):
            work = self._layout.partial_model(name)
            if not self._record(name) or self.verify(name, progress):
                gathering = Gathering(stated, work, self._pins(name), progress, self.pauses)
                self._install(gathering)
            shutil.rmtree(work, ignore_errors=True)
            return self._model(name)

    def verify(self, name: str, progress: Callable[[FetchProgress], None] = _nothing) -> list[ModelCheck]:
        """Verifies an installed model by reading all of its files; no findings: it is good."""
        record, expected = self._record(name), self._pins(name).complete(self.get(name))
        if not record:
            return [ModelCheck("", "it is not installed")]

        arrived = dict.fromkeys(expected, 0)
        whole = sum(entry.size for entry in record.values())

        def count(file: str, done: int) -> None:
            arrived[file] = done
            progress(FetchProgress(name, "verify", file, sum(arrived.values()), whole))

        def check(file: str) -> ModelCheck | None:
            path, wanted = self._place(name) / file, expected[file].sha256
            if file not in record or not path.is_file():
                return ModelCheck(file, "it is missing")
            if (size := path.stat().st_size) != record[file].size:
                return ModelCheck(file, f"it has {size} bytes, expected {record[file].size}")
            found = atomic_files.digest(path, lambda done, _: count(file, done))
            wanted = wanted or record[file].sha256
            return None if found == wanted else ModelCheck(file, f"its sha256 is {found}, expected {wanted}")

        with ThreadPoolExecutor(max_workers=4) as threads:
            return [finding for finding in threads.map(check, expected) if finding]

    def remove(self, name: str) -> bool:
        """Removes a model and its partial downloads; whether there was anything. Raises NotFound, StorageError."""
        self.get(name)
        with atomic_files.writing(self.folder), self._locked(name, _nothing):
            work = self._layout.partial_model(name)
            there = work.exists() or self._place(name).exists()
            shutil.rmtree(work, ignore_errors=True)
            if self._place(name).exists():
                work.mkdir(parents=True)
                self._place(name).rename(work / "old")
            shutil.rmtree(work, ignore_errors=True)
            return there

    def _place(self, name: str) -> Path:
        return self.folder / name

    def _pins(self, name: str) -> Pins:
        return Pins(self._layout.models_lock, name)

    def _record(self, name: str) -> Mapping[str, _Installed]:
        """The record of the installed files; empty where nothing is installed or the record is damaged."""
        try:
            files = json.loads((self._place(name) / RECORD).read_text(encoding="utf-8"))["files"]
            return {file: _Installed(int(entry["size"]), str(entry["sha256"])) for file, entry in files.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def _model(self, name: str) -> InstalledModel:
        stated, place = self.get(name), self._place(name)
        return InstalledModel(
            name, stated.role, stated.engine, place, {file: place / file for file in stated.files},
            stated.languages, stated.memory, stated.quality, stated.options,
            {file: record.sha256 for file, record in self._record(name).items()},
        )  # fmt: skip

    def _named(self, role: str, engine: str, name: str) -> Manifest:
        stated = self.get(name)
        if (stated.role, stated.engine) != (role, engine):
            raise ModelError(f"{name} is a model for {stated.role} on {stated.engine}, not for {role} on {engine}")
        if not self.ready(name):
            raise ModelMissing(f"the model {name} is not installed; install it with: {_install_command(stated)}")
        return stated

    def _install(self, gathering: Gathering) -> None:
        stated, faults = gathering.manifest, []
        for source in stated.sources:
            fault = _tried(source, gathering)
            if fault is None:
                return self._publish(gathering, source)
            faults.append(fault)
        for fault in faults:
            if isinstance(fault, StorageError):
                raise fault
        reasons = [f"{source}: {fault}" for source, fault in zip(stated.sources, faults, strict=True)]
        raise ModelError(
            f"{stated.name} could not be fetched:\n" + "\n".join(f"- {reason}" for reason in reasons) + "\nPartial "
            f"downloads are kept; when the cause is fixed, resume with: {_fetch_command(stated.name)}",
            code="model_unreachable",
        )

    def _publish(self, gathering: Gathering, source: Source) -> None:
        """Moves every ready file and the record to the model's folder at once."""
        ready, stated = gathering.ready, gathering.manifest
        for path in ready.iterdir():
            if path.name not in stated.files:
                path.unlink()
        expected = gathering.pins.complete(stated)
        record = {
            "name": stated.name,
            "fetched": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "source": str(source),
            "converter": _converters(source),
            "files": {
                name: {"size": (ready / name).stat().st_size, "sha256": file.sha256} for name, file in expected.items()
            },
        }
        atomic_files.write_whole(ready / RECORD, json.dumps(record, indent=2))
        atomic_files.swap(ready, self._place(stated.name), gathering.work / "old")

    @contextmanager
    def _locked(self, name: str, progress: Callable[[FetchProgress], None]) -> Iterator[None]:
        """Locks the model's folders among threads and processes; the lock ends with its process."""
        held = self._layout.model_lock(name)
        for folder in (held.parent, self._layout.partial_model(name).parent):
            folder.mkdir(parents=True, exist_ok=True)
        with held.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(FetchProgress(name, "wait"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _tried(source: Source, gathering: Gathering) -> ModelError | StorageError | None:
    """Fetches the model from one source; returns the error, or None."""
    try:
        gather(source, gathering)
    except (ModelError, StorageError) as fault:
        return fault
    return None


def _fetch_command(name: str) -> str:
    """The command that installs or repairs a model."""
    return f"chatapi models fetch {name}"


def _install_command(stated: Manifest) -> str:
    """The command after which an engine can use the model; compiling fetches too."""
    return _fetch_command(stated.name) if stated.compile is None else f"chatapi compile {stated.name}"


def _first(manifests: Sequence[Manifest]) -> Manifest:
    """The model to suggest first: a default, else the smallest."""
    return min(manifests, key=lambda each: (not each.default, each.size))


def _converters(source: Source) -> int | list[int] | None:
    """The versions of the converters of a source's files."""
    found = [CONVERTERS[each.kind] for each in source.convert] if isinstance(source, Wheels) else []
    return found[0] if len(found) == 1 else found or None
