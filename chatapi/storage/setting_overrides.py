"""Overrides of settings, kept in the data directory: above the settings file and the environment, below `--set`."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatapi import settings
from chatapi.errors import SettingsError
from chatapi.settings import Loaded, toml
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

HEAD = "# Written by chatapi; change it with `chatapi settings set|unset`.\n"


def applied(sources: Loaded) -> Loaded:
    """The settings with the stored overrides. A damaged file is renamed, and `warnings` says so."""
    file = DataDirectory(sources.settings.data).overrides
    try:
        return settings.overlaid(sources, _checked(_read(file)))
    except SettingsError as error:
        warning = f"the overrides are ignored: {error.message}; {_set_aside(file)}"
        return replace(sources, warnings=(*sources.warnings, warning))


def preview(loaded: Loaded, changes: Mapping[str, Any]) -> Loaded:
    """The settings that `change` would return, without storing anything. Raises SettingsError naming the key."""
    return _changed(loaded, changes)[1]


def change(loaded: Loaded, changes: Mapping[str, Any]) -> Loaded:
    """Store overrides (dotted key -> value; None removes one) and return the settings with them.

    All are validated before any is stored. Raises SettingsError naming the key, StorageError.
    """
    for key in changes:
        _require_changeable(key)
    data = loaded.settings.data
    with _locked(data):
        lines, after = _changed(loaded, changes)
        with atomic_files.writing(data):
            atomic_files.write_whole(DataDirectory(data).overrides, HEAD + "".join(lines), private=True)
    return after


def _changed(loaded: Loaded, changes: Mapping[str, Any]) -> tuple[list[str], Loaded]:
    """The lines of the file after these changes, and the settings with them."""
    for key in changes:
        _require_changeable(key)
    kept = _readable(DataDirectory(loaded.settings.data).overrides)
    stored = {key: value for key, value in {**kept, **changes}.items() if value is not None}
    # An override under a --set is hidden by it, and must be valid all the same.
    below = replace(loaded, entries=tuple(entry for entry in loaded.entries if entry[2] != settings.COMMAND))
    valid = settings.overlaid(below, stored).settings
    lines = [f"{key} = {_toml(settings.at(valid, key))}\n" for key in sorted(stored)]
    return lines, settings.overlaid(loaded, stored)


def _require_changeable(key: str) -> None:
    settings.require_known(key)
    if settings.is_secret(key):
        raise SettingsError(f"{key} is a secret and cannot be overridden; set it in the file or the environment")
    if key == "data":
        raise SettingsError("data cannot be overridden: the overrides are stored in the data directory")


def _checked(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in stored:
        _require_changeable(key)
    return stored


def _read(file: Path) -> dict[str, Any]:
    """Dotted key -> value; empty without a file. Raises SettingsError for a damaged file."""
    try:
        return dict(settings.leaves(toml.loads(file.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from error


def _readable(file: Path) -> dict[str, Any]:
    """The stored overrides; a damaged file is renamed and counts as empty."""
    try:
        return dict(_checked(_read(file)))
    except SettingsError:
        _set_aside(file)
        return {}


def _set_aside(file: Path) -> str:
    """Rename a damaged file; what was done, in words."""
    try:
        return f"the file is now {private_files.move_aside(file).name}"
    except OSError as error:
        return f"the file cannot be renamed: {error.strerror or error}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(each) for each in value)}]"
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the overrides against other processes."""
    with atomic_files.writing(data):
        private_files.folder(data)
        lock = os.open(DataDirectory(data).overrides_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
