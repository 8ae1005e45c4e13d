"""Announces the Wyoming server by multicast DNS (zeroconf), so that Home Assistant discovers it."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio
import psutil

log = logging.getLogger(__name__)

SERVICE = "_wyoming._tcp.local."
LABEL = 63
"""Longest label of a DNS name, in bytes."""
WITHDRAW_SECONDS = 2.0
"""Timeout for withdrawing the announcement, in seconds."""
CHECK_SECONDS = 30.0
"""Interval between checks of this machine's addresses, in seconds: a network may come up late or change them."""
LOCAL_INTERFACES = ("docker", "br-", "veth", "virbr", "l4tbr")
"""Name prefixes of interfaces that reach no other machine: of containers, and a Jetson's USB device port."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def addresses(host: str) -> tuple[Address, ...]:
    """The addresses to announce for a listening address; for 0.0.0.0 and :: all suitable ones of that family.

    Raises ValueError when `host` is no IP address.
    """
    return select_addresses(host, psutil.net_if_addrs())


def select_addresses(host: str, interfaces: Mapping[str, Iterable[Any]]) -> tuple[Address, ...]:
    """As `addresses`, for interfaces in psutil's format."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return (address,)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    found = {
        ipaddress.ip_address(each.address.partition("%")[0])
        for name, interface in interfaces.items()
        if not name.startswith(LOCAL_INTERFACES)
        for each in interface
        if each.family == family
    }
    return tuple(sorted(each for each in found if not (each.is_loopback or each.is_link_local)))


async def announce(
    host: str,
    port: int,
    every: float = CHECK_SECONDS,
    find: Callable[[str], tuple[Address, ...]] = addresses,
) -> None:
    """Announces the current addresses until cancelled; logs every problem once."""
    try:
        import zeroconf.asyncio  # noqa: F401 - checks that it is installed
    except ImportError:
        log.warning("Wyoming is not announced to Home Assistant: pip install 'chatapi-appliance[wyoming]'")
        return
    announcement = _Announcement(port)
    try:
        while True:
            await announcement.update(find(host))
            await anyio.sleep(every)
    except ValueError:
        log.warning("Wyoming is not announced to Home Assistant: %s is no IP address", host)
    finally:
        await announcement.withdraw()


class _Announcement:
    """The current announcement."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._name = f"chatapi-{socket.gethostname().partition('.')[0]}".encode()[:LABEL].decode(errors="ignore")
        self._announcer: Any = None
        self._announced: tuple[Address, ...] = ()
        self._last_warning = ""

    async def update(self, found: tuple[Address, ...]) -> None:
        """Announces these addresses, if they have changed."""
        from zeroconf import Error

        if found == self._announced and found:
            return
        await self.withdraw()
        if not found:
            self._warn_once("this machine has no network address yet")
            return
        try:
            await self._announce(found)
        except (Error, OSError) as error:
            await self.withdraw()
            self._warn_once(str(error))
            return
        self._announced, self._last_warning = found, ""
        log.info("Wyoming announced to Home Assistant", extra={"addresses": _texts(found), "port": self._port})

    async def _announce(self, found: tuple[Address, ...]) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

        version = IPVersion.V4Only if found[0].version == 4 else IPVersion.V6Only
        self._announcer = AsyncZeroconf(interfaces=_texts(found), ip_version=version)
        service = AsyncServiceInfo(
            SERVICE,
            f"{self._name}.{SERVICE}",
            port=self._port,
            addresses=[each.packed for each in found],
            server=f"{self._name}.local.",
        )
        await self._announcer.async_register_service(service, allow_name_change=True)

    async def withdraw(self) -> None:
        """Withdraws the announcement."""
        announcer, self._announcer, self._announced = self._announcer, None, ()
        if announcer is not None:
            # Shielded from cancellation, which would leave its sockets open.
            with anyio.move_on_after(WITHDRAW_SECONDS, shield=True):
                await announcer.async_unregister_all_services()
                await announcer.async_close()

    def _warn_once(self, reason: str) -> None:
        if reason != self._last_warning:
            self._last_warning = reason
            log.warning("Wyoming is not announced to Home Assistant: %s", reason)


def _texts(found: tuple[Address, ...]) -> list[str]:
    return [str(each) for each in found]
