"""Where it listens, and who may come in."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from chatapi import auth
from chatapi.errors import SettingsError, Unauthorized
from chatapi.settings import Settings

log = logging.getLogger(__name__)

WAITING = 64
"""Connections that may wait to be accepted."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MODE = 0o660
"""Of the Unix socket: this user and its group."""


def opened(settings: Settings) -> list[socket.socket]:
    """Listening sockets; none where it is off, or cannot be had and nobody asked for it. Raises SettingsError."""
    table, found = settings.wyoming, []
    if not speaks(settings):
        if table.demanded:
            # No fault: keys can be made while the box runs, and it must come up again after a power cut.
            log.warning("Wyoming is off: %s", closed_by_keys(settings))
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


def speaks(settings: Settings) -> bool:
    """Whether the box is to speak it."""
    return settings.wyoming.enabled is not False and not (_has_keys(settings) and closed_by_keys(settings))


def closed_by_keys(settings: Settings) -> str:
    """Why a box that has keys does not speak it as it is set, though the protocol knows no keys; empty: it does."""
    if settings.wyoming.enabled is None:
        return "the box has keys, and Wyoming knows none; wyoming.enabled=true opens it to whoever may connect"
    if is_open(settings) and not settings.wyoming.allow:
        return (
            "the box has keys, and Wyoming, which knows none, would be open to everyone on the network; set "
            "wyoming.allow to the networks that may come, such as 192.168.1.0/24"
        )
    return ""


def check_open(settings: Settings, keyring: auth.Keyring) -> None:
    """Raises Unauthorized where keys were made since the start, before which it was open because there were none."""
    try:
        wanted = keyring.required
    except SettingsError:
        wanted = True
    if wanted and (told := closed_by_keys(settings)):
        raise Unauthorized(told)


def _has_keys(settings: Settings) -> bool:
    return settings.server.api_key is not None or auth.file_of(settings.data).exists()


def close(listening: Iterable[socket.socket], path: Path | None) -> None:
    """Close them, and remove the Unix socket at `path`, where it is one of them."""
    for each in listening:
        each.close()
        if each.family == socket.AF_UNIX and path is not None:
            path.unlink(missing_ok=True)


def url(listening: socket.socket) -> str:
    """As Wyoming's own programs write it."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix://{name}"
    host, port = name[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_open(settings: Settings) -> bool:
    """Whether others than this machine reach it."""
    return bool(settings.wyoming.host) and settings.wyoming.host not in LOOPBACK


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
        _make_way(path)
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


def _make_way(path: Path) -> None:
    """Remove what a process left that was ended by force. Raises SettingsError where somebody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"wyoming.socket is {path}, which is there and is no socket: name another")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        trying.settimeout(1)
        try:
            trying.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SettingsError(f"somebody listens on {path} already: end it, or set wyoming.socket")


class AllowedClients:
    """Who may come in: everybody, or this machine and those of some networks."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(each, strict=False) for each in networks]

    def lets_in(self, peer: object) -> bool:
        """`peer`: an address as sockets tell it, host and port; of a Unix socket a path, whose mode has decided."""
        if not self._networks or not isinstance(peer, tuple):
            return True
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or any(address in each for each in self._networks)
