"""Listens, lets in whom it may, and serves each on a task of its own."""

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

AGAIN = 0.5
"""Seconds until the next connection is accepted, when the system has no more files for them."""
RETRY_SECONDS = 5.0
"""Until a client is to try again that found too many connections."""
REFUSED = 64
"""Connections beyond the limit that are told so at once; more are closed without a word."""


class WyomingServer:
    """Goes on for as long as `run` does, whatever its clients do."""

    def __init__(self, appliance: Appliance, listening: Sequence[socket.socket]) -> None:
        self._appliance = appliance
        self._listening = listening
        self._allowed = listeners.AllowedClients(appliance.settings.wyoming.allow)
        self._urls = [listeners.url(each) for each in listening]
        self._open = 0
        self._addresses: Counter[str] = Counter()
        self._refused = 0
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
                if each.family != socket.AF_UNIX and table.announce and listeners.is_open(self._appliance.settings):
                    group.start_soon(announce, *each.getsockname()[:2])

    async def _accept(self, listening: socket.socket, group: TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.warning("a Wyoming connection could not be accepted: %s", error)
                await anyio.sleep(AGAIN)
                continue
            group.start_soon(self._serve, accepted)

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            peer = accepted.getpeername()
            # Not a UNIXSocketStream, whose reader anyio (4.16) wakes after it was cancelled.
            stream = await SocketStream.from_socket(accepted)
        except BaseException as error:
            accepted.close()
            if isinstance(error, (OSError, ValueError)):
                # It has left already.
                return
            raise
        async with stream:
            if not self._allowed.lets_in(peer):
                log.warning("a Wyoming connection from %s was refused: it is in no network of wyoming.allow", peer)
                return
            try:
                listeners.check_open(self._appliance.settings, self._appliance.keyring)
            except Unauthorized as refused:
                await self._refuse(stream, refused)
                return
            address = _address(peer)
            if told := self._full(address):
                await self._refuse(stream, Busy(told, code="too_many_connections", retry_after=RETRY_SECONDS))
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
        """Why no more connections are served; empty: they are."""
        table = self._appliance.settings.wyoming
        if self._open >= table.connections:
            return f"{self._open} connections are open, which is all that are taken"
        if address and self._addresses[address] >= table.connections_per_address:
            return f"{table.connections_per_address} connections of your address are open, which is all that are taken"
        return ""

    async def _refuse(self, stream: SocketStream, error: ChatapiError) -> None:
        if self._refused >= REFUSED:
            return
        self._refused += 1
        try:
            await WyomingConnection(stream, self._appliance).refuse(error)
        finally:
            self._refused -= 1


def _address(peer: object) -> str:
    """As limits count it; empty: this machine."""
    host = str(peer[0]) if isinstance(peer, tuple) else ""
    return "" if client_address.is_local(host) else client_address.client(host)
