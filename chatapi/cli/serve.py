"""`chatapi serve`: runs the appliance and its interfaces until a signal."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from chatapi.appliance import Appliance
from chatapi.auth import Keyring
from chatapi.cli.listening import Listening, open_all
from chatapi.cli.watchdog import Watchdog
from chatapi.engines import registry
from chatapi.errors import SettingsError, collapse_exception_group
from chatapi.observability import logs
from chatapi.runtime import engine_selection
from chatapi.settings import Loaded, Settings
from chatapi.storage.layout import DataDirectory
from chatapi.system import file_descriptors, malloc_trim
from chatapi.system.systemd_notify import ServiceManager

if TYPE_CHECKING:
    from chatapi.auth.certificates import Identity
    from chatapi.cli.interfaces import WebServer
    from chatapi.interfaces.audio_device.conversation import LocalConversation

log = logging.getLogger(__name__)

RENEWAL_CHECK_SECONDS = 30.0
"""Time between two checks of the certificate, in seconds: at boot, addresses come late and clocks are set."""
KEY_USE_SECONDS = 60.0
"""Time between two writes of the keys' times of use, in seconds."""
LOAD_STATUS_SECONDS = 0.5
"""Time between two updates of the load status, in seconds."""


async def serve(settings: Settings, loaded: Loaded) -> int:
    """Listen at once and load the models meanwhile; `/ready` tells when they are loaded. Raises the error of a model
    that cannot be loaded."""
    manager = ServiceManager.of()
    if manager.watchdog:
        # systemd ends a stuck process with SIGABRT; the log then has the stacks of all threads.
        faulthandler.enable()
    file_descriptors.raise_limit()
    malloc_trim.configure()
    identity = _identity(settings)
    settings, listening = open_all(settings)
    host, port = listening.web.getsockname()[:2]
    url = _url(host, port, identity)
    try:
        settings = await engine_selection.resolve_engines_async(settings)
        audit = DataDirectory(settings.data).audit_log
        with logs.auditing(settings.log, audit), anyio.open_signal_receiver(signal.SIGTERM) as signals:
            await _run(settings, _Started(listening, url, loaded, signals), identity, manager)
    except Exception as error:
        raise collapse_exception_group(error) from None
    finally:
        listening.close(settings)
    return 0


@dataclass(frozen=True)
class _Started:
    """What the server starts with."""

    listening: Listening
    url: str
    """URL of the web server."""
    loaded: Loaded
    """The sources of the settings."""
    signals: AsyncIterator[signal.Signals]
    """SIGTERM; the web server handles it, and raises it again at its end, where nobody receives it."""


async def _run(settings: Settings, started: _Started, identity: Identity | None, manager: ServiceManager) -> None:
    """Run the appliance and its interfaces until the web server ends."""
    begun, url = time.monotonic(), started.url
    host, port = started.listening.web.getsockname()[:2]
    async with (
        Appliance(settings).running() as appliance,
        _key_use_stored(appliance.keyring, host, port),
        anyio.create_task_group() as group,
    ):
        group.start_soon(appliance.maintain)
        group.start_soon(appliance.jobs.run)
        group.start_soon(malloc_trim.IdleTrimmer().run)
        if identity is not None:
            group.start_soon(_renew_certificate, identity)
        conversation = _local_conversation(appliance)
        if conversation is not None:
            group.start_soon(conversation.run)
        roles = (*registry.essential(), *(conversation.roles if conversation is not None else ()))
        async with anyio.create_task_group() as loading:
            # Libraries compute without Python's lock, so the interfaces are imported and built meanwhile.
            loading.start_soon(_load, appliance, roles, manager)
            web = await _start_interfaces(appliance, started, conversation, identity, group)
            group.start_soon(_run_web_server, web, manager, group)
        # What a start leaves lives as long as the process; a collection would look through all of it.
        gc.freeze()
        gc.enable()
        _print_line(f"ready after {time.monotonic() - begun:.1f} s: {url}")
        manager.ready(f"ready: {url}")
        group.start_soon(Watchdog(appliance, manager).run)


async def _start_interfaces(
    appliance: Appliance,
    started: _Started,
    conversation: LocalConversation | None,
    identity: Identity | None,
    group: TaskGroup,
) -> WebServer:
    """Start the interfaces but for the web server, which is returned."""
    async with anyio.create_task_group() as importing:
        importing.start_soon(_stop_at_signal, started.signals, group)
        interfaces = await anyio.to_thread.run_sync(importlib.import_module, "chatapi.cli.interfaces")
        importing.cancel_scope.cancel()
    appliance.captions.microphone = interfaces.caption_microphone(appliance.settings.audio_device, conversation)
    context = identity.context if identity is not None else None
    web: WebServer = interfaces.WebServer(appliance, started.listening.web, started.loaded, context)
    _print_line(f"listening on {started.url}, loading models")
    interfaces.start_further(appliance, started.listening, group, _print_line)
    await interfaces.start_grpc(appliance, identity, group, _print_line)
    group.start_soon(anyio.to_thread.run_sync, _report, appliance.settings)
    if identity is not None:
        _print_fingerprint(identity, started.url)
    return web


async def _stop_at_signal(signals: AsyncIterator[signal.Signals], group: TaskGroup) -> None:
    """End the server at a SIGTERM that comes before the web server handles it."""
    async for _ in signals:
        group.cancel_scope.cancel()


async def _run_web_server(web: WebServer, manager: ServiceManager, group: TaskGroup) -> None:
    await web.run()
    manager.stopping()
    group.cancel_scope.cancel()


def _local_conversation(appliance: Appliance) -> LocalConversation | None:
    """The conversation of the box's microphone and speaker, where it is enabled."""
    if not appliance.settings.audio_device.enabled:
        return None
    from chatapi.interfaces.audio_device.conversation import LocalConversation

    conversation = LocalConversation(appliance)
    appliance.microphone = conversation
    appliance.parts["audio_device"] = lambda: conversation.health
    return conversation


def _report(settings: Settings) -> None:
    """Log what `chatapi check` finds."""
    from chatapi.cli.check import report

    report(settings)


@asynccontextmanager
async def _key_use_stored(keyring: Keyring, host: str, port: int) -> AsyncIterator[None]:
    """Inside the context local commands have a key, and the keys' times of use are stored."""

    async def store() -> None:
        while True:
            await anyio.sleep(KEY_USE_SECONDS)
            await anyio.to_thread.run_sync(keyring.store_uses)

    _warn_about_keys(keyring, host)
    with keyring.local(port):
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(store)
                yield
                group.cancel_scope.cancel()
        finally:
            keyring.store_uses()


async def _load(appliance: Appliance, roles: Collection[str], manager: ServiceManager) -> None:
    """Load the models, and show the service manager which ones are loading."""

    async def show_status() -> None:
        before = ""
        while True:
            states = appliance.health()["engines"]
            loading = [role for role in roles if states[role]["state"] != "ready"]
            line = "loading " + ", ".join(f"{role} ({states[role]['model'] or '-'})" for role in loading)
            if loading and line != before:
                manager.status(line)
            before = line
            await anyio.sleep(LOAD_STATUS_SECONDS)

    async with anyio.create_task_group() as group:
        if manager.address:
            group.start_soon(show_status)
        await appliance.load(roles)
        group.cancel_scope.cancel()


def _identity(settings: Settings) -> Identity | None:
    """The server's certificate if `server.tls` is on. Raises SettingsError."""
    table = settings.server
    if not table.tls:
        if table.certificate is not None or table.key is not None:
            raise SettingsError("server.certificate and server.key are used only with server.tls = true (`--tls`)")
        return None
    if table.key is not None and table.certificate is None:
        raise SettingsError("server.key is set without server.certificate")
    # Imported here, because only TLS needs it.
    from chatapi.auth.certificates import Identity

    return Identity(settings.data, table.certificate, table.key, (table.host, *table.hosts))


def _url(host: str, port: int, identity: Identity | None) -> str:
    """The server's URL; with TLS on all addresses it has an address that the certificate is valid for."""
    if identity is None:
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        from chatapi.auth.certificate_names import reachable_address

        host = reachable_address()
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _print_fingerprint(identity: Identity, url: str) -> None:
    """Print how to trust the certificate on a new device."""
    _print_line(f"{url} has a certificate with the SHA-256 fingerprint {identity.fingerprint}")
    if identity.keeper is not None:
        _print_line(
            "browsers warn about an unknown certificate authority: compare the fingerprint and continue, "
            f"or install {url}/certificate as a trusted authority on the device (phones require that)"
        )


async def _renew_certificate(identity: Identity) -> None:
    """Renew the certificate while the server runs. A failure is logged once, and the old certificate stays in use."""
    logged = ""
    while True:
        await anyio.sleep(RENEWAL_CHECK_SECONDS)
        try:
            if await anyio.to_thread.run_sync(identity.renew):
                log.info("certificate renewed", extra={"sha256": identity.fingerprint})
            logged = ""
        except SettingsError as error:
            if error.message != logged:
                log.warning("certificate not renewed: %s", error.message)
            logged = error.message


def _print_line(line: str) -> None:
    print(f"chatapi {line}", flush=True)


def _warn_about_keys(keyring: Keyring, host: str) -> None:
    """Warn when the server is open to the network, or when damaged keys close it to everybody."""
    try:
        if not keyring.required and host not in ("127.0.0.1", "::1"):
            remedy = "`chatapi keys add NAME` or server.api_key closes it"
            print(f"chatapi: {host} is open to everyone on the network; {remedy}", file=sys.stderr)
    except SettingsError as error:
        print(f"chatapi: {error.message}", file=sys.stderr)
