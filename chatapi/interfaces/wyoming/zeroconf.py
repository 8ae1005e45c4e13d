"""Telling the local network by multicast DNS where it is, so that Home Assistant finds it by itself."""

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
"""Most bytes of a name's part."""
LEAVING = 2.0
"""Seconds for saying that it is gone."""
LOOK_SECONDS = 30.0
"""Seconds between two looks at which addresses this machine has: a network may come up late, or give another one."""
WITHIN = ("docker", "br-", "veth", "virbr", "l4tbr")
"""How interfaces are called that lead to no other machine of the house: containers', and a Jetson's USB plug."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def addresses(host: str) -> tuple[Address, ...]:
    """At which others find what listens there: itself, or of all (0.0.0.0, ::) those of its family that fit.

    Raises ValueError where it is no address.
    """
    return fitting(host, psutil.net_if_addrs())


def fitting(host: str, interfaces: Mapping[str, Iterable[Any]]) -> tuple[Address, ...]:
    """As `addresses`; `interfaces` as psutil tells them."""
    asked = ipaddress.ip_address(host)
    if not asked.is_unspecified:
        return (asked,)
    family = socket.AF_INET if asked.version == 4 else socket.AF_INET6
    found = {
        ipaddress.ip_address(each.address.partition("%")[0])
        for name, given in interfaces.items()
        if not name.startswith(WITHIN)
        for each in given
        if each.family == family
    }
    return tuple(sorted(each for each in found if not (each.is_loopback or each.is_link_local)))


async def announce(
    host: str,
    port: int,
    every: float = LOOK_SECONDS,
    find: Callable[[str], tuple[Address, ...]] = addresses,
) -> None:
    """Until cancelled, at the addresses that the machine has at the time; what keeps it from that is told once."""
    try:
        import zeroconf.asyncio  # noqa: F401 - to know that it is here
    except ImportError:
        log.warning("Wyoming is not announced to Home Assistant: pip install 'chatapi-appliance[wyoming]'")
        return
    voice = _Voice(port)
    try:
        while True:
            await voice.tell(find(host))
            await anyio.sleep(every)
    except ValueError:
        log.warning("Wyoming is not announced to Home Assistant: %s is no address of this machine's network", host)
    finally:
        await voice.fall_silent()


class _Voice:
    """What is announced."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._name = f"chatapi-{socket.gethostname().partition('.')[0]}".encode()[:LABEL].decode(errors="ignore")
        self._announcer: Any = None
        self._told: tuple[Address, ...] = ()
        self._complaint = ""

    async def tell(self, found: tuple[Address, ...]) -> None:
        """Announce these addresses, if they are others than before."""
        from zeroconf import Error

        if found == self._told and found:
            return
        await self.fall_silent()
        if not found:
            self._complain("this machine has no address in a network yet")
            return
        try:
            await self._announce(found)
        except (Error, OSError) as error:
            await self.fall_silent()
            self._complain(str(error))
            return
        self._told, self._complaint = found, ""
        log.info("Wyoming is announced to Home Assistant", extra={"addresses": _texts(found), "port": self._port})

    async def _announce(self, found: tuple[Address, ...]) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

        version = IPVersion.V4Only if found[0].version == 4 else IPVersion.V6Only
        self._announcer = AsyncZeroconf(interfaces=_texts(found), ip_version=version)
        told = AsyncServiceInfo(
            SERVICE,
            f"{self._name}.{SERVICE}",
            port=self._port,
            addresses=[each.packed for each in found],
            server=f"{self._name}.local.",
        )
        await self._announcer.async_register_service(told, allow_name_change=True)

    async def fall_silent(self) -> None:
        """Say that it is gone."""
        announcer, self._announcer, self._told = self._announcer, None, ()
        if announcer is not None:
            # Also where it is cancelled meanwhile: its sockets would stay open.
            with anyio.move_on_after(LEAVING, shield=True):
                await announcer.async_unregister_all_services()
                await announcer.async_close()

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            log.warning("Wyoming is not announced to Home Assistant: %s", why)


def _texts(found: tuple[Address, ...]) -> list[str]:
    return [str(each) for each in found]
