"""That the box is on the network, as Home Assistant would hear of it; here the network is loopback."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
from types import SimpleNamespace

import anyio
import pytest

from chatapi.interfaces.wyoming.zeroconf import SERVICE, announce, fitting
from conftest import PATIENCE, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> str:
    """This machine's name, which is no other process's: tests of others may announce theirs meanwhile."""
    name = f"machine{os.getpid()}"
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    return name


async def test_it_is_found_by_its_service_and_gone_when_it_ends(machine: str) -> None:
    pytest.importorskip("zeroconf")
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    seen: list[tuple[str, ServiceStateChange]] = []
    told = anyio.Event()

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name.startswith(f"chatapi-{machine}"):
            seen.append((name, state_change))
            told.set()

    listener = AsyncZeroconf(interfaces=["127.0.0.1"])
    browser = AsyncServiceBrowser(listener.zeroconf, SERVICE, handlers=[changed])
    try:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(announce, "127.0.0.1", 10300)
                await told.wait()
                name = seen[0][0]
                assert name == f"chatapi-{machine}.{SERVICE}"
                found = AsyncServiceInfo(SERVICE, name)
                assert await found.async_request(listener.zeroconf, 30_000)
                assert (found.parsed_addresses(), found.port) == (["127.0.0.1"], 10300)
                told = anyio.Event()
                group.cancel_scope.cancel()
            await told.wait()
        assert seen[-1] == (name, ServiceStateChange.Removed)
    finally:
        await browser.async_cancel()
        await listener.async_close()


async def test_without_its_library_one_sentence_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with caplog.at_level(logging.WARNING), anyio.fail_after(PATIENCE):
        await announce("127.0.0.1", 10300)
    assert [record.message for record in caplog.records] == [
        "Wyoming is not announced to Home Assistant: pip install 'chatapi-appliance[wyoming]'"
    ]


async def test_a_name_is_no_address_to_announce(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("zeroconf")
    with caplog.at_level(logging.WARNING), anyio.fail_after(PATIENCE):
        await announce("box.local", 10300)
    assert "box.local is no address" in caplog.text


async def test_a_network_that_comes_late_and_goes_is_noticed(machine: str) -> None:
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


def test_only_addresses_of_its_family_at_which_others_find_it_are_announced() -> None:
    def given(family: int, address: str) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=address)

    four, six = socket.AF_INET, socket.AF_INET6
    interfaces = {
        "lo": [given(four, "127.0.0.1"), given(six, "::1")],
        "docker0": [given(four, "172.17.0.1")],
        "l4tbr0": [given(four, "192.168.55.1")],
        "wlan0": [given(four, "192.168.1.7"), given(six, "fe80::1%wlan0"), given(six, "fd00::7")],
        "eth0": [given(four, "169.254.3.4"), given(four, "10.0.0.2")],
    }

    def found(host: str) -> list[str]:
        return [str(each) for each in fitting(host, interfaces)]

    assert found("0.0.0.0") == ["10.0.0.2", "192.168.1.7"]
    assert (found("::"), found("10.0.0.9")) == (["fd00::7"], ["10.0.0.9"])
