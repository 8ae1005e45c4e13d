"""TorchServe's config.properties: the properties that the box has a setting for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chatapi.errors import SettingsError, describe_validation_error
from chatapi.interfaces.torchserve import model_snapshot
from chatapi.interfaces.torchserve.model_snapshot import ModelRecord
from chatapi.interfaces.torchserve.served_model import ALL
from chatapi.settings import TorchServeSettings

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
"""Largest file, in bytes."""
ADDRESS = re.compile(r"(?:(https?|unix|grpc)://?)?(\[[0-9a-fA-F:]+\]|[^:/\s]+)(?::(\d{1,5}))?/?")
ESCAPE = re.compile(r"\\(.)")
ADDRESSES = {
    "inference_address": "inference_port",
    "management_address": "management_port",
    "metrics_address": "metrics_port",
    "grpc_inference_address": "",
    "grpc_management_address": "",
}
"""Property with an address -> the setting of its port."""
SECURE_PORTS = {"inference_address": 443, "management_address": 8444, "metrics_address": 8445}
"""Property with an address -> its port where the address has https and no port."""
VALUES = {
    "grpc_inference_port": "grpc_inference_port",
    "grpc_management_port": "grpc_management_port",
    "model_store": "model_store",
    "job_queue_size": "queue",
    "default_workers_per_model": "workers",
    "default_response_timeout": "response_seconds",
    "max_request_size": "request_bytes",
    "max_response_size": "response_bytes",
    "enable_model_api": "model_api",
    "token_expiration_min": "token_minutes",
    "private_key_file": "key",
    "certificate_file": "certificate",
    "keystore": "keystore",
    "keystore_pass": "keystore_password",
}
"""Property -> the setting that takes its value."""
ELSEWHERE = ("enable_grpc_ssl", "keystore_type", "load_models", "models", "model_snapshot")
"""Properties that are no setting of their own, and have an effect."""
REJECTED = {
    "cors_allowed_origin": "server.cors_origins names the pages that may call the box",
    "plugins_path": "plug-ins of TorchServe cannot run; chatapi has plug-ins of its own",
}
"""Property that would change what clients get -> what to do instead."""


def effective(table: TorchServeSettings) -> TorchServeSettings:
    """The settings with the values of config.properties where they have their defaults.

    Raises SettingsError naming the file and the property.
    """
    if table.config is None:
        return table
    file, defaults = table.config, TorchServeSettings.model_fields
    stated = _settings(_read(file), file)
    found = {name: value for name, value in stated.items() if getattr(table, name) == defaults[name].default}
    try:
        return TorchServeSettings.model_validate({**table.model_dump(), **found})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        text = "; ".join(f"torchserve.{each['loc'][0]} {describe_validation_error(each)}" for each in faults)
        raise SettingsError(f"{file}: {text}") from None


def _settings(properties: Mapping[str, str], file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"tls": _encrypted(properties)}
    ignored = []
    for name, value in properties.items():
        if name in REJECTED:
            raise SettingsError(f"{file}: {name} is not supported; {REJECTED[name]}")
        if name in ADDRESSES:
            found |= _address(name, value, file)
        elif name in VALUES:
            found[VALUES[name]] = value
        elif name == "keystore_type" and value.upper() != "PKCS12":
            raise SettingsError(f"{file}: keystore_type is {value!r}; it must be PKCS12, to which keytool converts it")
        elif name == "disable_token_authorization":
            found["tokens"] = value.lower() != "true"
        elif name == "load_models" and "model_snapshot" not in properties:
            found["models"] = _models(value)
        elif name not in ELSEWHERE:
            ignored.append(name)
    if ignored:
        log.info("properties of %s without an effect here: %s", file, ", ".join(ignored))
    return {name: value for name, value in found.items() if value != ()}


def _encrypted(properties: Mapping[str, str]) -> tuple[str, ...]:
    """The interfaces with an address of https, and gRPC where it is encrypted."""
    addresses = [name for name in SECURE_PORTS if properties.get(name, "").lower().startswith("https:")]
    grpc = ("grpc",) if properties.get("enable_grpc_ssl", "").lower() == "true" else ()
    return (*(each.removesuffix("_address") for each in addresses), *grpc)


def _address(name: str, value: str, file: Path) -> dict[str, Any]:
    match = ADDRESS.fullmatch(value.strip())
    if match is None or match[1] == "unix":
        raise SettingsError(f"{file}: {name} is {value!r}; it must be http://HOST:PORT or https://HOST:PORT")
    number = match[3] or (SECURE_PORTS.get(name) if match[1] == "https" else None)
    port = {ADDRESSES[name]: int(number)} if number and ADDRESSES[name] else {}
    return {"host": match[2].strip("[]"), **port}


def stated_models(table: TorchServeSettings) -> list[ModelRecord]:
    """The models of the file that have options of their own: its snapshot, or else `models`. Raises SettingsError."""
    if table.config is None:
        return []
    properties = _read(table.config)
    name = "model_snapshot" if "model_snapshot" in properties else "models"
    return model_snapshot.parse(properties.get(name, "{}"), f"{table.config}: {name}")


def _models(value: str) -> tuple[str, ...]:
    """The models to register at the start, as the setting has them."""
    entries = [each.strip() for each in value.split(",") if each.strip() not in ("", "standalone", "none")]
    return tuple(ALL if each.lower() == ALL else _entry(*each.partition("=")[::2]) for each in entries)


def _entry(name: str, archive: str) -> str:
    """A model of the start: its name, and the model that the archive's name stands for."""
    stem = Path(archive or name).name.removesuffix(".mar")
    return f"{name.removesuffix('.mar')}={stem}"


def _read(file: Path) -> dict[str, str]:
    """The properties of a file in Java's form. Raises SettingsError."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"torchserve.config cannot be read: {error}") from error
    if len(text) > MOST_BYTES:
        raise SettingsError(f"{file} has more than {MOST_BYTES} bytes, so it is no config.properties")
    return dict(_lines(text))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of each line; one that ends with a backslash goes on in the next."""
    joined = re.sub(r"\\\r?\n[ \t]*", "", text)
    for line in joined.splitlines():
        line = line.strip()
        if line and line[0] not in "#!" and (match := re.match(r"([^=:\s]+)\s*[=:\s]\s*(.*)", line)):
            yield match[1], ESCAPE.sub(_unescaped, match[2].strip())


def _unescaped(match: re.Match[str]) -> str:
    """The character of an escape, such as a new line in the snapshots that TorchServe writes."""
    return {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}.get(match[1], match[1])
