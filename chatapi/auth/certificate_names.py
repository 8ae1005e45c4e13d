"""The names and addresses that the box's certificate is valid for."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

PRIVATE = tuple(
    ipaddress.ip_network(net)
    for net in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7")
)
"""Private networks, whose addresses mean another machine in every network; the authority may sign all of them."""
DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class CertificateNames:
    """The DNS names and IP addresses that a certificate is valid for."""

    dns: frozenset[str]
    addresses: frozenset[Address]

    def __le__(self, other: CertificateNames) -> bool:
        return self.dns <= other.dns and self.addresses <= other.addresses


def names(more: Iterable[str] = ()) -> CertificateNames:
    """This machine's names and addresses, and those in `more` (`[::1]` means ::1; invalid names are left out).

    Global IPv6 addresses are left out: nobody types them, and many change every day.
    """
    host = socket.gethostname().lower()
    wanted = {"localhost", "127.0.0.1", "::1", host, f"{host.partition('.')[0]}.local", *more}
    for interface in psutil.net_if_addrs().values():
        for each in interface:
            if each.family == socket.AF_INET or (each.family == socket.AF_INET6 and is_private(each.address)):
                wanted.add(each.address)
    dns, addresses = set(), set()
    for name in wanted:
        if (address := _address(name)) is not None:
            addresses.add(address)
        elif DNS_NAME.fullmatch(name):
            dns.add(name.lower())
    # The unspecified address (0.0.0.0) is an address to listen on, not one to connect to.
    return CertificateNames(frozenset(dns), frozenset(address for address in addresses if not address.is_unspecified))


def reachable_address() -> str:
    """An IPv4 address at which other machines reach this one; localhost if it has none."""
    addresses = [
        each.address
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family == socket.AF_INET
    ]
    return next((each for each in addresses if not each.startswith(("127.", "169.254."))), "localhost")


def is_private(text: str) -> bool:
    """Whether the text is an address of a private network."""
    address = _address(text)
    return address is not None and any(address in net for net in PRIVATE)


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
