"""Client addresses: which ones count as one client, and which ones are this machine."""

from __future__ import annotations

import functools
import ipaddress


@functools.lru_cache(4096)
def client(address: str) -> str:
    """The key for limits per client: an IPv4 address, or the /64 network of an IPv6 address, which one client owns."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)


@functools.lru_cache(4096)
def is_local(address: str) -> bool:
    """Whether the address is this machine: loopback, or no address, as Unix sockets have none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def counted(address: str) -> str:
    """The key for limits per client that spare this machine: empty for it, else as `client`."""
    return "" if is_local(address) else client(address)


def host(peer: object) -> str:
    """The address in a socket address; empty for a Unix socket's, which is a path."""
    return str(peer[0]) if isinstance(peer, tuple) else ""
