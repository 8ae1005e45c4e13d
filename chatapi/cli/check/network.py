"""The address to listen on: whether it is free, who may come, and what HTTPS shows there."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from chatapi import auth
from chatapi.cli.check.finding import CheckContext, Finding
from chatapi.errors import SettingsError
from chatapi.interfaces.wyoming import listeners
from chatapi.system import jetson


def address(scene: CheckContext) -> Iterator[Finding]:
    """A server that is about to start has bound it already, and says itself whom it lets in."""
    host, port = scene.settings.server.host, scene.settings.server.port
    if scene.quick:
        return
    yield _free(host, port)
    if scene.settings.server.api_key is None and host not in ("127.0.0.1", "::1", "localhost") and _no_keys(scene):
        told = f"{host} is open to everyone on the network"
        yield Finding("note", "address", f"{told}: chatapi keys add NAME, or set server.api_key, to close it")


def _no_keys(scene: CheckContext) -> bool:
    try:
        return auth.read(scene.settings.data) is None
    except SettingsError:
        return False


def named_keys(scene: CheckContext) -> Iterator[Finding]:
    """Whether the file of keys lets anybody in, where there is one."""
    try:
        found = auth.read(scene.settings.data)
    except SettingsError as fault:
        yield Finding("bad", "keys", fault.message)
        return
    if found is None:
        return
    good = sum(not key.invalid_reason(scene.now.timestamp()) for key in found)
    told = f"{good} of {len(found)} in {auth.file_of(scene.settings.data)} open the door"
    if good or scene.settings.server.api_key is not None:
        yield Finding("good", "keys", told)
    else:
        yield Finding("note", "keys", f"{told}, so nobody gets in: chatapi keys add NAME")


def wyoming(scene: CheckContext) -> Iterator[Finding]:
    """The same of Wyoming, which has no keys; at its start a server says itself whom it lets in."""
    settings, table = scene.settings, scene.settings.wyoming
    if scene.quick:
        return
    if not listeners.speaks(settings):
        if table.demanded:
            yield Finding("note", "Wyoming", f"it is off: {listeners.closed_by_keys(settings)}")
        return
    if table.host:
        found = _free(table.host, table.port, "Wyoming", "wyoming")
        if found.level == "bad" and not table.demanded:
            found = replace(found, level="note", told=f"it will be off, because {found.told}")
        yield found
    if not table.host or table.host in ("127.0.0.1", "::1", "localhost"):
        return
    if not table.allow:
        told = f"{table.host} is open to everyone on the network, and Wyoming has no keys"
        yield Finding("note", "Wyoming", f"{told}: set wyoming.allow to those who may come, such as 192.168.1.0/24")
    if table.announce and importlib.util.find_spec("zeroconf") is None:
        told = "Home Assistant does not find it by itself: pip install 'chatapi-appliance[wyoming]'"
        yield Finding("note", "Wyoming", told)


def _free(host: str, port: int, about: str = "address", table: str = "server") -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return Finding("good", about, f"{host}:{port} is free")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(host, port, about, table)
        if error.errno == errno.EACCES:
            told = f"port {port} is kept for the system's own services: set {table}.port to 1024 or more"
            return Finding("bad", about, told)
        # Python puts the address into its own text; it stands here already.
        reason = os.strerror(error.errno) if error.errno else error
        return Finding("bad", about, f"{host}:{port} cannot be listened on ({reason}): set {table}.host")


def _taken(host: str, port: int, about: str, table: str) -> Finding:
    holder = listening(port)
    if holder is None:
        told = f"{host}:{port} is in use, perhaps by chatapi: if not, end what uses it or set {table}.port"
        return Finding("note", about, told)
    number, name, ours = holder
    if ours:
        return Finding("good", about, f"chatapi is running there already, as process {number}")
    told = f"{host}:{port} is used by {name} (process {number}): end it, or set {table}.port"
    return Finding("bad", about, told)


def listening(port: int) -> tuple[int, str, bool] | None:
    """Process id, name, and whether it is chatapi, of who listens on a port; None where nobody does, or the system
    does not tell this user."""
    try:
        pids = [
            each.pid
            for each in psutil.net_connections(kind="tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid
        ]
        if not pids:
            return None
        process = psutil.Process(pids[0])
        return pids[0], process.name(), any("chatapi" in word for word in process.cmdline()[:3])
    except psutil.Error:
        return None


def shared(port: int, root: Path = Path("/")) -> int | None:
    """Bytes that models may take beside a chatapi that listens on that port: what it has taken is for the same models,
    so all of the machine's; None where none does, or the machine's size is not told."""
    holder = listening(port)
    return jetson.meminfo(root, "MemTotal") or None if holder is not None and holder[2] else None


def certificate(scene: CheckContext) -> Iterator[Finding]:
    """What HTTPS shows: in time, and for a name of this machine."""
    table = scene.settings.server
    if not table.tls:
        return
    # Imported here, because without TLS nobody needs it.
    from chatapi.auth import certificate_authority, certificate_names
    from chatapi.cli.check import certificates as certified

    file = table.certificate or certificate_authority.CertificateKeeper(scene.settings.data).file
    if table.certificate is None and not file.exists():
        yield Finding("good", "certificate", "it is made at the first start")
        return
    wanted = certificate_names.names([table.host, *table.hosts])
    yield from certified.judge(file, table.key, wanted, scene.now, own=table.certificate is None)
