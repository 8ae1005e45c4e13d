"""Telling the local network by multicast DNS where it is, so that Home Assistant finds it by itself."""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import Any

import anyio

from chatapi.certificates import reachable

log = logging.getLogger(__name__)

SERVICE = "_wyoming._tcp.local."
LABEL = 63
"""Most bytes of a name's part."""
LEAVING = 2.0
"""Seconds for saying that it is gone."""


async def announce(host: str, port: int) -> None:
    """Until cancelled; what keeps it from being announced is told once. `host`: an address, or all (0.0.0.0, ::)."""
    try:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
    except ImportError:
        log.warning("Wyoming is not announced to Home Assistant: pip install 'chatapi[wyoming]'")
        return
    address = _address(host)
    if address is None:
        log.warning("Wyoming is not announced to Home Assistant: %s is no address of this machine's network", host)
        return
    name = f"chatapi-{socket.gethostname().partition('.')[0]}".encode()[:LABEL].decode(errors="ignore")
    told = AsyncServiceInfo(
        SERVICE, f"{name}.{SERVICE}", port=port, addresses=[address.packed], server=f"{name}.local."
    )
    announcer: Any = None
    try:
        announcer = AsyncZeroconf(interfaces=[str(address)])
        await announcer.async_register_service(told, allow_name_change=True)
        log.info("Wyoming is announced to Home Assistant", extra={"address": str(address), "port": port})
        await anyio.sleep_forever()
    except (Error, OSError) as error:
        log.warning("Wyoming is not announced to Home Assistant: %s", error)
    finally:
        if announcer is not None:
            with anyio.move_on_after(LEAVING, shield=True):
                await announcer.async_unregister_all_services()
                await announcer.async_close()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
        return ipaddress.ip_address(reachable()) if address.is_unspecified else address
    except ValueError:
        return None
