"""Announcement by zeroconf, on loopback."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
from types import SimpleNamespace

import anyio
import pytest

from chatapi.interfaces.wyoming.zeroconf import SERVICE, announce, select_addresses
from conftest import TIMEOUT, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> str:
    """A unique host name: other tests may announce theirs meanwhile."""
    name = f"machine{os.getpid()}"
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    return name


async def test_service_is_discovered_and_withdrawn(machine: str) -> None:
    pytest.importorskip("zeroconf")
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    seen: list[tuple[str, ServiceStateChange]] = []
    notified = anyio.Event()

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name.startswith(f"chatapi-{machine}"):
            seen.append((name, state_change))
            notified.set()

    listener = AsyncZeroconf(interfaces=["127.0.0.1"])
    browser = AsyncServiceBrowser(listener.zeroconf, SERVICE, handlers=[changed])
    try:
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as group:
                group.start_soon(announce, "127.0.0.1", 10300)
                await notified.wait()
                name = seen[0][0]
                assert name == f"chatapi-{machine}.{SERVICE}"
                found = AsyncServiceInfo(SERVICE, name)
                assert await found.async_request(listener.zeroconf, 30_000)
                assert (found.parsed_addresses(), found.port) == (["127.0.0.1"], 10300)
                notified = anyio.Event()
                group.cancel_scope.cancel()
            await notified.wait()
        assert seen[-1] == (name, ServiceStateChange.Removed)
    finally:
        await browser.async_cancel()
        await listener.async_close()


async def test_missing_library_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with caplog.at_level(logging.WARNING), anyio.fail_after(TIMEOUT):
        await announce("127.0.0.1", 10300)
    assert [record.message for record in caplog.records] == [
        "Wyoming is not announced to Home Assistant: pip install 'chatapi-appliance[wyoming]'"
    ]


async def test_host_name_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("zeroconf")
    with caplog.at_level(logging.WARNING), anyio.fail_after(TIMEOUT):
        await announce("server.local", 10300)
    assert "server.local is no IP address" in caplog.text


async def test_late_and_lost_networks_are_detected(machine: str) -> None:
    pytest.importorskip("zeroconf")
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    seen: list[ServiceStateChange] = []
    now: list[tuple[ipaddress.IPv4Address, ...]] = [()]

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name.startswith(f"chatapi-{machine}"):
            seen.append(state_change)

    listener = AsyncZeroconf(interfaces=["127.0.0.1"])
    browser = AsyncServiceBrowser(listener.zeroconf, SERVICE, handlers=[changed])
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(announce, "0.0.0.0", 10301, 0.01, lambda host: now[0])
            now[0] = (ipaddress.IPv4Address("127.0.0.1"),)
            await until(lambda: ServiceStateChange.Added in seen)
            now[0] = ()
            await until(lambda: seen[-1] is ServiceStateChange.Removed)
            group.cancel_scope.cancel()
    finally:
        await browser.async_cancel()
        await listener.async_close()


def test_only_reachable_addresses_of_the_family_are_announced() -> None:
    def interface(family: int, address: str) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=address)

    four, six = socket.AF_INET, socket.AF_INET6
    interfaces = {
        "lo": [interface(four, "127.0.0.1"), interface(six, "::1")],
        "docker0": [interface(four, "172.17.0.1")],
        "l4tbr0": [interface(four, "192.168.55.1")],
        "wlan0": [interface(four, "192.168.1.7"), interface(six, "fe80::1%wlan0"), interface(six, "fd00::7")],
        "eth0": [interface(four, "169.254.3.4"), interface(four, "10.0.0.2")],
    }

    def found(host: str) -> list[str]:
        return [str(each) for each in select_addresses(host, interfaces)]

    assert found("0.0.0.0") == ["10.0.0.2", "192.168.1.7"]
    assert (found("::"), found("10.0.0.9")) == (["fd00::7"], ["10.0.0.9"])
