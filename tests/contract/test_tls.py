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
def secure(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    with serving(fake_settings("server.tls=true")) as running:
        yield running


def trusting(data: Path) -> ssl.SSLContext:
    """What a device has that trusts the box's authority and nobody else."""
    return ssl.create_default_context(cafile=CertificateKeeper(data).authority)


def test_routes_work_and_the_authority_can_be_fetched(secure: RunningServer) -> None:
    assert secure.client.get("/health").json()["status"] == "ok"
    got = secure.client.get("/certificate")
    assert got.headers["content-type"] == "application/x-x509-ca-cert"
    assert got.content == CertificateKeeper(secure.appliance.settings.data).authority.read_bytes()


def test_without_tls_there_is_no_authority_to_fetch(fake_server: RunningServer) -> None:
    assert fake_server.client.get("/certificate").status_code == 404


@pytest.mark.anyio
async def test_websockets_are_secure_too_and_take_no_page_that_came_without_tls(secure: RunningServer) -> None:
    trusted, url = trusting(secure.appliance.settings.data), f"wss://127.0.0.1:{secure.port}/v1/realtime"
    async with connect(url, ssl=trusted, origin=f"https://127.0.0.1:{secure.port}") as socket_:  # type: ignore[arg-type]
        assert "session.created" in str(await socket_.recv())
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url, ssl=trusted, origin=f"http://127.0.0.1:{secure.port}")  # type: ignore[arg-type]


def test_names_that_are_not_the_boxs_are_refused_as_without_tls(secure: RunningServer) -> None:
    refused = secure.client.get("/health", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.json()["code"]) == (403, "unknown_host")


def test_plain_http_is_sent_on(secure: RunningServer) -> None:
    plain = f"http://127.0.0.1:{secure.port}"
    sent = httpx.get(f"{plain}/page/x?y=1")
    assert (sent.status_code, sent.headers["location"]) == (307, f"https://127.0.0.1:{secure.port}/page/x?y=1")
    refused = httpx.post(f"{plain}/completion", json={"prompt": "hello"})
    assert refused.status_code == 400 and "HTTPS" in refused.text


def dial(server: RunningServer, data: bytes = b"") -> socket.socket:
    dialled = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
    dialled.sendall(data)
    return dialled


def ended(dialled: socket.socket, seconds: float = 8) -> bool:
    """Whether the server hung up: sooner than it does by itself where nothing is set."""
    dialled.settimeout(seconds)
    try:
        while dialled.recv(1000):
            continue
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log holds from warning on, but for asyncio's own word that something was slow."""
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [each for each in told if not each.startswith("Executing ")]


@pytest.mark.parametrize(
    "garbage", [b"\0\1\2", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05hello", b"\x16" * 3000, b"GET " + b"x" * 9000]
)
def test_garbage_is_hung_up_on_without_a_word_in_the_log(
    secure: RunningServer, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    with dial(secure, garbage) as dialled:
        assert ended(dialled)
    assert secure.client.get("/ready").status_code == 200
    assert complaints(caplog) == []


def hello() -> bytes:
    """The first flight of a handshake that its sender does not go on with."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@pytest.mark.parametrize("said", [b"", b"\x16", b"GET / HT", hello(), hello()[:40]], ids=len)
def test_half_a_handshake_is_given_up_in_time(
    secure: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    with dial(secure, said) as dialled:
        assert ended(dialled)
    assert complaints(caplog) == []


def test_a_crowd_at_the_door_keeps_nobody_out(
    secure: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "MOST_HANDSHAKES", 6)
    idle = [dial(secure, said) for said in (b"", b"\x16", hello(), b"GET ") for _ in range(5)]
    assert secure.client.get("/ready").status_code == 200
    assert [ended(each) for each in idle[:13]] == [True] * 13, "the oldest went"
    assert not ended(idle[-1], 0.1)
    for each in idle:
        each.close()
    assert complaints(caplog) == []


def test_one_who_shakes_hands_and_says_no_more_is_dropped_as_without_tls(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings("server.tls=true", "server.head_seconds=0.3")) as running:
        with trusting(running.appliance.settings.data).wrap_socket(
            dial(running), server_hostname="localhost"
        ) as inside:
            assert ended(inside)


def test_the_server_stops_while_somebody_stands_in_the_door(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.tls=true")) as running:
        standing = [dial(running, said) for said in (b"", b"GET ", hello())]
        assert running.client.get("/ready").status_code == 200
    assert all(ended(each) for each in standing)
    for each in standing:
        each.close()


def test_serve_tells_where_it_is_and_what_it_shows(tmp_path: Path) -> None:
    chosen = [word for each in (f"data={tmp_path}", "server.port=0", *FAKE_ENGINES) for word in ("--set", each)]
    process = subprocess.Popen(
        [sys.executable, "-m", "chatapi", "serve", "--tls", *chosen],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = ""
        while "ready after" not in told:
            told += process.stdout.readline()
        found = re.search(r"(https://127\.0\.0\.1:(\d+)) has a certificate .* fingerprint ([0-9A-F:]{95})\n", told)
        assert found is not None, told
        assert "browsers warn about an unknown" in told
        assert httpx.get(f"{found[1]}/ready", verify=trusting(tmp_path)).json() == {"ready": True}
        pem = ssl.get_server_certificate(("127.0.0.1", int(found[2])))
        assert fingerprint(ssl.PEM_cert_to_DER_cert(pem)) == found[3]
    finally:
        process.send_signal(signal.SIGTERM)
        told += process.stdout.read()
        process.stdout.close()
        assert process.wait(TIMEOUT) in (0, -signal.SIGTERM)
    assert "PRIVATE" not in told and "Traceback" not in told
