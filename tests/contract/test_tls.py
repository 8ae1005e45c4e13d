"""The HTTPS server: requests, WebSockets, and clients that never finish a handshake."""

from __future__ import annotations

import logging
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.auth.certificates import fingerprint
from chatapi.interfaces.http import tls
from chatapi.settings import Settings
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, serving


@pytest.fixture
def tls_server(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    with serving(fake_settings("server.tls=true")) as running:
        yield running


def client_context(data: Path) -> ssl.SSLContext:
    """The TLS context of a client that trusts only this server's authority."""
    return ssl.create_default_context(cafile=CertificateKeeper(data).authority)


def test_https_serves_the_routes_and_the_authority(tls_server: RunningServer) -> None:
    assert tls_server.client.get("/health").json()["status"] == "ok"
    reply = tls_server.client.get("/certificate")
    assert reply.headers["content-type"] == "application/x-x509-ca-cert"
    assert reply.content == CertificateKeeper(tls_server.appliance.settings.data).authority.read_bytes()


def test_authority_is_not_found_without_tls(fake_server: RunningServer) -> None:
    assert fake_server.client.get("/certificate").status_code == 404


@pytest.mark.anyio
async def test_websockets_work_and_reject_an_http_origin(tls_server: RunningServer) -> None:
    trusted, url = client_context(tls_server.appliance.settings.data), f"wss://127.0.0.1:{tls_server.port}/v1/realtime"
    async with connect(url, ssl=trusted, origin=f"https://127.0.0.1:{tls_server.port}") as socket_:  # type: ignore[arg-type]
        assert "session.created" in str(await socket_.recv())
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url, ssl=trusted, origin=f"http://127.0.0.1:{tls_server.port}")  # type: ignore[arg-type]


def test_unknown_host_names_are_rejected(tls_server: RunningServer) -> None:
    rejected = tls_server.client.get("/health", headers={"Host": "evil.example"})
    assert (rejected.status_code, rejected.json()["code"]) == (403, "unknown_host")


def test_plain_http_is_redirected(tls_server: RunningServer) -> None:
    plain = f"http://127.0.0.1:{tls_server.port}"
    redirect = httpx.get(f"{plain}/page/x?y=1")
    assert (redirect.status_code, redirect.headers["location"]) == (
        307,
        f"https://127.0.0.1:{tls_server.port}/page/x?y=1",
    )
    rejected = httpx.post(f"{plain}/completion", json={"prompt": "hello"})
    assert rejected.status_code == 400 and "HTTPS" in rejected.text


def connect_to(server: RunningServer, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
    connection.sendall(data)
    return connection


def disconnects(connection: socket.socket, seconds: float = 8) -> bool:
    """Whether the server disconnects within `seconds`, which is less than its default timeouts."""
    connection.settimeout(seconds)
    try:
        while connection.recv(1000):
            continue
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings and errors of the log, except asyncio's about slow callbacks."""
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [each for each in messages if not each.startswith("Executing ")]


@pytest.mark.parametrize(
    "garbage", [b"\0\1\2", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05hello", b"\x16" * 3000, b"GET " + b"x" * 9000]
)
def test_garbage_is_disconnected_without_a_warning(
    tls_server: RunningServer, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    with connect_to(tls_server, garbage) as connection:
        assert disconnects(connection)
    assert tls_server.client.get("/ready").status_code == 200
    assert warnings(caplog) == []


def client_hello() -> bytes:
    """The first message of a TLS handshake."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@pytest.mark.parametrize("sent", [b"", b"\x16", b"GET / HT", client_hello(), client_hello()[:40]], ids=len)
def test_incomplete_handshake_times_out(
    tls_server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    with connect_to(tls_server, sent) as connection:
        assert disconnects(connection)
    assert warnings(caplog) == []


def test_many_incomplete_handshakes_do_not_block_clients(
    tls_server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "MOST_HANDSHAKES", 6)
    idle = [connect_to(tls_server, data) for data in (b"", b"\x16", client_hello(), b"GET ") for _ in range(5)]
    assert tls_server.client.get("/ready").status_code == 200
    assert [disconnects(each) for each in idle[:13]] == [True] * 13, "the oldest are disconnected"
    assert not disconnects(idle[-1], 0.1)
    for each in idle:
        each.close()
    assert warnings(caplog) == []


def test_client_without_a_request_after_the_handshake_times_out(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings("server.tls=true", "server.head_seconds=0.3")) as running:
        with client_context(running.appliance.settings.data).wrap_socket(
            connect_to(running), server_hostname="localhost"
        ) as connection:
            assert disconnects(connection)


def test_server_stops_during_incomplete_handshakes(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.tls=true")) as running:
        connections = [connect_to(running, data) for data in (b"", b"GET ", client_hello())]
        assert running.client.get("/ready").status_code == 200
    assert all(disconnects(each) for each in connections)
    for each in connections:
        each.close()


def test_serve_prints_its_address_and_fingerprint(tmp_path: Path) -> None:
    chosen = [word for each in (f"data={tmp_path}", "server.port=0", *FAKE_ENGINES) for word in ("--set", each)]
    process = subprocess.Popen(
        [sys.executable, "-m", "chatapi", "serve", "--tls", *chosen],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        output = ""
        while "ready after" not in output:
            output += process.stdout.readline()
        found = re.search(r"(https://127\.0\.0\.1:(\d+)) has a certificate .* fingerprint ([0-9A-F:]{95})\n", output)
        assert found is not None, output
        assert "browsers warn about an unknown" in output
        assert httpx.get(f"{found[1]}/ready", verify=client_context(tmp_path)).json() == {"ready": True}
        pem = ssl.get_server_certificate(("127.0.0.1", int(found[2])))
        assert fingerprint(ssl.PEM_cert_to_DER_cert(pem)) == found[3]
    finally:
        process.send_signal(signal.SIGTERM)
        output += process.stdout.read()
        process.stdout.close()
        assert process.wait(TIMEOUT) in (0, -signal.SIGTERM)
    assert "PRIVATE" not in output and "Traceback" not in output
