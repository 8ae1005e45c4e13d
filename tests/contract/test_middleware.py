"""The HTTP middleware: API keys, scopes, rate limits and origins on every route of a running server."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import hypothesis
import openai
import pytest
import websockets
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect

from chatapi import auth as keys
from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.cli.health import health, request
from chatapi.interfaces.audio_device.realtime_link import open_link, parse_address
from chatapi.interfaces.http import key_headers
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.observability.metrics import Metrics
from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, serving
from routes_of import every_route
from secured_server import SecuredServer, key_protocol, secured

__all__ = ["secured"]

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


def test_every_route_rejects_requests_without_a_key(secured: SecuredServer) -> None:
    for method, path in [*every_route(secured.server), ("GET", "/nonsense"), ("POST", "/v1/chat/completions")]:
        if method == "WEBSOCKET":
            continue
        reply = secured.server.client.request(method, path)
        assert reply.status_code == 401, path
        assert method == "HEAD" or "unauthorized" in reply.text, path


SAMPLES = [
    ("talk", "/conversations/none", 404),
    ("operate", "/health", 200),
    ("operate", "/metrics", 200),
    ("operate", "/audio-device", 404),
    (None, "/", 200),
    (None, "/page/style.css", 200),
    (None, "/ready", 200),
    (None, "/models", 200),
    (None, "/v1/models", 200),
    (None, "/openapi.json", 200),
    (None, "/certificate", 404),
    ("all", "/nonsense", 404),
    ("all", "//completion", 404),
    ("all", "/v1/unknown", 404),
    (None, "/v1/fine_tuning/jobs", 404),
]


@pytest.mark.parametrize(("scope", "path", "status"), SAMPLES)
def test_key_allows_only_its_scope(secured: SecuredServer, scope: str | None, path: str, status: int) -> None:
    for granted in keys.SCOPES:
        reply = secured.get(path, granted)
        if scope is None or granted in (scope, "all"):
            assert reply.status_code == status, reply.text
            continue
        assert reply.status_code == 403
        document = reply.json()
        error = document.get("error", document)
        assert (error["code"], error["scope"]) == ("scope_missing", scope)
        assert f"the scope {scope}" in (error.get("detail") or error["message"])


@pytest.mark.anyio
async def test_websocket_needs_the_scope_talk(secured: SecuredServer) -> None:
    at = f"ws://127.0.0.1:{secured.server.port}/v1/realtime"
    for key, status in (("", 401), ("chatapi_wrong", 401), (secured.keys["operate"], 403)):
        with pytest.raises(websockets.InvalidStatus) as rejected:
            async with connect(at, subprotocols=[websockets.Subprotocol("realtime"), key_protocol(key)]):
                pass
        assert rejected.value.response.status_code == status
    async with connect(
        at, subprotocols=[websockets.Subprotocol("realtime"), key_protocol(secured.keys["talk"])]
    ) as plain:
        assert json.loads(await plain.recv())["type"] == "session.created"
    where = parse_address(secured.server.url, secured.keys["talk"], None, Path())
    async with open_link(where, None) as link:
        assert link.conversation


def test_key_is_accepted_in_every_header(secured: SecuredServer) -> None:
    key, client = secured.keys["all"], secured.server.client
    assert client.get("/health", headers={"X-API-Key": key}).status_code == 200
    assert client.get("/health", auth=("any", key)).status_code == 200
    assert client.get("/health", headers={"Authorization": f"bearer   {key}"}).status_code == 200
    assert client.get(f"/health?api_key={key}").status_code == 401


def test_openai_client_recognizes_rejections(secured: SecuredServer, fake_settings: Callable[..., Settings]) -> None:
    limited_key = keys.add(secured.server.appliance.settings.data, "few", ["talk"], rate=1)
    at = f"{secured.server.url}/v1"
    with openai.OpenAI(base_url=at, api_key=limited_key, max_retries=0) as client:
        assert client.models.list().object == "list"
        with pytest.raises(openai.RateLimitError) as limited:
            client.models.list()
        assert limited.value.type == "rate_limit_error" and limited.value.code == "rate_limited"
        assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
    with openai.OpenAI(base_url=at, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_running_server_detects_added_revoked_and_damaged_keys(
    fake_settings: Callable[..., Settings], data: Path
) -> None:
    with serving(fake_settings()) as server:
        assert server.client.get("/health").status_code == 200
        key = keys.add(data, "kitchen", ["all"])
        headers = {"Authorization": f"Bearer {key}"}
        assert server.client.get("/health").status_code == 401
        assert server.client.get("/health", headers=headers).status_code == 200
        whole = keys.file_of(data).read_bytes()
        keys.file_of(data).write_bytes(whole[:-5])
        for path in ("/health", "/v1/models", "/page/style.css"):
            reply = server.client.get(path, headers=headers)
            assert reply.status_code == 500 and str(keys.file_of(data)) in reply.text and "keys_damaged" in reply.text
        keys.file_of(data).write_bytes(whole)
        assert server.client.get("/health", headers=headers).status_code == 200
        keys.revoke(data, "kitchen")
        rejected = server.client.get("/health", headers=headers)
        assert rejected.status_code == 401 and "was revoked" in rejected.json()["detail"]


@pytest.mark.anyio
async def test_revoked_key_closes_its_websocket(fake_settings: Callable[..., Settings], data: Path) -> None:
    key = keys.add(data, "kitchen", ["talk"])
    with serving(fake_settings()) as server:
        at = f"ws://127.0.0.1:{server.port}/v1/realtime"
        async with connect(at, additional_headers={"X-API-Key": key}) as plain:
            assert json.loads(await plain.recv())["type"] == "session.created"
            keys.revoke(data, "kitchen")
            with anyio.fail_after(TIMEOUT), pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    await plain.send(json.dumps({"type": "input_audio_buffer.clear"}))
                    await plain.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_many_wrong_keys_do_not_block_other_addresses(fake_settings: Callable[..., Settings], data: Path) -> None:
    with serving(fake_settings("server.api_key=sesame")) as server:
        replies = [server.client.get("/models", headers={"X-API-Key": f"guess {n}"}) for n in range(12)]
        assert [reply.status_code for reply in replies] == [401] * 10 + [429] * 2
        assert 0 < int(replies[-1].headers["retry-after"]) <= 6 and replies[-1].json()["code"] == "rate_limited"
        # A proxy on the same machine names the client's address.
        other = {"X-API-Key": "sesame", "X-Forwarded-For": ELSEWHERE}
        assert server.client.get("/models", headers=other).status_code == 200


# Local operators


def test_local_commands_work_when_keys_are_only_in_the_file(fake_settings: Callable[..., Settings], data: Path) -> None:
    keys.add(data, "kitchen", ["talk"])
    with serving(fake_settings()) as server:
        loaded = fake_settings(f"server.port={server.port}")
        assert health(loaded) == 1
        with server.appliance.keyring.local(server.port):
            [file] = data.glob("local-*.key")
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert health(loaded) == 0
            assert request(loaded, "/metrics").status_code == request(loaded, "/health").status_code == 200
            assert request(loaded, "/conversations/none").json()["code"] == "scope_missing"
        assert not file.exists() and health(loaded) == 1


# Arbitrary input

LATIN = st.binary(max_size=40)
NAMES = [b"authorization", b"x-api-key", b"host", b"origin", b"content-length", b"x-request-id", b"accept", b"cookie"]
SHAPES = st.one_of(
    LATIN,
    LATIN.map(lambda tail: b"Bearer " + tail),
    LATIN.map(lambda tail: b"Basic " + tail),
    LATIN.map(lambda tail: b"basic " + base64.b64encode(tail)),
    LATIN.map(lambda tail: b"Bearer chatapi_" + tail),
    LATIN.map(lambda tail: b"http://[" + tail),
)
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), SHAPES), max_size=6)
SUBPROTOCOLS = st.lists(
    st.text(max_size=20).map(lambda tail: key_headers.SUBPROTOCOL + tail) | st.text(max_size=10), max_size=4
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestMiddleware]:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("a request without a key was served")

    data = tmp_path_factory.mktemp("data")
    keys.add(data, "kitchen", ["all"])
    loaded = settings.load([f"data={data}", "server.api_key=ÿ sesame"], environ={}).settings
    appliance = Appliance(loaded)
    yield RequestMiddleware(application, loaded, Metrics(), appliance.keyring, appliance.byte_budget)


@hypothesis.given(HEADERS, st.text(max_size=30), st.sampled_from(["http", "websocket"]), SUBPROTOCOLS)
@hypothesis.settings(deadline=None)
@hypothesis.example([(b"authorization", "Basic ÿ".encode("latin-1"))], "/", "http", [])
@hypothesis.example([(b"origin", b"http://[")], "/", "http", [])
@hypothesis.example([], "/" * 60_000, "http", [])
def test_arbitrary_headers_are_rejected_without_an_error(
    closed: RequestMiddleware, headers: list[tuple[bytes, bytes]], path: str, kind: str, subprotocols: list[str]
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": kind,
        "scheme": "http" if kind == "http" else "ws",
        "method": "GET",
        "path": "/" + path,
        "headers": [(b"host", b"localhost"), *headers],
        "subprotocols": subprotocols,
        "client": (HERE, 1),
        "extensions": {"websocket.http.response": {}},
    }
    anyio.run(closed, scope, receive, send)
    assert sent[0]["status"] in (401, 403, 429)


@hypothesis.given(st.binary(min_size=1, max_size=40))
def test_any_bytes_can_be_a_key(content: bytes) -> None:
    basic = base64.b64encode(b"name:" + content)
    assert key_headers.offered_keys(Headers(raw=[(b"x-api-key", content)])) == [content]
    assert key_headers.offered_keys(Headers(raw=[(b"authorization", b"Basic " + basic)])) == [content]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        # nginx replaces the Host header by the upstream's unless proxy_set_header passes it on.
        ({"Host": "127.0.0.1:{port}", "Origin": "https://voice.example.com"}, "add voice.example.com to server.hosts"),
        (
            {"Host": "localhost", "Origin": "https://voice.example.com", "X-Forwarded-For": "10.0.0.1"},
            "Host $http_host",
        ),
        ({"Host": "localhost", "Origin": "http://localhost:8443"}, "without its port"),
        ({"Host": "localhost:{port}", "Origin": "http://localhost:3000"}, "add it to server.cors_origins"),
        ({"Host": "localhost:{port}", "Origin": "null"}, "add it to server.cors_origins"),
        ({"Host": "voice.example.com"}, "'voice.example.com' is not in server.hosts; add it there"),
    ],
)
def test_rejected_name_or_origin_names_the_setting(
    shared_server: RunningServer, headers: dict[str, str], words: str
) -> None:
    sent = {name: value.format(port=shared_server.port) for name, value in headers.items()}
    rejected = shared_server.client.post("/completion", json={"prompt": "Hello"}, headers=sent)
    assert rejected.status_code == 403 and words in rejected.json()["detail"]
