"""The way to a box elsewhere: addresses, refusals in one sentence, and whom to trust."""

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


def at(url: str, data: Path, key: str | None = None, accept: str | None = None) -> RealtimeAddress:
    return parse_address(url, key, accept, data)


async def refusal(kind: type[ChatapiError], where: RealtimeAddress, conversation: str | None = None) -> str:
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
def test_addresses_may_be_written_in_several_ways(tmp_path: Path, url: str, name: str, path: str) -> None:
    found = at(url, tmp_path)
    assert (found.name, found.path) == (name, path)


@pytest.mark.parametrize("url", ["box:8000", "box", "ftp://box", "http://", "http://box:99999", "http://[::1"])
def test_what_is_no_address_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(Unprocessable, match="expected for example https://"):
        at(url, tmp_path)


def test_a_fingerprint_is_for_https_and_has_its_form(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="needs an https"):
        at("http://box", tmp_path, accept="AB:CD")
    with pytest.raises(Unprocessable, match="64 hexadecimal digits"):
        tls_pinning.secured("localhost", 1, tmp_path, "AB:CD")


@pytest.mark.anyio
async def test_keys_names_and_ports_that_are_wrong_are_told(
    fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(fake_settings("server.api_key=sesame", "server.hosts=127.0.0.1")) as box:
        assert "--key or CHATAPI_SERVER_API_KEY" in await refusal(Unauthorized, at(box.url, tmp_path))
        assert "rejects this API key" in await refusal(Unauthorized, at(box.url, tmp_path, "wrong"))
        named = f"http://localhost:{box.port}"
        assert "not in server.hosts" in await refusal(Forbidden, at(named, tmp_path, "sesame"))
        async with open_link(at(box.url, tmp_path, "sesame"), None) as link:
            assert link.conversation
    assert "connection refused; is the server running?" in await refusal(WaitAndRetry, at(box.url, tmp_path))
    assert "there is no host 'box.invalid'" in await refusal(WaitAndRetry, at("http://box.invalid", tmp_path))


@pytest.mark.anyio
async def test_a_full_box_and_one_that_still_loads_say_so(
    fake_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("live.sessions=1")) as box:
        async with open_link(at(box.url, tmp_path), None):
            assert "try again when a conversation has ended" in await refusal(Busy, at(box.url, tmp_path))
        assert "no conversation" in await refusal(NotFound, at(box.url, tmp_path), "conv_of_nobody")
    monkeypatch.setattr("chatapi.interfaces.http.realtime.READY_SECONDS", 0.1)
    with serving(fake_settings(), load=False) as box:
        assert "is not ready yet" in await refusal(NotReady, at(box.url, tmp_path))


@pytest.mark.anyio
async def test_what_is_not_chatapi_is_told(fake_server: RunningServer, tmp_path: Path) -> None:
    stranger = "is not chatapi; is the port right?"
    assert stranger in await refusal(BadInput, at(f"{fake_server.url}/elsewhere", tmp_path))

    async def openai(connection: Any) -> None:
        await connection.send(json.dumps({"type": "session.created", "session": {"id": "sess_1"}}))
        await connection.wait_closed()

    async def noise(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"220 mail ready\r\n")

    async with websocket_server(openai, "127.0.0.1", 0) as other:
        port = next(iter(other.sockets)).getsockname()[1]
        assert stranger in await refusal(BadInput, at(f"http://127.0.0.1:{port}", tmp_path))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as mail, anyio.create_task_group() as group:
        group.start_soon(mail.serve, noise)
        port = mail.extra(anyio.abc.SocketAttribute.local_port)
        assert stranger in await refusal(BadInput, at(f"http://127.0.0.1:{port}", tmp_path))
        assert "does not speak TLS" in await refusal(WaitAndRetry, at(f"https://127.0.0.1:{port}", tmp_path))
        group.cancel_scope.cancel()


# Whom to trust


@pytest.fixture
def secure(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    with serving(fake_settings("server.tls=true")) as running:
        yield running


@pytest.mark.anyio
async def test_a_certificate_is_accepted_once_by_its_fingerprint(secure: RunningServer, tmp_path: Path) -> None:
    printed = fingerprint(first_certificate(CertificateKeeper(secure.appliance.settings.data).file))
    told = await refusal(Forbidden, at(secure.url, tmp_path))
    assert f"--fingerprint {printed}" in told
    wrong = await refusal(Forbidden, at(secure.url, tmp_path, accept="0" * 64))
    assert "presents another certificate" in wrong and not tls_pinning.file_of(tmp_path).exists()
    async with open_link(at(secure.url, tmp_path, accept=printed.replace(":", "").lower()), None):
        pass
    async with open_link(at(secure.url, tmp_path), None) as link:
        await link.send("session.update", session={"type": "realtime"})
        assert (await anext(link.events()))["type"] == "session.updated"
    plain = f"http://127.0.0.1:{secure.port}"
    assert f"redirects to {secure.url};" in await refusal(BadInput, at(plain, tmp_path, "secret"))


class Showing:
    """A server that shakes hands and says nothing; `context` may be changed."""

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


def test_a_renewed_certificate_is_known_by_its_key_and_another_key_is_refused(tmp_path: Path) -> None:
    box, laptop = Identity(tmp_path / "box", None, None), tmp_path / "laptop"
    with closing(Showing(box.context)) as server:
        printed = box.fingerprint
        first = tls_pinning.secured("127.0.0.1", server.port, laptop, printed)
        CertificateKeeper(tmp_path / "box", ["10.9.8.7"]).refresh()
        renewed = Identity(tmp_path / "box", None, None)
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


def test_the_clock_of_an_accepted_box_does_not_matter(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path / "box").refresh(datetime(2027, 6, 1, tzinfo=timezone.utc))
    box = Identity(tmp_path / "box", None, None)
    with closing(Showing(box.context)) as server:
        accepted = tls_pinning.secured("127.0.0.1", server.port, tmp_path, box.fingerprint)
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            with accepted.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                assert secure.version()
