"""Wyoming's listeners: addresses, allowed clients, API keys and shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.client import AsyncTcpClient
from wyoming.ping import Ping

from chatapi import auth, settings
from chatapi.auth.keyless_interface import AllowedNetworks
from chatapi.cli.check import network
from chatapi.errors import SettingsError
from chatapi.interfaces.wyoming import listeners
from chatapi.settings import Settings
from check_contexts import check_context, findings
from conftest import FAKE_ENGINES, TIMEOUT, RunAppliance
from conftest import until as eventually
from paths import ROOT
from test_wyoming_faults import START, anyio_test, bytes_of, pinged
from wyoming_peer import ask, open_to_wyoming, until


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (("192.168.1.7", 5), True),
        (("192.168.2.7", 5), False),
        (("::ffff:192.168.1.7", 5, 0, 0), True),
        (("fd00::1%eth0", 5, 0, 2), True),
        (("fd01::1", 5, 0, 2), False),
        (("127.0.0.1", 5), True),
        (("::1", 5, 0, 0), True),
        ("/run/wyoming.sock", True),
    ],
)
def test_only_allowed_networks_may_connect(peer: object, allowed: bool) -> None:
    assert AllowedNetworks(["192.168.1.0/24", "fd00::/16"]).has(peer) is allowed
    assert AllowedNetworks([]).has(peer)


def test_invalid_network_is_rejected() -> None:
    assert settings.load(["wyoming.allow=192.168.1.9/24,::/0"], environ={}).settings.wyoming.allow
    with pytest.raises(SettingsError, match=r"must be networks such as 192.168.1.0/24; 'home' is not a network"):
        settings.load(["wyoming.allow=home"], environ={})


@pytest.mark.parametrize(
    ("chosen", "enabled", "demanded"),
    [
        ([], True, False),
        (["server.api_key=secret"], False, False),
        (["server.api_key=secret", "wyoming.enabled=true"], True, True),
        (["server.api_key=secret", "wyoming.port=10301"], False, True),
        (["server.api_key=secret", "wyoming.host=0.0.0.0"], False, True),
        (["server.api_key=secret", "wyoming.enabled=true", "wyoming.host=0.0.0.0"], False, True),
        (["server.api_key=secret", "wyoming.enabled=true", "wyoming.host=::", "wyoming.allow=fd00::/16"], True, True),
        (["wyoming.host=0.0.0.0"], True, True),
        (["wyoming.enabled=false", "wyoming.host=0.0.0.0"], False, False),
    ],
)
def test_default_of_enabled_depends_on_keys_and_networks(
    chosen: list[str], enabled: bool, demanded: bool, tmp_path: Path
) -> None:
    found = settings.load([*chosen, f"data={tmp_path}"], environ={}).settings
    assert (listeners.keyless(found).is_enabled, found.wyoming.demanded) == (enabled, demanded)


def test_port_in_use_is_an_error_only_when_wyoming_was_requested(fake_settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        for more in ("wyoming.enabled=true", f"wyoming.socket={Path.cwd()}/w.sock"):
            with pytest.raises(SettingsError, match=r"Address already in use; set wyoming.host or wyoming.port"):
                listeners.open_listeners(fake_settings(f"wyoming.port={port}", more))
    assert not Path("w.sock").exists()
    with pytest.raises(SettingsError, match="set one of them"):
        listeners.open_listeners(fake_settings("wyoming.host="))
    assert listeners.open_listeners(fake_settings("wyoming.enabled=false")) == []


def test_stale_unix_socket_is_replaced(fake_settings: Callable[..., Settings]) -> None:
    path = Path.cwd() / "w.sock"
    chosen = fake_settings("wyoming.host=", f"wyoming.socket={path}")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listening = listeners.open_listeners(chosen)
    assert path.stat().st_mode & 0o777 == 0o660
    with pytest.raises(SettingsError, match="another process listens on"):
        listeners.open_listeners(chosen)
    listeners.close(listening, path)
    path.write_text("a letter")
    with pytest.raises(SettingsError, match="is not a socket"):
        listeners.open_listeners(chosen)
    assert path.read_text() == "a letter"


def test_check_reports_port_and_allowed_clients() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert findings(network.wyoming, check_context({}, f"wyoming.port={port}"))[0].split(":")[0] in (
            "good Wyoming",
            "bad Wyoming",
        )
    assert findings(network.wyoming, check_context({}, f"wyoming.port={port}")) == [
        f"good Wyoming: 127.0.0.1:{port} is free"
    ]
    assert findings(network.wyoming, check_context({}, "wyoming.enabled=false")) == []
    for chosen, warned in (((), True), (("wyoming.allow=192.168.1.0/24",), False)):
        found = findings(network.wyoming, check_context({}, "wyoming.host=0.0.0.0", f"wyoming.port={port}", *chosen))
        assert any("open to everyone on the network, and Wyoming has no keys" in line for line in found) is warned


@pytest.fixture
def process(tmp_path: Path) -> Any:
    """Starts `chatapi serve` with fake engines, a free port and further settings."""
    started: list[subprocess.Popen[str]] = []

    def start(*more: str) -> tuple[subprocess.Popen[str], str]:
        chosen = [*FAKE_ENGINES, f"data={tmp_path}/data", "server.port=0", *more]
        command = [sys.executable, "-m", "chatapi", *(word for each in chosen for word in ("--set", each)), "serve"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
        started.append(child)
        assert child.stdout is not None
        lines = []
        while (line := child.stdout.readline()) and "ready after" not in line:
            lines.append(line)
        return child, "".join(lines)

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_signal_ends_it_with_open_connections(process: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    child, lines = process("wyoming.port=0", f"wyoming.socket={path}")
    port = int(lines.split("tcp://127.0.0.1:")[1].split()[0])
    assert f"unix://{path}" in lines
    with socket.create_connection(("127.0.0.1", port)) as idle, socket.socket(socket.AF_UNIX) as busy:
        busy.connect(str(path))
        busy.sendall(bytes_of(Transcript("one two three " * 300)) + bytes_of(Transcribe()) + bytes_of(START))
        assert busy.recv(10)
        idle.sendall(b'{"type": "pin')
        child.send_signal(signal.SIGTERM)
        child.wait(TIMEOUT)
    assert child.returncode == 0
    assert not path.exists()


@pytest.mark.alone
@anyio_test
async def test_serve_starts_when_the_default_port_is_in_use(process: Any) -> None:
    port = settings.Settings().wyoming.port
    with socket.socket() as occupied:
        occupied.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound() -> bool:
            try:
                occupied.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

        await eventually(bound)
        occupied.listen()
        child, lines = await anyio.to_thread.run_sync(process)
    assert "listening for Wyoming" not in lines
    assert f"Wyoming is off: cannot listen on 127.0.0.1:{port}" in lines
    assert child.poll() is None


@anyio_test
async def test_new_api_key_disables_wyoming_unless_it_is_enabled_explicitly(
    fake_appliance: RunAppliance, tmp_path: Path
) -> None:
    for demanded in (False, True):
        mine = (f"data={tmp_path / str(demanded)}", *(["wyoming.enabled=true"] * demanded))
        async with fake_appliance(*mine) as appliance, open_to_wyoming(appliance) as (_, port):
            assert [event.type for event in await ask(port, Ping(), end=["pong"])] == ["pong"]
            auth.add(appliance.settings.data, "kitchen", [auth.TALK])
            (event,) = await ask(port, Ping(), end=["pong"])
            found = event.type, event.data.get("code")
            assert found == (("pong", None) if demanded else ("error", "unauthorized"))


@anyio_test
async def test_new_api_key_closes_open_connections(fake_appliance: RunAppliance, tmp_path: Path) -> None:
    async with fake_appliance(f"data={tmp_path / 'data'}") as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Ping().event())
            assert (await until(client, "pong"))[-1].type == "pong"
            auth.add(appliance.settings.data, "kitchen", [auth.TALK])
            pings = 0
            with anyio.fail_after(TIMEOUT):
                # The check runs at most once a second, when an event arrives.
                while (last := (await pinged(client, pings)).type) == "pong":
                    pings += 1
            assert last == "error"
