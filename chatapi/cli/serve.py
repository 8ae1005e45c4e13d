"""`chatapi serve`: runs the appliance and its interfaces until a signal."""

from __future__ import annotations

import faulthandler
import importlib.util
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
from chatapi.auth.keyless_interface import KeylessInterface
from chatapi.cli.check import report
from chatapi.cli.listening import Listening, open_all
from chatapi.cli.watchdog import Watchdog
from chatapi.engines import registry
from chatapi.errors import SettingsError, collapse_exception_group
from chatapi.interfaces.asr_webservice.server import AsrWebservice, keyless
from chatapi.interfaces.audio_device.caption_microphone import caption_microphone
from chatapi.interfaces.audio_device.conversation import LocalConversation
from chatapi.interfaces.http.app import create_app, run_server, server
from chatapi.interfaces.torchserve.server import TorchServeServer
from chatapi.interfaces.wyoming import listeners
from chatapi.interfaces.wyoming.server import WyomingServer
from chatapi.observability import logs
from chatapi.runtime import engine_selection
from chatapi.settings import Loaded, Settings
from chatapi.storage.layout import DataDirectory
from chatapi.system import file_descriptors, malloc_trim
from chatapi.system.systemd_notify import ServiceManager

if TYPE_CHECKING:
    from chatapi.auth.certificates import Identity

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
        # The web server handles the signal and raises it again at its end; this receiver ignores it.
        with logs.auditing(settings.log, audit), anyio.open_signal_receiver(signal.SIGTERM):
            await _run(settings, _Started(listening, url, loaded), identity, manager)
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


async def _run(settings: Settings, started: _Started, identity: Identity | None, manager: ServiceManager) -> None:
    """Run the appliance and its interfaces until the web server ends."""
    begun, url, listening = time.monotonic(), started.url, started.listening
    host, port = listening.web.getsockname()[:2]
    async with (
        Appliance(settings).running() as appliance,
        _key_use_stored(appliance.keyring, host, port),
        anyio.create_task_group() as group,
    ):
        web = server(create_app(appliance, started.loaded), identity.context if identity is not None else None)

        async def run_web_server() -> None:
            await run_server(web, listening.web, settings)
            manager.stopping()
            group.cancel_scope.cancel()

        group.start_soon(run_web_server)
        group.start_soon(appliance.maintain)
        group.start_soon(appliance.jobs.run)
        group.start_soon(malloc_trim.IdleTrimmer().run)
        if identity is not None:
            group.start_soon(_renew_certificate, identity)
        roles = registry.essential()
        appliance.captions.microphone = caption_microphone(settings.audio_device, None)
        if settings.audio_device.enabled:
            appliance.microphone = conversation = LocalConversation(appliance)
            appliance.captions.microphone = caption_microphone(settings.audio_device, conversation)
            appliance.parts["audio_device"] = lambda: conversation.health
            roles = (*roles, *conversation.roles)
            group.start_soon(conversation.run)
        _print_line(f"listening on {url}, loading models")
        _start_further(appliance, listening, group)
        await _start_grpc(appliance, identity, group)
        group.start_soon(anyio.to_thread.run_sync, report, appliance.settings)
        if identity is not None:
            _print_fingerprint(identity, url)
        await _load(appliance, roles, manager)
        _print_line(f"ready after {time.monotonic() - begun:.1f} s: {url}")
        manager.ready(f"ready: {url}")
        group.start_soon(Watchdog(appliance, manager).run)


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


def _start_further(appliance: Appliance, listening: Listening, group: TaskGroup) -> None:
    """Start the interfaces beside the web server."""
    if listening.wyoming:
        wyoming = WyomingServer(appliance, listening.wyoming)
        appliance.parts["wyoming"] = lambda: wyoming.health
        group.start_soon(wyoming.run)
        _print_line(f"listening for Wyoming (Home Assistant) on {' and '.join(wyoming.health['listening'])}")
        _warn_about_open_interface(listeners.keyless(appliance.settings))
    if listening.torchserve:
        torchserve = TorchServeServer(appliance, appliance.settings.torchserve, listening.torchserve)
        appliance.parts["torchserve"] = lambda: torchserve.health
        group.start_soon(torchserve.run)
        _print_line(f"listening for TorchServe's clients on {' and '.join(torchserve.health['listening'])}")
    if listening.asr_webservice is not None:
        asr_webservice = AsrWebservice(appliance, listening.asr_webservice)
        appliance.parts["asr_webservice"] = lambda: asr_webservice.health
        group.start_soon(asr_webservice.run)
        _print_line(f"listening for whisper-asr-webservice's clients on {asr_webservice.health['listening']}")
        _warn_about_open_interface(keyless(appliance.settings))


async def _start_grpc(appliance: Appliance, identity: Identity | None, group: TaskGroup) -> None:
    """Start command recognition over gRPC where it is switched on. Raises SettingsError."""
    settings = appliance.settings
    if not settings.grpc.enabled:
        return
    if any(importlib.util.find_spec(name) is None for name in ("grpc", "grpc_health", "grpc_reflection")):
        raise SettingsError("grpc.enabled needs the extra grpc: pip install 'chatapi-appliance[grpc]'")
    # Imported here, because only this needs the extra.
    from chatapi.interfaces.grpc.server import CommandServer

    if (settings.grpc.tls if settings.grpc.tls is not None else identity is not None) is False:
        grpc_server = CommandServer(appliance, None)
    elif identity is None:
        raise SettingsError("grpc.tls needs server.tls, whose certificate it has")
    else:
        grpc_server = CommandServer(appliance, identity.file, settings.server.key)
    appliance.parts["grpc"] = lambda: grpc_server.health
    group.start_soon(grpc_server.run)
    await grpc_server.started.wait()
    _print_line(f"listening for gRPC on {grpc_server.health['listening']}")


def _warn_about_open_interface(interface: KeylessInterface) -> None:
    if interface.is_public and not interface.table.allow:
        table = interface.table_name
        message = (
            f"{interface.title} has no keys, so it is open to everyone on the network; limit it with {table}.allow"
        )
        print(f"chatapi: {message}", file=sys.stderr)


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
