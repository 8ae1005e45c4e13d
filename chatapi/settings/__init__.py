"""The settings: one typed, frozen tree, read once at start and passed down.

Later sources override earlier ones: defaults, `chatapi.toml`, environment, overrides (`storage.setting_overrides`),
command line. An unknown key is an error. Plug-ins add tables (`plugins`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from chatapi.errors import SettingsError, describe_validation_error
from chatapi.settings import plugins, toml
from chatapi.settings.engines import (
    CoquiSettings,
    CTranslate2Settings,
    LlamaCppSettings,
    MlcSettings,
    OnnxSettings,
    OpenAIUpstreamSettings,
    PiperSettings,
    WhisperCppSettings,
)
from chatapi.settings.network import (
    AsrWebserviceSettings,
    ServerSettings,
    Table,
    TorchServeSettings,
    WyomingSettings,
)
from chatapi.settings.plugins import dotted_keys
from chatapi.settings.roles import (
    SYSTEM,
    AsrSettings,
    CommandSettings,
    LlmSettings,
    RoleSettings,
    SoundDetectorSettings,
    SpeakerSettings,
    TtsSettings,
    TurnDetectionSettings,
    VadSettings,
    VoiceConverterSettings,
    WakeWordSettings,
    WordEncoderSettings,
    WorkerKind,
)
from chatapi.settings.tables import (
    AudioDeviceSettings,
    FakeEngineSettings,
    HistorySettings,
    LimitSettings,
    LiveSettings,
    LogSettings,
    Settings,
    TraceSettings,
)

__all__ = [
    "COMMAND",
    "CONFIG",
    "DATA",
    "ENVIRONMENT",
    "OVERRIDE",
    "SYSTEM",
    "AsrSettings",
    "AsrWebserviceSettings",
    "AudioDeviceSettings",
    "CTranslate2Settings",
    "CommandSettings",
    "CoquiSettings",
    "FakeEngineSettings",
    "HistorySettings",
    "LimitSettings",
    "LiveSettings",
    "LlamaCppSettings",
    "LlmSettings",
    "Loaded",
    "LogSettings",
    "MlcSettings",
    "OnnxSettings",
    "OpenAIUpstreamSettings",
    "PiperSettings",
    "RoleSettings",
    "ServerSettings",
    "Settings",
    "SoundDetectorSettings",
    "SpeakerSettings",
    "Table",
    "TorchServeSettings",
    "TraceSettings",
    "TtsSettings",
    "TurnDetectionSettings",
    "VadSettings",
    "VoiceConverterSettings",
    "WakeWordSettings",
    "WhisperCppSettings",
    "WordEncoderSettings",
    "WorkerKind",
    "WyomingSettings",
    "as_environment",
    "at",
    "dotted_keys",
    "field_of",
    "given",
    "is_live",
    "is_secret",
    "leaves",
    "load",
    "overlaid",
    "replaced",
    "require_known",
    "typed",
]

ENVIRONMENT = "CHATAPI_"
RENAMED = {
    "mic": "audio_device",
    "turn": "turn_detection",
    "wake": "wake_word",
    "echo": "fake",
    "live.sure_ms": "live.min_endpointing_delay_ms",
    "live.unsure_ms": "live.max_endpointing_delay_ms",
    "live.interrupt_ms": "live.min_interruption_ms",
    "llm.system": "llm.system_prompt",
}
"""Old table or key -> its new name; the error for an old key names the new one."""
CLIENT = ("CHATAPI_URL", "CHATAPI_API_KEY")
"""Environment variables that only `chatapi.client` reads."""
OVERRIDE, COMMAND = "override", "command line"
"""Origins of a setting that an override, or `--set`, set."""
DATA, CONFIG = "CHATAPI_DATA", "CHATAPI_CONFIG"
"""Environment variables with the path of the data directory and of the settings file."""


@dataclass(frozen=True)
class Loaded:
    """The settings, and the source of each."""

    settings: Settings
    origins: Mapping[str, str]
    """Dotted key -> the source that set it; a missing key has its default."""
    entries: tuple[tuple[str, Any, str], ...] = ()
    """Key, value and origin of everything that the sources say, overrides left out; later entries win."""
    warnings: tuple[str, ...] = ()
    """Faults of the sources with which chatapi still starts, in sentences."""


def load(overrides: Sequence[str] = (), file: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read all sources. `overrides` are `key.path=value`. Raises SettingsError naming the key and its source."""
    environ = os.environ if environ is None else environ
    entries = (*_from_file(file, environ), *_from_environment(environ), *_from_command(overrides))
    return Loaded(*_built(entries), entries)


def overlaid(loaded: Loaded, stored: Mapping[str, Any]) -> Loaded:
    """The same sources with these overrides: dotted key -> value. Raises SettingsError naming the key."""
    below = [entry for entry in loaded.entries if entry[2] != COMMAND]
    between = [(key, value, OVERRIDE) for key, value in stored.items()]
    above = [entry for entry in loaded.entries if entry[2] == COMMAND]
    settings, origins = _built([*below, *between, *above])
    return replace(loaded, settings=settings, origins=origins)


def given(settings: Settings) -> Loaded:
    """Settings whose sources are not known, as if a file had set all that differ from the defaults."""
    tree = type(settings)()
    changed = [key for key in dotted_keys(type(settings)) if at(settings, key) != at(tree, key)]
    origins = dict.fromkeys(changed, "settings")
    return Loaded(settings, origins, tuple((key, at(settings, key), "settings") for key in changed))


def _built(entries: Iterable[tuple[str, Any, str]]) -> tuple[Settings, dict[str, str]]:
    """The settings and the origin of each."""
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, value, origin in entries:
        # A plug-in that cannot be imported must not stop the box; `chatapi check` and the log report it.
        if key.partition(".")[0] not in plugins.tables().unreadable:
            _put(tree, key, value, origin)
            origins[key] = origin
    try:
        return plugins.tables().tree.model_validate(tree), origins
    except ValidationError as error:
        raise SettingsError(_explained(error, origins)) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings that differ from the defaults, as environment variables for another process."""
    found, defaults = {}, type(settings)()
    for key in dotted_keys(type(settings)):
        value, default = (at(tree, key) for tree in (settings, defaults))
        if value != default and value is not None:
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            name = ENVIRONMENT + key.replace(".", "_").upper()
            found[name] = ",".join(plain) if isinstance(plain, tuple) else str(plain)
    return found


def at(tree: Any, key: str) -> Any:
    """The value of a dotted key."""
    for step in key.split("."):
        tree = getattr(tree, step)
    return tree


def _from_file(file: Path | None, environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    chosen = file or (Path(environ[CONFIG]) if environ.get(CONFIG) else None)
    path = chosen or Path("chatapi.toml")
    try:
        tree = toml.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if chosen is not None:
            raise SettingsError(f"there is no settings file {path}") from None
        return
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    yield from ((key, value, str(path)) for key, value in leaves(tree))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested tables."""
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Settings from variables such as CHATAPI_SERVER_PORT for server.port; an underscore replaces each dot."""
    names = {ENVIRONMENT + key.replace(".", "_").upper(): key for key in dotted_keys()}
    for name, value in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT) or name in (CONFIG, *CLIENT) or _is_unreadable(name):
            continue
        if name not in names:
            old = {ENVIRONMENT + key.replace(".", "_").upper(): now for key, now in _old_keys()}
            hint = (
                f"; it is now {ENVIRONMENT + old[name].replace('.', '_').upper()}"
                if name in old
                else _nearest(name, names)
            )
            raise SettingsError(f"the environment variable {name} is not a setting{hint}")
        yield names[name], typed(names[name], value), f"environment {name}"


def _is_unreadable(name: str) -> bool:
    """Whether a variable belongs to the table of a plug-in that cannot be imported."""
    return any(name.startswith(f"{ENVIRONMENT}{table.upper()}_") for table in plugins.tables().unreadable)


def _from_command(overrides: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    known = set(dotted_keys())
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"{override!r} is not of the form key=value, for example server.port=8001")
        if key.partition(".")[0] in plugins.tables().unreadable:
            continue
        if key not in known:
            raise SettingsError(f"there is no setting {key!r}{_hint(key)}")
        yield key, typed(key, value), COMMAND


def require_known(key: str) -> None:
    """Raises SettingsError with the nearest key, unless there is a setting of this dotted key."""
    if key not in set(dotted_keys()):
        raise SettingsError(f"there is no setting {key!r}{_hint(key)}")


def is_secret(key: str) -> bool:
    """Whether a setting is a password or an API key, which is never shown."""
    return "SecretStr" in str(field_of(key).annotation)


def is_live(key: str) -> bool:
    """Whether a setting changes while chatapi runs; any other changes at the next start."""
    about = field_of(key).json_schema_extra
    return isinstance(about, dict) and about.get("live") is True


def replaced(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The same settings but for these: dotted key -> valid value."""
    for key, value in values.items():
        path, _, name = key.rpartition(".")
        if path:
            name, value = path, at(settings, path).model_copy(update={name: value})
        settings = settings.model_copy(update={name: value})
    return settings


def field_of(key: str) -> FieldInfo:
    """The declaration of a known dotted key."""
    path, _, name = key.rpartition(".")
    tree = plugins.tables().tree
    table = type(at(tree(), path)) if path else tree
    found: FieldInfo = table.model_fields[name]
    return found


def typed(key: str, text: str) -> Any:
    """Text as a value for a setting: a list has brackets as in TOML and JSON, or is split at its commas; pydantic
    converts everything else."""
    if not isinstance(field_of(key).default, tuple):
        return text
    # [::1] is an address, and no list of TOML.
    with suppress(toml.TOMLDecodeError):
        found = toml.loads(f"value = {text}")["value"]
        if isinstance(found, list):
            return found
    return [item.strip() for item in text.split(",") if item.strip()]


def _put(tree: dict[str, Any], key: str, value: Any, origin: str) -> None:
    *path, name = key.split(".")
    for step in path:
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{origin}: {step!r} is a table and cannot have a value of its own")
    tree[name] = value


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _hint(key: str) -> str:
    """A suggestion for a wrong key: its new name, or the nearest key."""
    if key in RENAMED:
        return f"; it is now {RENAMED[key]}"
    now = dict(_old_keys()).get(key)
    return f"; it is now {now}" if now else _nearest(key, dotted_keys())


def _old_keys() -> Iterator[tuple[str, str]]:
    """The old and the new name of every renamed dotted key."""
    for old, now in RENAMED.items():
        for key in dotted_keys():
            if key == now or key.startswith(f"{now}."):
                yield old + key.removeprefix(now), key


def _explained(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        key = ".".join(str(step) for step in fault["loc"])
        origin = next((source for name, source in origins.items() if key.startswith(name)), "settings")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{origin}: there is no setting {key!r}{_hint(key)}")
        else:
            lines.append(f"{origin}: {key} {describe_validation_error(fault)}")
    return "\n".join(lines)
