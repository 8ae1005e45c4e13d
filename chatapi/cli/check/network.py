"""Checks the addresses to listen on, API keys and the certificate."""

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
from chatapi.interfaces.asr_webservice.port import keyless as asr_webservice_interface
from chatapi.interfaces.torchserve import properties
from chatapi.interfaces.torchserve.ports import PORTS, has_grpc
from chatapi.interfaces.wyoming import listeners
from chatapi.system import jetson


def address(context: CheckContext) -> Iterator[Finding]:
    """The HTTP server's address; a starting server has bound it already, and warns by itself."""
    host, port = context.settings.server.host, context.settings.server.port
    if context.quick:
        return
    yield _free(host, port)
    if context.settings.server.api_key is None and not _is_local(host) and _no_keys(context):
        message = f"{host} is open to everyone on the network"
        yield Finding("note", "address", f"{message}: chatapi keys add NAME, or set server.api_key, to close it")


def _no_keys(context: CheckContext) -> bool:
    try:
        return auth.read(context.settings.data) is None
    except SettingsError:
        return False


def named_keys(context: CheckContext) -> Iterator[Finding]:
    """The API keys of the key file, if there is one."""
    try:
        found = auth.read(context.settings.data)
    except SettingsError as error:
        yield Finding("bad", "keys", error.message)
        return
    if found is None:
        return
    good = sum(not key.invalid_reason(context.now.timestamp()) for key in found)
    message = f"{good} of {len(found)} keys in {auth.file_of(context.settings.data)} are valid"
    if good or context.settings.server.api_key is not None:
        yield Finding("good", "keys", message)
    else:
        yield Finding("note", "keys", f"{message}, so every request is rejected: chatapi keys add NAME")


def wyoming(context: CheckContext) -> Iterator[Finding]:
    """The address of Wyoming, which has no keys; a starting server warns by itself."""
    table, interface = context.settings.wyoming, listeners.keyless(context.settings)
    if context.quick:
        return
    if not interface.is_enabled:
        if table.demanded:
            yield Finding("note", "Wyoming", f"it is off: {interface.disabled_by_keys}")
        return
    if table.host:
        found = _free(table.host, table.port, "Wyoming", "wyoming")
        if found.level == "bad" and not table.demanded:
            found = replace(found, level="note", message=f"it will be off: {found.message}")
        yield found
    if not interface.is_public:
        return
    if not table.allow:
        message = f"{table.host} is open to everyone on the network, and Wyoming has no keys"
        yield Finding("note", "Wyoming", f"{message}: set wyoming.allow to your networks, such as 192.168.1.0/24")
    if table.announce and importlib.util.find_spec("zeroconf") is None:
        message = "Home Assistant does not find it by itself: pip install 'chatapi-appliance[wyoming]'"
        yield Finding("note", "Wyoming", message)


def torchserve(context: CheckContext) -> Iterator[Finding]:
    """The addresses of TorchServe's ports, when they are on; a starting server has bound them already."""
    if context.quick or not context.settings.torchserve.enabled:
        return
    try:
        table = properties.effective(context.settings.torchserve)
    except SettingsError as error:
        yield Finding("bad", "TorchServe", error.message)
        return
    names = [*PORTS.values(), *(("grpc_inference_port", "grpc_management_port") if table.grpc is not False else ())]
    for name in names if has_grpc() else PORTS.values():
        yield _free(table.host, getattr(table, name), "TorchServe", "torchserve", name)
    if table.grpc and not has_grpc():
        yield Finding("bad", "TorchServe", "gRPC needs an extra: pip install 'chatapi-appliance[torchserve]'")


def asr_webservice(context: CheckContext) -> Iterator[Finding]:
    """The address of whisper-asr-webservice's API, which has no keys, when it is on."""
    table, interface = context.settings.asr_webservice, asr_webservice_interface(context.settings)
    if context.quick or not table.enabled:
        return
    about = "whisper-asr-webservice"
    if not interface.is_enabled:
        yield Finding("bad", about, f"it cannot be offered: {interface.disabled_by_keys}")
        return
    yield _free(table.host, table.port, about, "asr_webservice")
    if interface.is_public and not table.allow:
        message = f"{table.host} is open to everyone on the network, and its API has no keys"
        yield Finding("note", about, f"{message}: set asr_webservice.allow to your networks, such as 192.168.1.0/24")


def grpc(context: CheckContext) -> Iterator[Finding]:
    """The address of command recognition over gRPC, when it is on."""
    table = context.settings.grpc
    if context.quick or not table.enabled:
        return
    if importlib.util.find_spec("grpc") is None or importlib.util.find_spec("grpc_health") is None:
        yield Finding("bad", "gRPC", "it needs an extra: pip install 'chatapi-appliance[grpc]'")
        return
    yield _free(table.host, table.port, "gRPC", "grpc")
    if not _is_local(table.host) and context.settings.server.api_key is None and _no_keys(context):
        message = f"{table.host} is open to everyone on the network"
        yield Finding("note", "gRPC", f"{message}: chatapi keys add NAME, or set server.api_key, to close it")


def _is_local(host: str) -> bool:
    return host in ("127.0.0.1", "::1", "localhost")


def _free(host: str, port: int, about: str = "address", table: str = "server", setting: str = "port") -> Finding:
    """Whether an address can be listened on. `table`, `setting`: the names of its settings table and of its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return Finding("good", about, f"{host}:{port} is free")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _in_use(host, port, about, f"{table}.{setting}")
        if error.errno == errno.EACCES:
            message = f"port {port} is reserved for system services: set {table}.{setting} to 1024 or more"
            return Finding("bad", about, message)
        # Python's own text repeats the address.
        reason = os.strerror(error.errno) if error.errno else error
        return Finding("bad", about, f"cannot listen on {host}:{port} ({reason}): set {table}.host")


def _in_use(host: str, port: int, about: str, setting: str) -> Finding:
    holder = listening(port)
    if holder is None:
        message = f"{host}:{port} is in use, perhaps by chatapi: if not, end that program or set {setting}"
        return Finding("note", about, message)
    number, name, is_chatapi = holder
    if is_chatapi:
        return Finding("good", about, f"chatapi is already running there, as process {number}")
    message = f"{host}:{port} is used by {name} (process {number}): end it, or set {setting}"
    return Finding("bad", about, message)


def listening(port: int) -> tuple[int, str, bool] | None:
    """Id and name of the process that listens on a port, and whether it is chatapi; None: no process, or this user may
    not see it."""
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
    """Memory that models may use when chatapi listens on this port, in bytes: all of the machine's, because the running
    chatapi holds the same models; None: it does not, or the machine's memory is unknown."""
    holder = listening(port)
    return jetson.meminfo(root, "MemTotal") or None if holder is not None and holder[2] else None


def certificate(context: CheckContext) -> Iterator[Finding]:
    """The certificate of HTTPS: its validity and its names."""
    table = context.settings.server
    if not table.tls:
        return
    # Imported here, because only TLS needs it.
    from chatapi.auth import certificate_authority, certificate_names
    from chatapi.cli.check import certificates

    file = table.certificate or certificate_authority.CertificateKeeper(context.settings.data).file
    if table.certificate is None and not file.exists():
        yield Finding("good", "certificate", "it is created at the first start")
        return
    wanted = certificate_names.names([table.host, *table.hosts])
    yield from certificates.judge(file, table.key, wanted, context.now, own=table.certificate is None)
