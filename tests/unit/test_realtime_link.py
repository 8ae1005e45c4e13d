"""The connection to a remote server: addresses, errors in one sentence, and pinned certificates."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from websockets.asyncio.server import serve as websocket_server

from chatapi.auth import tls_pinning
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.auth.certificates import Identity, fingerprint, first_certificate
from chatapi.errors import (
    BadInput,
    Busy,
    ChatapiError,
    Forbidden,
    NotFound,
    NotReady,
    Unauthorized,
    Unprocessable,
    WaitAndRetry,
)
from chatapi.interfaces.audio_device.realtime_link import RealtimeAddress, open_link, parse_address
from chatapi.settings import Settings
from conftest import RunningServer, serving


def address(url: str, data: Path, key: str | None = None, accept: str | None = None) -> RealtimeAddress:
    return parse_address(url, key, accept, data)


async def rejection(kind: type[ChatapiError], where: RealtimeAddress, conversation: str | None = None) -> str:
    with pytest.raises(kind) as raised:
        async with open_link(where, conversation):
            pass
    assert type(raised.value) is kind and "\n" not in raised.value.message
    return raised.value.message


@pytest.mark.parametrize(
    ("url", "name", "path"),
    [
        ("http://box", "http://box:80", "/v1/realtime"),
        ("https://Box.local:8000/", "https://box.local:8000", "/v1/realtime"),
        ("wss://[::1]:9/v1/realtime", "https://[::1]:9", "/v1/realtime"),
        ("ws://host/kitchen/", "http://host:80", "/kitchen/v1/realtime"),
    ],
)
def test_address_may_have_several_forms(tmp_path: Path, url: str, name: str, path: str) -> None:
    found = address(url, tmp_path)
    assert (found.name, found.path) == (name, path)


@pytest.mark.parametrize("url", ["box:8000", "box", "ftp://box", "http://", "http://box:99999", "http://[::1"])
def test_invalid_address_is_rejected(tmp_path: Path, url: str) -> None:
    with pytest.raises(Unprocessable, match="expected for example https://"):
        address(url, tmp_path)


def test_fingerprint_needs_https_and_64_digits(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="needs an https"):
        address("http://box", tmp_path, accept="AB:CD")
    with pytest.raises(Unprocessable, match="64 hexadecimal digits"):
        tls_pinning.secured("localhost", 1, tmp_path, "AB:CD")


@pytest.mark.anyio
async def test_wrong_key_host_name_or_port_is_reported(fake_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with serving(fake_settings("server.api_key=sesame", "server.hosts=127.0.0.1")) as server:
        assert "--key or CHATAPI_SERVER_API_KEY" in await rejection(Unauthorized, address(server.url, tmp_path))
        assert "rejects this API key" in await rejection(Unauthorized, address(server.url, tmp_path, "wrong"))
        named = f"http://localhost:{server.port}"
        assert "not in server.hosts" in await rejection(Forbidden, address(named, tmp_path, "sesame"))
        async with open_link(address(server.url, tmp_path, "sesame"), None) as link:
            assert link.conversation
    assert "connection refused; is the server running?" in await rejection(WaitAndRetry, address(server.url, tmp_path))
    assert "there is no host 'box.invalid'" in await rejection(WaitAndRetry, address("http://box.invalid", tmp_path))


@pytest.mark.anyio
async def test_full_or_loading_server_is_reported(
    fake_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("live.sessions=1")) as server:
        async with open_link(address(server.url, tmp_path), None):
            assert "try again when a conversation has ended" in await rejection(Busy, address(server.url, tmp_path))
        assert "no conversation" in await rejection(NotFound, address(server.url, tmp_path), "unknown")
    monkeypatch.setattr("chatapi.interfaces.http.realtime.session_requests.READY_SECONDS", 0.1)
    with serving(fake_settings(), load=False) as server:
        assert "is not ready yet" in await rejection(NotReady, address(server.url, tmp_path))


@pytest.mark.anyio
async def test_other_server_is_reported(fake_server: RunningServer, tmp_path: Path) -> None:
    message = "is not chatapi; is the port right?"
    assert message in await rejection(BadInput, address(f"{fake_server.url}/elsewhere", tmp_path))

    async def openai(connection: Any) -> None:
        await connection.send(json.dumps({"type": "session.created", "session": {"id": "sess_1"}}))
        await connection.wait_closed()

    async def noise(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"220 mail ready\r\n")

    async with websocket_server(openai, "127.0.0.1", 0) as other:
        port = next(iter(other.sockets)).getsockname()[1]
        assert message in await rejection(BadInput, address(f"http://127.0.0.1:{port}", tmp_path))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as mail, anyio.create_task_group() as group:
        group.start_soon(mail.serve, noise)
        port = mail.extra(anyio.abc.SocketAttribute.local_port)
        assert message in await rejection(BadInput, address(f"http://127.0.0.1:{port}", tmp_path))
        assert "does not speak TLS" in await rejection(WaitAndRetry, address(f"https://127.0.0.1:{port}", tmp_path))
        group.cancel_scope.cancel()


# Certificates


@pytest.fixture
def tls_server(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    with serving(fake_settings("server.tls=true")) as running:
        yield running


@pytest.mark.anyio
async def test_certificate_is_accepted_once_by_its_fingerprint(tls_server: RunningServer, tmp_path: Path) -> None:
    printed = fingerprint(first_certificate(CertificateKeeper(tls_server.appliance.settings.data).file))
    message = await rejection(Forbidden, address(tls_server.url, tmp_path))
    assert f"--fingerprint {printed}" in message
    wrong = await rejection(Forbidden, address(tls_server.url, tmp_path, accept="0" * 64))
    assert "presents another certificate" in wrong and not tls_pinning.file_of(tmp_path).exists()
    async with open_link(address(tls_server.url, tmp_path, accept=printed.replace(":", "").lower()), None):
        pass
    async with open_link(address(tls_server.url, tmp_path), None) as link:
        await link.send("session.update", session={"type": "realtime"})
        assert (await anext(link.events()))["type"] == "session.updated"
    plain = f"http://127.0.0.1:{tls_server.port}"
    assert f"redirects to {tls_server.url};" in await rejection(BadInput, address(plain, tmp_path, "secret"))


class TlsServer:
    """A TLS server that sends nothing after the handshake; `context` may be changed."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listening, suppress(OSError):
            while True:
                plain = self._listening.accept()[0]
                with suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(1)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)


def test_renewed_certificate_with_the_same_key_is_accepted_and_another_key_rejected(tmp_path: Path) -> None:
    identity, laptop = Identity(tmp_path / "server", None, None), tmp_path / "laptop"
    with closing(TlsServer(identity.context)) as server:
        printed = identity.fingerprint
        first = tls_pinning.secured("127.0.0.1", server.port, laptop, printed)
        CertificateKeeper(tmp_path / "server", ["10.9.8.7"]).refresh()
        renewed = Identity(tmp_path / "server", None, None)
        server.context = renewed.context
        assert renewed.fingerprint != printed
        tls_pinning.secured("127.0.0.1", server.port, laptop)
        foreign = Identity(tmp_path / "foreign", None, None)
        server.context = foreign.context
        with pytest.raises(Forbidden, match="presents another key than before"):
            tls_pinning.secured("127.0.0.1", server.port, laptop)
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            with pytest.raises(ssl.SSLCertVerificationError):
                first.wrap_socket(plain, server_hostname="127.0.0.1")


def test_clock_of_a_pinned_server_is_ignored(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path / "server").refresh(datetime(2027, 6, 1, tzinfo=timezone.utc))
    identity = Identity(tmp_path / "server", None, None)
    with closing(TlsServer(identity.context)) as server:
        accepted = tls_pinning.secured("127.0.0.1", server.port, tmp_path, identity.fingerprint)
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            with accepted.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                assert secure.version()
