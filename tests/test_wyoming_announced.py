"""That the box is on the network, as Home Assistant would hear of it; here the network is loopback."""

from __future__ import annotations

import logging
import sys

import anyio
import pytest

from chatapi.faces.wyoming.announcing import SERVICE, announce

pytestmark = pytest.mark.anyio


async def test_it_is_found_by_its_service_and_gone_when_it_ends() -> None:
    pytest.importorskip("zeroconf")
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    seen: list[tuple[str, ServiceStateChange]] = []
    told = anyio.Event()

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        seen.append((name, state_change))
        told.set()

    listener = AsyncZeroconf(interfaces=["127.0.0.1"])
    browser = AsyncServiceBrowser(listener.zeroconf, SERVICE, handlers=[changed])
    try:
        with anyio.fail_after(15):
            async with anyio.create_task_group() as group:
                group.start_soon(announce, "127.0.0.1", 10300)
                await told.wait()
                name = seen[0][0]
                assert name.startswith("chatapi-") and name.endswith(SERVICE)
                found = AsyncServiceInfo(SERVICE, name)
                assert await found.async_request(listener.zeroconf, 5000)
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
    with caplog.at_level(logging.WARNING), anyio.fail_after(5):
        await announce("127.0.0.1", 10300)
    assert [record.message for record in caplog.records] == [
        "Wyoming is not announced to Home Assistant: pip install 'chatapi[wyoming]'"
    ]


async def test_a_name_is_no_address_to_announce(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("zeroconf")
    with caplog.at_level(logging.WARNING), anyio.fail_after(5):
        await announce("box.local", 10300)
    assert "box.local is no address" in caplog.text
