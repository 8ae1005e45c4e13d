"""Wyoming's listening sockets."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from chatapi.auth.keyless_interface import KeylessInterface
from chatapi.errors import SettingsError
from chatapi.settings import Settings

log = logging.getLogger(__name__)

WAITING = 64
"""Most connections that wait to be accepted."""
MODE = 0o660
"""File mode of the Unix socket: read and write for this user and its group."""


def keyless(settings: Settings) -> KeylessInterface:
    """Wyoming, whose protocol has no API keys."""
    return KeylessInterface("Wyoming", "wyoming", settings.wyoming, settings)


def open_listeners(settings: Settings) -> list[socket.socket]:
    """Opens the listening sockets; none when Wyoming is off, or fails without being requested. Raises SettingsError."""
    table, interface, found = settings.wyoming, keyless(settings), []
    if not interface.is_enabled:
        if table.demanded:
            # No error: keys can be created while the box runs, and it must start again after a power cut.
            log.warning("Wyoming is off: %s", interface.disabled_by_keys)
        return []
    try:
        if table.host:
            found.append(_tcp(table.host, table.port))
        if table.socket is not None:
            found.append(_unix(table.socket))
    except SettingsError as fault:
        close(found, table.socket)
        if table.demanded:
            raise
        log.info("Wyoming is off: %s", fault.message)
        return []
    if not found:
        raise SettingsError("wyoming.host is empty and wyoming.socket is not set: set one of them")
    return found


def close(listening: Iterable[socket.socket], path: Path | None) -> None:
    """Closes the sockets, and removes the Unix socket at `path` if it is one of them."""
    for each in listening:
        each.close()
        if each.family == socket.AF_UNIX and path is not None:
            path.unlink(missing_ok=True)


def url(listening: socket.socket) -> str:
    """The URL of a socket, in the form of Wyoming's own programs."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix://{name}"
    host, port = name[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _tcp(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=WAITING
        )
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; set wyoming.host or wyoming.port") from error


def _unix(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale_socket(path)
        found.bind(str(path))
        path.chmod(MODE)
        found.listen(WAITING)
    except OSError as error:
        found.close()
        raise SettingsError(f"cannot listen on {path}: {error.strerror or error}; set wyoming.socket") from error
    except SettingsError:
        found.close()
        raise
    return found


def _remove_stale_socket(path: Path) -> None:
    """Removes the socket of a killed process. Raises SettingsError when another process listens on it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"wyoming.socket is {path}, which exists and is not a socket: choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SettingsError(f"another process listens on {path}: stop it, or set wyoming.socket")
