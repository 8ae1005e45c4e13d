"""The Wyoming server: accepts allowed clients and serves each on a task of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
from anyio.abc import SocketStream, TaskGroup

from chatapi.appliance import Appliance
from chatapi.auth import client_address
from chatapi.errors import Busy, ChatapiError, Unauthorized
from chatapi.interfaces.wyoming import listeners
from chatapi.interfaces.wyoming.connection import WyomingConnection
from chatapi.interfaces.wyoming.zeroconf import announce

log = logging.getLogger(__name__)

ACCEPT_RETRY_SECONDS = 0.5
"""Delay before the next accept when the system has no file descriptors left, in seconds."""
RETRY_SECONDS = 5.0
"""Retry delay for a client rejected because of too many connections, in seconds."""
MAX_REJECTED = 64
"""Most concurrent connections beyond the limit that receive an error; further ones are closed without one."""


class WyomingServer:
    """The server; it runs as long as `run`, whatever its clients do."""

    def __init__(self, appliance: Appliance, listening: Sequence[socket.socket]) -> None:
        self._appliance = appliance
        self._listening = listening
        self._allowed = listeners.AllowedClients(appliance.settings.wyoming.allow)
        self._urls = [listeners.url(each) for each in listening]
        self._open = 0
        self._addresses: Counter[str] = Counter()
        self._rejecting = 0
        appliance.metrics.wyoming_connections.set_function(lambda: float(self._open))

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the addresses and how many are connected."""
        return {"listening": self._urls, "connections": self._open}

    async def run(self) -> None:
        table = self._appliance.settings.wyoming
        async with anyio.create_task_group() as group:
            for each in self._listening:
                each.setblocking(False)
                group.start_soon(self._accept, each, group)
                if each.family != socket.AF_UNIX and table.announce and listeners.is_public(self._appliance.settings):
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
        async with stream:
            if not self._allowed.allows(peer):
                log.warning("Wyoming client rejected, not in wyoming.allow: %s", peer)
                return
            try:
                listeners.check_open(self._appliance.settings, self._appliance.keyring)
            except Unauthorized as error:
                await self._reject(stream, error)
                return
            address = _address(peer)
            if reason := self._full(address):
                await self._reject(stream, Busy(reason, code="too_many_connections", retry_after=RETRY_SECONDS))
                return
            self._open += 1
            self._addresses[address] += 1
            try:
                await WyomingConnection(stream, self._appliance, address).run()
            finally:
                self._open -= 1
                self._addresses[address] -= 1
                self._addresses += Counter()

    def _full(self, address: str) -> str:
        """Why the connection is rejected; empty when it is not."""
        table = self._appliance.settings.wyoming
        if self._open >= table.connections:
            return f"{self._open} connections are open, which is the limit"
        if address and self._addresses[address] >= table.connections_per_address:
            return f"{table.connections_per_address} connections from your address are open, which is the limit"
        return ""

    async def _reject(self, stream: SocketStream, error: ChatapiError) -> None:
        if self._rejecting >= MAX_REJECTED:
            return
        self._rejecting += 1
        try:
            await WyomingConnection(stream, self._appliance).reject(error)
        finally:
            self._rejecting -= 1


def _address(peer: object) -> str:
    """The address that limits count; empty for this machine."""
    host = str(peer[0]) if isinstance(peer, tuple) else ""
    return "" if client_address.is_local(host) else client_address.client(host)
