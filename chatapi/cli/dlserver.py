"""`dlserver server.ini`: serves command recognition as the server that chatapi replaces was started.

The file has the address to listen on and the folder of the data. Its sections make no difference, and the names of its
keys are those of NAMES; any other key is rejected, so that no setting is lost unnoticed.
"""

from __future__ import annotations

import argparse
import configparser
import sys
from collections.abc import Sequence
from pathlib import Path

from chatapi import cli
from chatapi.errors import SettingsError

NAMES = {
    "address": "address", "endpoint": "address", "listen": "address", "bind": "address", "host": "grpc.host",
    "port": "grpc.port", "data": "data", "data_dir": "data", "data_path": "data", "path": "data",
}  # fmt: skip
"""Key of the file -> setting; `address` is HOST:PORT or a URL of them."""


def main() -> None:
    """Run the server until it is stopped."""
    parser = argparse.ArgumentParser("dlserver", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path("/etc/dlserver/server.ini"), metavar="server.ini")
    chosen = parser.parse_args()
    try:
        overrides = settings_of(chosen.file)
    except SettingsError as error:
        print(f"dlserver: {error.message}", file=sys.stderr)
        sys.exit(2)
    cli.main([part for each in overrides for part in ("--set", each)] + ["serve"])


def settings_of(file: Path) -> Sequence[str]:
    """The settings of a file, as KEY=VALUE. Raises SettingsError."""
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        # A file without sections has one.
        text = file.read_text(encoding="utf-8")
        parser.read_string(text if text.lstrip().startswith(("[", "#", ";")) else f"[server]\n{text}", str(file))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from error
    found = {"grpc.enabled": "true"}
    for section in parser.sections():
        for key, value in parser[section].items():
            if key not in NAMES:
                raise SettingsError(f"{file}: {key} is not known; known are {', '.join(NAMES)}")
            if NAMES[key] == "address":
                found["grpc.host"], found["grpc.port"] = _address(file, value)
            else:
                found[NAMES[key]] = value
    return [f"{name}={value}" for name, value in found.items()]


def _address(file: Path, text: str) -> tuple[str, str]:
    host, separator, port = text.rpartition("://")[2].strip().rstrip("/").rpartition(":")
    if not separator or not port.isdecimal():
        raise SettingsError(f"{file}: {text!r} is not HOST:PORT")
    return host.strip("[]") or "0.0.0.0", port  # noqa: S104 - as gRPC takes `:PORT`
