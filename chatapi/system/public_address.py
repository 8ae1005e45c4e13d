"""Which addresses are on the public internet, and not on this machine or a network that only it can reach."""

from __future__ import annotations

import ipaddress

NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses whose last four bytes are the IPv4 address that a gateway connects to (RFC 6052)."""


def is_public(address: str) -> bool:
    """Whether an address is neither private, link-local, loopback, multicast nor reserved, also when it embeds an IPv4
    address. Raises ValueError."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.is_site_local:
            return False
        found = _embedded(found) or found
    return found.is_global and not found.is_multicast and not found.is_reserved


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address reach in the end."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    # The compatible form, ::127.0.0.1, is obsolete, and some systems still route it.
    in_low_bytes = address in NAT64 or int(address) >> 32 == 0
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if in_low_bytes else None
