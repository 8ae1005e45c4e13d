"""`chatapi support`: writes an archive for diagnosing a fault, without secrets, speech or conversations."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from chatapi.catalog import Catalog
from chatapi.cli.health import request
from chatapi.errors import ChatapiError, NotFound, StorageError
from chatapi.observability.redaction import of_environment, of_files, of_settings, redacted
from chatapi.settings import Loaded, Settings, as_environment, at, dotted_keys
from chatapi.storage.layout import DataDirectory
from chatapi.system import jetson
from chatapi.system.version import version

LARGEST = 4 << 20
"""Largest size of a text, in bytes; of a longer one only the end is kept."""
VARIABLES = (
    "CHATAPI_", "OMP_", "OPENBLAS_", "MKL_", "CUDA_", "NVIDIA_", "HF_", "ORT_", "PULSE_", "LD_", "PYTHON",
    "LANG", "LC_", "TZ", "PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""Prefixes of environment variables that influence chatapi and its libraries."""
CHECK_SECONDS = 60
"""Longest duration of `chatapi check`, in seconds."""


def support(loaded: Loaded, output: Path | None, include: Path | None) -> int:
    """Write the archive; status 0. A text that fails is replaced by its error. Raises StorageError, NotFound."""
    local_keys = DataDirectory(loaded.settings.data).local_keys()
    secrets = {*of_settings(loaded.settings), *of_environment(), *of_files(local_keys)}
    if include is not None and not include.is_dir():
        raise NotFound(f"--include {include} is not a folder")
    target = output or Path(time.strftime("chatapi-support-%Y%m%d-%H%M%S.tar.gz"))
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # Only the owner may read the archive.
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name, text in _texts(loaded, include):
                    _add(archive, f"{target.name.removesuffix('.tar.gz')}/{name}", redacted(text, secrets))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(f"{target} cannot be written: {error.strerror}; name another file with -o") from error
    print(target)
    return 0


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode(errors="replace")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _texts(loaded: Loaded, include: Path | None) -> Iterator[tuple[str, str]]:
    """Name and text of every file of the archive."""
    settings = loaded.settings
    sources: dict[str, Callable[[], str]] = {
        "versions.json": lambda: _json(_versions()),
        "board.json": lambda: _json(None if (found := jetson.find()) is None else asdict(found)),
        "settings.json": lambda: _json(_settings(loaded)),
        "environment.json": lambda: _json(_environment()),
        "models.json": lambda: _json(_models(settings)),
        "check.json": lambda: _check(settings),
        "health.json": lambda: request(settings, "/health").text,
        "metrics.txt": lambda: request(settings, "/metrics").text,
    }
    for name, source in sources.items():
        yield name, _text_or_error(source)
    for file in sorted(include.iterdir()) if include is not None else ():
        if not file.is_file():
            continue
        if settings.log.content and "log" in file.name:
            yield file.name, "left out: log.content is on, so it may contain prompts, transcripts and answers\n"
        else:
            yield file.name, _text_or_error(lambda file=file: _end(file))  # type: ignore[misc]


def _end(file: Path) -> str:
    """Whole lines from the end of a file: a secret that is cut at its start would not be recognised."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - LARGEST))
        text = opened.read(LARGEST).decode(errors="replace")
    return text if size <= LARGEST else text.partition("\n")[2]


def _text_or_error(source: Callable[[], str]) -> str:
    try:
        return source()
    except ChatapiError as error:
        return error.message + "\n"
    except (httpx.TransportError, OSError, subprocess.SubprocessError) as error:
        return f"not available: {error}\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"


def _versions() -> dict[str, Any]:
    parts = {part.metadata["Name"]: part.version for part in importlib.metadata.distributions()}
    return {
        "chatapi": version(),
        "python": sys.version,
        "platform": platform.platform(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "packages": dict(sorted(parts.items())),
    }


def _settings(loaded: Loaded) -> dict[str, Any]:
    found = {}
    for key in dotted_keys(type(loaded.settings)):
        value = at(loaded.settings, key)
        shown = "(set)" if isinstance(value, SecretStr) else value
        found[key] = {"value": shown, "from": loaded.origins.get(key, "default")}
    return found


def _environment() -> dict[str, str]:
    """Environment variables that influence chatapi and its libraries."""
    return {
        name: redacted(f"{name}={value}").partition("=")[2]
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES)
    }


def _models(settings: Settings) -> dict[str, str]:
    catalog = Catalog(settings.data)
    return {name: "installed" if catalog.installed(name) else "not installed" for name in catalog.manifests}


def _check(settings: Settings) -> str:
    """The output of `chatapi check`, run in another process, because loading a library may crash."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHATAPI_")}
    environ |= as_environment(settings)
    command = [sys.executable, "-m", "chatapi", "check", "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    return done.stdout or done.stderr
