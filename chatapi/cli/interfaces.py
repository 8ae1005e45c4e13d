"""The interfaces of `chatapi serve`. They take long to import, so `serve` imports this module while models load."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup

from chatapi.appliance import Appliance
from chatapi.auth.keyless_interface import KeylessInterface
from chatapi.cli.listening import Listening
from chatapi.errors import SettingsError
from chatapi.interfaces.audio_device.caption_microphone import caption_microphone
from chatapi.interfaces.http.app import create_app, run_server, server
from chatapi.interfaces.wyoming import listeners
from chatapi.interfaces.wyoming.server import WyomingServer
from chatapi.settings import Loaded

if TYPE_CHECKING:
    from chatapi.auth.certificates import Identity

__all__ = ["WebServer", "caption_microphone", "start_further", "start_grpc"]


class WebServer:
    """The HTTP server."""

    def __init__(
        self, appliance: Appliance, listening: socket.socket, loaded: Loaded, context: ssl.SSLContext | None
    ) -> None:
        """`loaded`: the sources of the settings. `context`: of HTTPS; None: HTTP."""
        self._settings, self._listening = appliance.settings, listening
        self._server = server(create_app(appliance, loaded), context)

    async def run(self) -> None:
        """Serve until a signal."""
        await run_server(self._server, self._listening, self._settings)


def start_further(appliance: Appliance, listening: Listening, group: TaskGroup, say: Callable[[str], None]) -> None:
    """Start the interfaces beside the web server; `say` tells where they listen."""
    if listening.wyoming:
        wyoming = WyomingServer(appliance, listening.wyoming)
        appliance.parts["wyoming"] = lambda: wyoming.health
        group.start_soon(wyoming.run)
        say(f"listening for Wyoming (Home Assistant) on {' and '.join(wyoming.health['listening'])}")
        _warn_about_open_interface(listeners.keyless(appliance.settings))
    if listening.torchserve:
        from chatapi.interfaces.torchserve.server import TorchServeServer

        torchserve = TorchServeServer(appliance, appliance.settings.torchserve, listening.torchserve)
        appliance.parts["torchserve"] = lambda: torchserve.health
        group.start_soon(torchserve.run)
        say(f"listening for TorchServe's clients on {' and '.join(torchserve.health['listening'])}")
    if listening.asr_webservice is not None:
        from chatapi.interfaces.asr_webservice.port import keyless
        from chatapi.interfaces.asr_webservice.server import AsrWebservice

        asr_webservice = AsrWebservice(appliance, listening.asr_webservice)
        appliance.parts["asr_webservice"] = lambda: asr_webservice.health
        group.start_soon(asr_webservice.run)
        say(f"listening for whisper-asr-webservice's clients on {asr_webservice.health['listening']}")
        _warn_about_open_interface(keyless(appliance.settings))


async def start_grpc(
    appliance: Appliance, identity: Identity | None, group: TaskGroup, say: Callable[[str], None]
) -> None:
    """Start command recognition over gRPC where it is switched on; `identity`: the web server's certificate. Raises
    SettingsError."""
    settings = appliance.settings
    if not settings.grpc.enabled:
        return
    if any(importlib.util.find_spec(name) is None for name in ("grpc", "grpc_health", "grpc_reflection")):
        raise SettingsError("grpc.enabled needs the extra grpc: pip install 'chatapi-appliance[grpc]'")
    # Imported here, because only this needs the extra.
    from chatapi.interfaces.grpc.server import CommandServer

    if (settings.grpc.tls if settings.grpc.tls is not None else identity is not None) is False:
        commands = CommandServer(appliance, None)
    elif identity is None:
        raise SettingsError("grpc.tls needs server.tls, whose certificate it has")
    else:
        commands = CommandServer(appliance, identity.file, settings.server.key)
    appliance.parts["grpc"] = lambda: commands.health
    group.start_soon(commands.run)
    await commands.started.wait()
    say(f"listening for gRPC on {commands.health['listening']}")


def _warn_about_open_interface(interface: KeylessInterface) -> None:
    if interface.is_public and not interface.table.allow:
        table = interface.table_name
        message = (
            f"{interface.title} has no keys, so it is open to everyone on the network; limit it with {table}.allow"
        )
        print(f"chatapi: {message}", file=sys.stderr)
