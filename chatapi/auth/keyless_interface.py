"""Interfaces whose protocol has no API keys: whether keys disable them, and which clients may connect, and how many.

Their settings table lists the networks of their clients, and says what clients may do.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from chatapi.auth import client_address, key_store
from chatapi.auth.keyring import Keyring
from chatapi.auth.policy import Operation
from chatapi.auth.scopes import KeyHolder
from chatapi.errors import Busy, Forbidden, SettingsError, Unauthorized
from chatapi.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEY_CHECK_SECONDS = 1.0
"""Interval between checks whether API keys were created, in seconds."""
RETRY_SECONDS = 5.0
"""Retry delay for a client rejected because of too many connections, in seconds."""


class KeylessSettings(Protocol):
    """What the settings table of such an interface has."""

    @property
    def enabled(self) -> bool | None:
        """Whether the interface is offered; None: by default, which API keys change."""

    @property
    def host(self) -> str:
        """Address to listen on; empty: only a Unix socket."""

    @property
    def allow(self) -> tuple[str, ...]:
        """Networks that may connect, besides this machine; empty: all."""

    @property
    def scope(self) -> str:
        """What clients may do."""

    @property
    def connections(self) -> int:
        """Largest number of open connections."""

    @property
    def connections_per_address(self) -> int:
        """Largest number of open connections from one address other than this machine."""


@dataclass(frozen=True)
class KeylessInterface:
    """An interface without API keys, by its settings."""

    title: str
    """The protocol's name, for messages."""
    table_name: str
    """Name of its settings table, for messages."""
    table: KeylessSettings
    settings: Settings

    @property
    def is_public(self) -> bool:
        """Whether other machines can connect."""
        return bool(self.table.host) and self.table.host not in LOOPBACK

    @property
    def is_enabled(self) -> bool:
        """Whether it is offered with the API keys that exist now."""
        has_keys = self.settings.server.api_key is not None or key_store.file_of(self.settings.data).exists()
        return self.table.enabled is not False and not (has_keys and self.disabled_by_keys)

    @property
    def disabled_by_keys(self) -> str:
        """Why API keys disable it with these settings; empty when they do not."""
        if self.table.enabled is None:
            return (
                f"the box has API keys, and {self.title} has none; {self.table_name}.enabled=true opens it to every "
                "client that can connect"
            )
        if self.is_public and not self.table.allow:
            return (
                f"the box has API keys, and {self.title}, which has none, would be open to everyone on the network; "
                f"set {self.table_name}.allow to the networks that may connect, such as 192.168.1.0/24"
            )
        return ""

    def check_open(self, keyring: Keyring) -> None:
        """Raises Unauthorized when keys created after the start disable it."""
        try:
            required = keyring.required
        except SettingsError:
            required = True
        if required and (reason := self.disabled_by_keys):
            raise Unauthorized(reason)


class AllowedNetworks:
    """The networks of a settings table; without any, every client may connect."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(each, strict=False) for each in networks]

    def has(self, peer: object) -> bool:
        """Whether a client may connect. `peer`: a socket address; a Unix socket's, which is a path, always may, because
        the file's mode decides."""
        if not self._networks or not isinstance(peer, tuple):
            return True
        try:
            address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
        except ValueError:
            # A proxy on this machine may pass anything on as the client's address.
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or any(address in each for each in self._networks)


class KeylessClient:
    """A client whose connection was admitted."""

    def __init__(
        self,
        address: str,
        interface: KeylessInterface,
        keyring: Keyring,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`address`: the address that limits count, empty for this machine; `clock` returns seconds."""
        self.address = address
        remedy = f"the setting {interface.table_name}.scope changes it"
        self.holder = KeyHolder("-", (interface.table.scope,), title=f"a client of {interface.title}", remedy=remedy)
        """What it may do."""
        self._interface = interface
        self._keyring = keyring
        self._clock = clock
        self._checked = clock()

    def authorize(self, wanted: Operation) -> None:
        """Checks that the policy allows an operation, and now and then that no API key has disabled the interface.

        Raises Unauthorized, Forbidden (scope_missing), NotFound.
        """
        if (now := self._clock()) - self._checked >= KEY_CHECK_SECONDS:
            self._checked = now
            self._interface.check_open(self._keyring)
        self._keyring.authorize(self.holder, wanted)


class KeylessClients:
    """The open connections of a running interface without API keys."""

    def __init__(self, interface: KeylessInterface, keyring: Keyring) -> None:
        self._interface = interface
        self._keyring = keyring
        self._networks = AllowedNetworks(interface.table.allow)
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._addresses.total()

    @contextmanager
    def admitted(self, peer: object) -> Iterator[KeylessClient]:
        """Counts a client's connection inside the context. `peer`: its socket address.

        Raises Forbidden (network_not_allowed), Unauthorized when API keys disable the interface, and Busy
        (too_many_connections).
        """
        host = client_address.host(peer)
        if not self._networks.has(peer):
            message = f"{host} is in none of the networks that may connect; {self._interface.table_name}.allow has them"
            raise Forbidden(message, code="network_not_allowed")
        self._interface.check_open(self._keyring)
        address = client_address.counted(host)
        self._check_room(address)
        self._addresses[address] += 1
        try:
            yield KeylessClient(address, self._interface, self._keyring)
        finally:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def _check_room(self, address: str) -> None:
        table, reason = self._interface.table, ""
        if len(self) >= table.connections:
            reason = f"{len(self)} connections are open, which is the limit"
        elif address and self._addresses[address] >= table.connections_per_address:
            reason = f"{table.connections_per_address} connections from your address are open, which is the limit"
        if reason:
            raise Busy(reason, code="too_many_connections", retry_after=RETRY_SECONDS)
