"""`chatapi serve`: the appliance and its faces, until a signal."""

from __future__ import annotations

import faulthandler
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from chatapi.appliance import ESSENTIAL, Appliance
from chatapi.auth import Keyring
from chatapi.cli.check import report
from chatapi.cli.watchdog import Watchdog
from chatapi.errors import SettingsError, collapse_exception_group
from chatapi.interfaces.audio_device.conversation import LocalConversation
from chatapi.interfaces.http.app import bound, carry, create_app, server
from chatapi.interfaces.wyoming import listeners
from chatapi.interfaces.wyoming.server import WyomingServer
from chatapi.observability import logs
from chatapi.runtime import engine_selection
from chatapi.settings import Settings
from chatapi.system import file_descriptors, malloc_trim
from chatapi.system.systemd_notify import ServiceManager

if TYPE_CHECKING:
    from chatapi.auth.certificates import Identity

log = logging.getLogger(__name__)

FRESH = 30.0
"""Seconds between two looks at the certificate: addresses come late at boot, and clocks are set."""
NOTED = 60.0
"""Seconds between two notes of when keys were used."""
LOADING = 0.5
"""Seconds between two looks at how far loading has come."""


async def serve(settings: Settings) -> int:
    """Listen at once, load meanwhile; `/ready` tells when. Raises what keeps the models from loading."""
    manager = ServiceManager.of()
    if manager.watchdog:
        # What ends a process that gives no sign of life is SIGABRT: the log then says where every thread stood.
        faulthandler.enable()
    file_descriptors.raise_limit()
    malloc_trim.settle()
    identity = _identity(settings)
    listening = bound(settings.server.host, settings.server.port)
    try:
        wyoming = listeners.opened(settings)
    except SettingsError:
        listening.close()
        raise
    host, port = listening.getsockname()[:2]
    url = _url(host, port, identity)
    try:
        settings = await engine_selection.resolve_engines_async(settings)
        # The web server takes the signal and raises it again once it has ended; here it kills nobody any more.
        with logs.auditing(settings.log, settings.data), anyio.open_signal_receiver(signal.SIGTERM):
            await _run(settings, _Open(listening, url, wyoming), identity, manager)
    except Exception as error:
        raise collapse_exception_group(error) from None
    finally:
        listening.close()
        listeners.close(wyoming, settings.wyoming.socket)
    return 0


@dataclass(frozen=True)
class _Open:
    """Where it listens."""

    web: socket.socket
    url: str
    """Of the web."""
    wyoming: Sequence[socket.socket]


async def _run(settings: Settings, listening: _Open, identity: Identity | None, manager: ServiceManager) -> None:
    """The appliance with its faces, until the web server ends."""
    begun, url = time.monotonic(), listening.url
    host, port = listening.web.getsockname()[:2]
    async with (
        Appliance(settings).running() as appliance,
        _keys_kept(appliance.keyring, host, port),
        anyio.create_task_group() as group,
    ):
        web = server(create_app(appliance), identity.context if identity is not None else None)

        async def generator() -> None:
            await carry(web, listening.web, settings)
            manager.stopping()
            group.cancel_scope.cancel()

        group.start_soon(generator)
        group.start_soon(appliance.maintain)
        if identity is not None:
            group.start_soon(_keep_fresh, identity)
        roles = ESSENTIAL
        if settings.audio_device.enabled:
            appliance.microphone = conversation = LocalConversation(appliance)
            appliance.parts["mic"] = lambda: conversation.health
            roles = (*roles, *conversation.roles)
            group.start_soon(conversation.run)
        _tell(f"listening on {url}, loading models")
        if listening.wyoming:
            _open_to_wyoming(appliance, listening.wyoming, group)
        group.start_soon(anyio.to_thread.run_sync, report, appliance.settings)
        if identity is not None:
            _introduce(identity, url)
        await _load(appliance, roles, manager)
        _tell(f"ready after {time.monotonic() - begun:.1f} s: {url}")
        manager.ready(f"ready: {url}")
        group.start_soon(Watchdog(appliance, manager).run)


@asynccontextmanager
async def _keys_kept(keyring: Keyring, host: str, port: int) -> AsyncIterator[None]:
    """While the block lasts this machine's operator has a key, and it is written down when keys are used."""

    async def noted() -> None:
        while True:
            await anyio.sleep(NOTED)
            await anyio.to_thread.run_sync(keyring.store_uses)

    _warn_of_keys(keyring, host)
    with keyring.local(port):
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(noted)
                yield
                group.cancel_scope.cancel()
        finally:
            keyring.store_uses()


def _open_to_wyoming(appliance: Appliance, listening: Sequence[socket.socket], group: TaskGroup) -> None:
    wyoming = WyomingServer(appliance, listening)
    appliance.parts["wyoming"] = lambda: wyoming.health
    group.start_soon(wyoming.run)
    _tell(f"speaks Wyoming, for Home Assistant, at {' and '.join(wyoming.health['listening'])}")
    if listeners.is_open(appliance.settings) and not appliance.settings.wyoming.allow:
        told = "Wyoming has no keys, so it is open to everyone on the network; set wyoming.allow to those who may come"
        print(f"chatapi: {told}", file=sys.stderr)


async def _load(appliance: Appliance, roles: Collection[str], manager: ServiceManager) -> None:
    """Load, and tell the service manager what is loading meanwhile."""

    async def told() -> None:
        before = ""
        while True:
            states = appliance.health()["engines"]
            loading = [role for role in roles if states[role]["state"] != "ready"]
            line = "loading " + ", ".join(f"{role} ({states[role]['model'] or '-'})" for role in loading)
            if loading and line != before:
                manager.status(line)
            before = line
            await anyio.sleep(LOADING)

    async with anyio.create_task_group() as group:
        if manager.address:
            group.start_soon(told)
        await appliance.load(roles)
        group.cancel_scope.cancel()


def _identity(settings: Settings) -> Identity | None:
    """What is shown where `server.tls` is on. Raises SettingsError."""
    table = settings.server
    if not table.tls:
        if table.certificate is not None or table.key is not None:
            raise SettingsError("server.certificate and server.key are used only with server.tls = true (`--tls`)")
        return None
    if table.key is not None and table.certificate is None:
        raise SettingsError("server.key is set, but not server.certificate, to which it belongs")
    # Imported here, because without TLS nobody needs it.
    from chatapi.auth.certificates import Identity

    return Identity(settings.data, table.certificate, table.key, (table.host, *table.hosts))


def _url(host: str, port: int, identity: Identity | None) -> str:
    """Where it is; of a secure one that listens everywhere a name that its certificate holds."""
    if identity is None:
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        from chatapi.auth.certificate_names import reachable_address

        host = reachable_address()
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _introduce(identity: Identity, url: str) -> None:
    """What somebody needs to know who meets the certificate for the first time."""
    _tell(f"{url} shows a certificate with the SHA-256 fingerprint {identity.fingerprint}")
    if identity.keeper is not None:
        _tell(
            "a browser will warn that it does not know who made the certificate: compare the fingerprint and go on, "
            f"or have the device trust {url}/certificate once (phones want that)"
        )


async def _keep_fresh(identity: Identity) -> None:
    """Renew the certificate while it is in use. A fault is told once, and what is there stays in use."""
    told = ""
    while True:
        await anyio.sleep(FRESH)
        try:
            if await anyio.to_thread.run_sync(identity.renew):
                log.info("a new certificate is in use", extra={"sha256": identity.fingerprint})
            told = ""
        except SettingsError as fault:
            if fault.message != told:
                log.warning("the certificate is not renewed: %s", fault.message)
            told = fault.message


def _tell(line: str) -> None:
    print(f"chatapi {line}", flush=True)


def _warn_of_keys(keyring: Keyring, host: str) -> None:
    """Whoever is open to the network shall know it, and whoever is closed to everybody."""
    try:
        if not keyring.required and host not in ("127.0.0.1", "::1"):
            closing = "`chatapi keys add NAME` or server.api_key closes it"
            print(f"chatapi: {host} is open to everyone on the network; {closing}", file=sys.stderr)
    except SettingsError as fault:
        print(f"chatapi: {fault.message}", file=sys.stderr)
