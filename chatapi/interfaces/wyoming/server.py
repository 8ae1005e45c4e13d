"""The Wyoming server: accepts allowed clients and serves each on a task of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

import anyio
from anyio.abc import SocketStream, TaskGroup

from chatapi.appliance import Appliance
from chatapi.auth import client_address
from chatapi.auth.keyless_interface import KeylessClients
from chatapi.errors import ChatapiError
from chatapi.interfaces.wyoming import listeners
from chatapi.interfaces.wyoming.connection import WyomingConnection, reject
from chatapi.interfaces.wyoming.zeroconf import announce

log = logging.getLogger(__name__)

ACCEPT_RETRY_SECONDS = 0.5
"""Delay before the next accept when the system has no file descriptors left, in seconds."""
MAX_REJECTED = 64
"""Most concurrent connections beyond the limit that receive an error; further ones are closed without one."""


class WyomingServer:
    """The server; it runs as long as `run`, whatever its clients do."""

    def __init__(self, appliance: Appliance, listening: Sequence[socket.socket]) -> None:
        self._appliance = appliance
        self._listening = listening
        self._interface = listeners.keyless(appliance.settings)
        self._clients = KeylessClients(self._interface, appliance.keyring)
        self._urls = [listeners.url(each) for each in listening]
        self._rejecting = 0
        appliance.metrics.wyoming_connections.set_function(lambda: float(len(self._clients)))

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the addresses and how many are connected."""
        return {"listening": self._urls, "connections": len(self._clients)}

    async def run(self) -> None:
        table = self._appliance.settings.wyoming
        async with anyio.create_task_group() as group:
            for each in self._listening:
                each.setblocking(False)
                group.start_soon(self._accept, each, group)
                if each.family != socket.AF_UNIX and table.announce and self._interface.is_public:
                    group.start_soon(announce, *each.getsockname()[:2])

    async def _accept(self, listening: socket.socket, group: TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.warning("Wyoming connection not accepted: %s", error)
                await anyio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            group.start_soon(self._serve, accepted)

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            peer = accepted.getpeername()
            # Not a UNIXSocketStream, whose cancelled reader anyio (4.16) wakes.
            stream = await SocketStream.from_socket(accepted)
        except BaseException as error:
            accepted.close()
            if isinstance(error, (OSError, ValueError)):
                # The client has disconnected already.
                return
            raise
        address = client_address.host(peer) or "-"
        async with stream:
            try:
                with self._clients.admitted(peer) as client:
                    await WyomingConnection(stream, self._appliance, client, address).run()
            except ChatapiError as error:
                await self._reject(stream, error, address)

    async def _reject(self, stream: SocketStream, error: ChatapiError, address: str) -> None:
        log.info("Wyoming client rejected", extra={"code": error.code, "error": error.message, "peer": address})
        if self._rejecting >= MAX_REJECTED:
            return
        self._rejecting += 1
        try:
            await reject(stream, error, self._appliance.metrics)
        finally:
            self._rejecting -= 1
