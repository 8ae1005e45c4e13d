"""Keys at every door of a running server: what each opens, what is told without one, and what is written down."""

from __future__ import annotations

import base64
import json
import logging
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import hypothesis
import openai
import pytest
import websockets
from fastapi.routing import APIRoute, APIWebSocketRoute
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect

from chatapi import auth as keys
from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.cli.health import health, request
from chatapi.client.realtime import open_link, parse_address
from chatapi.interfaces.http import scopes
from chatapi.interfaces.http.app import create_app
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.observability import logs
from chatapi.observability.metrics import Metrics
from chatapi.settings import LogSettings, Settings
from conftest import ECHO, PATIENCE, Served, serving

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


@dataclass
class Door:
    """A closed box and keys to it."""

    served: Served
    keys: dict[str, str]
    log: Path

    def audited(self, request: str) -> dict[str, Any]:
        """The line of a request, which is written once all of its reply is sent."""
        end = time.monotonic() + PATIENCE
        while True:
            for line in map(json.loads, self.log.read_text().splitlines()):
                if line["request_id"] == request:
                    return dict(line)
            assert time.monotonic() < end, "there is no such line"
            time.sleep(0.01)

    def get(self, path: str, key: str = "", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}
        return self.served.client.get(self.served.url + path, headers=headers, **options)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    data = tmp_path_factory.mktemp("data")
    made = settings.load([*ECHO, f"data={data}"], environ={}).settings
    held = {scope: keys.add(data, f"for-{scope}", [scope]) for scope in keys.SCOPES}
    with logs.auditing(LogSettings(audit=True), data), serving(made) as served:
        yield Door(served, held, data / "audit.log")


def routes(of: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in of:
        # FastAPI keeps a router that was included as one route.
        inner = getattr(getattr(route, "original_router", route), "routes", None)
        yield from routes(inner) if inner and not isinstance(route, Mount) else [route]


def every_route(served: Served) -> list[tuple[str, str]]:
    """Method and path of each, WEBSOCKET where it is one."""
    found = []
    for path, operations in create_app(served.appliance).openapi()["paths"].items():
        found += [(method.upper(), path) for method in operations]
    for route in routes(create_app(served.appliance).routes):
        if isinstance(route, APIWebSocketRoute):
            found.append(("WEBSOCKET", route.path))
        elif isinstance(route, (APIRoute, Route)):
            found += [(method, route.path) for method in route.methods or ()]
        elif isinstance(route, Mount):
            found.append(("GET", f"{route.path}/style.css"))
    return [(method, path.replace("{", "").replace("}", "")) for method, path in found]


def test_every_route_is_in_the_table(door: Door) -> None:
    found = every_route(door.served)
    assert len(found) > 20 and {"/", "/metrics", "/v1/realtime", "/page/style.css"} <= {path for _, path in found}
    assert [path for _, path in found if scopes.entry(path) is None] == []


def test_every_route_is_closed_without_a_key(door: Door) -> None:
    for method, path in [*every_route(door.served), ("GET", "/nonsense"), ("POST", "/v1/chat/completions")]:
        if method == "WEBSOCKET":
            continue
        reply = door.served.client.request(method, path)
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
    ("all", "/v1/fine_tuning/jobs", 404),
]


@pytest.mark.parametrize(("scope", "path", "status"), SAMPLES)
def test_a_key_opens_what_it_is_for_and_nothing_else(door: Door, scope: str | None, path: str, status: int) -> None:
    for held in keys.SCOPES:
        reply = door.get(path, held)
        if scope is None or held in (scope, "all"):
            assert reply.status_code == status, reply.text
            continue
        assert reply.status_code == 403
        document = reply.json()
        told = document.get("error", document)
        assert (told["code"], told["scope"]) == ("scope_missing", scope)
        assert f"the scope {scope}" in (told.get("detail") or told["message"])


@pytest.mark.anyio
async def test_a_websocket_wants_a_key_for_talking(door: Door) -> None:
    at = f"ws://127.0.0.1:{door.served.port}/v1/realtime"
    for key, status in (("", 401), ("chatapi_wrong", 401), (door.keys["operate"], 403)):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(at, subprotocols=[websockets.Subprotocol("realtime"), _protocol(key)]):
                pass
        assert refused.value.response.status_code == status
    async with connect(at, subprotocols=[websockets.Subprotocol("realtime"), _protocol(door.keys["talk"])]) as plain:
        assert json.loads(await plain.recv())["type"] == "session.created"
    where = parse_address(door.served.url, door.keys["talk"], None, Path())
    async with open_link(where, None) as link:
        assert link.conversation


def _protocol(key: str) -> websockets.Subprotocol:
    return websockets.Subprotocol(f"openai-insecure-api-key.{key or 'x'}")


def test_a_key_comes_in_every_way(door: Door) -> None:
    key, client = door.keys["all"], door.served.client
    assert client.get("/health", headers={"X-API-Key": key}).status_code == 200
    assert client.get("/health", auth=("anybody", key)).status_code == 200
    assert client.get("/health", headers={"Authorization": f"bearer   {key}"}).status_code == 200
    assert client.get(f"/health?api_key={key}").status_code == 401


def test_openais_client_knows_what_a_refusal_means(door: Door, echo_settings: Callable[..., Settings]) -> None:
    few = keys.add(door.served.appliance.settings.data, "few", ["talk"], rate=1)
    at = f"{door.served.url}/v1"
    with openai.OpenAI(base_url=at, api_key=few, max_retries=0) as client:
        assert client.models.list().object == "list"
        with pytest.raises(openai.RateLimitError) as limited:
            client.models.list()
        assert limited.value.type == "rate_limit_error" and limited.value.code == "rate_limited"
        assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
    with openai.OpenAI(base_url=at, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_running_server_notices_what_is_added_revoked_and_damaged(
    echo_settings: Callable[..., Settings], data: Path
) -> None:
    with serving(echo_settings()) as served:
        assert served.client.get("/health").status_code == 200
        key = keys.add(data, "kitchen", ["all"])
        headers = {"Authorization": f"Bearer {key}"}
        assert served.client.get("/health").status_code == 401
        assert served.client.get("/health", headers=headers).status_code == 200
        whole = keys.file_of(data).read_bytes()
        keys.file_of(data).write_bytes(whole[:-5])
        for path in ("/health", "/v1/models", "/page/style.css"):
            reply = served.client.get(path, headers=headers)
            assert reply.status_code == 500 and str(keys.file_of(data)) in reply.text and "keys_damaged" in reply.text
        keys.file_of(data).write_bytes(whole)
        assert served.client.get("/health", headers=headers).status_code == 200
        keys.revoke(data, "kitchen")
        refused = served.client.get("/health", headers=headers)
        assert refused.status_code == 401 and "was revoked" in refused.json()["detail"]


@pytest.mark.anyio
async def test_an_open_websocket_ends_with_its_key(echo_settings: Callable[..., Settings], data: Path) -> None:
    key = keys.add(data, "kitchen", ["talk"])
    with serving(echo_settings()) as served:
        at = f"ws://127.0.0.1:{served.port}/v1/realtime"
        async with connect(at, additional_headers={"X-API-Key": key}) as plain:
            assert json.loads(await plain.recv())["type"] == "session.created"
            keys.revoke(data, "kitchen")
            with anyio.fail_after(10), pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    await plain.send(json.dumps({"type": "input_audio_buffer.clear"}))
                    await plain.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_after_many_wrong_keys_the_right_one_from_elsewhere_still_opens(
    echo_settings: Callable[..., Settings], data: Path
) -> None:
    with serving(echo_settings("server.api_key=sesame")) as served:
        replies = [served.client.get("/models", headers={"X-API-Key": f"guess {n}"}) for n in range(12)]
        assert [reply.status_code for reply in replies] == [401] * 10 + [429] * 2
        assert 0 < int(replies[-1].headers["retry-after"]) <= 6 and replies[-1].json()["code"] == "rate_limited"
        # What stands before the box on the same machine says whom it speaks for.
        other = {"X-API-Key": "sesame", "X-Forwarded-For": ELSEWHERE}
        assert served.client.get("/models", headers=other).status_code == 200


# The operator of this machine


def test_health_and_support_get_in_where_keys_are_only_in_the_file(
    echo_settings: Callable[..., Settings], data: Path
) -> None:
    keys.add(data, "kitchen", ["talk"])
    with serving(echo_settings()) as served:
        made = echo_settings(f"server.port={served.port}")
        assert health(made) == 1
        with served.appliance.keyring.local(served.port):
            [file] = data.glob("local-*.key")
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert health(made) == 0
            assert request(made, "/metrics").status_code == request(made, "/health").status_code == 200
            assert request(made, "/conversations/none").json()["code"] == "scope_missing"
        assert not file.exists() and health(made) == 1


# Logs


def test_no_key_is_ever_logged_or_said(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "chatapi")
    client, right, wrong = door.served.client, door.keys["talk"], "chatapi_0badf00d_" + "SeCrEt0" * 5
    for key in (right, wrong):
        basic = base64.b64encode(f"me:{key}".encode()).decode()
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"Basic {basic}"},
            {"Authorization": key},
            {"X-API-Key": key},
            {"X-Request-Id": key},
            {"Cookie": f"key={key}"},
            {"Origin": "https://evil.example", "X-API-Key": key},
            {"Host": "evil.example", "X-API-Key": key},
        ):
            for path in ("/health", f"/models?key={key}", "/v1/realtime", "/v1/audio/speech"):
                reply = client.get(path, headers=headers)
                assert key not in reply.text and key not in str(reply.headers)
        assert client.get(f"/{key}").status_code == 401
        anyio.run(_refused_websocket, door.served.port, key)
        secret = key.rpartition("_")[2][-20:]
        assert secret not in caplog.text and basic not in caplog.text
        assert not any(secret in str(vars(record)) for record in caplog.records)
        assert secret not in door.log.read_text()


async def _refused_websocket(port: int, key: str) -> None:
    with pytest.raises(websockets.InvalidStatus):
        async with connect(f"ws://127.0.0.1:{port}/metrics?key={key}", subprotocols=[_protocol(key)]):
            pass


def test_the_audit_tells_who_did_what_and_never_what_was_said(door: Door) -> None:
    asked_for = door.served.client.post(
        "/completion", json={"prompt": "my heart aches"}, headers={"X-API-Key": door.keys["talk"]}
    )
    other, refused = door.get("/conversations/c0ffee", "talk"), door.get("/metrics", "talk")
    spoken, looked, metrics = (door.audited(reply.headers["x-request-id"]) for reply in (asked_for, other, refused))
    assert spoken["key"] == "for-talk" and spoken["route"] == "/completion" and spoken["method"] == "POST"
    assert spoken["status"] == 200 and spoken["peer"] == "127.0.0.1" and spoken["seconds"] > 0
    assert (looked["route"], looked["status"]) == ("/conversations/{conversation}", 404)
    assert (metrics["route"], metrics["status"], metrics["key"]) == ("/metrics", 403, "for-talk")
    text = door.log.read_text()
    assert "heart" not in text and asked_for.json()["conversation"] not in text and "c0ffee" not in text
    assert stat.S_IMODE(door.log.stat().st_mode) == 0o600


def test_the_audits_file_does_not_grow_without_end(tmp_path: Path) -> None:
    audit = logging.getLogger(logs.AUDIT)
    with logs.auditing(LogSettings(audit=True), tmp_path, largest=2000):
        for number in range(200):
            audit.info("request", extra={"key": f"key-{number}"})
    found = sorted(tmp_path.glob("audit.log*"))
    assert len(found) == 1 + logs.OLDER and all(file.stat().st_size <= 2000 for file in found)
    assert "key-199" in (tmp_path / "audit.log").read_text()
    with logs.auditing(LogSettings(), tmp_path / "off"):
        audit.info("request")
    assert not (tmp_path / "off").exists()


def test_an_audit_that_cannot_be_written_is_logged_and_the_box_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit = logging.getLogger(logs.AUDIT)
    (tmp_path / "file").write_text("")
    with logs.auditing(LogSettings(audit=True), tmp_path / "file"):
        assert "audit.log cannot be written" in caplog.text and "log.audit = false" in caplog.text
        audit.info("request", extra={"key": "lost"})
    (tmp_path / "audit.log").mkdir()
    with logs.auditing(LogSettings(audit=True), tmp_path):
        audit.info("request", extra={"key": "kitchen"})
    assert "kitchen" in (tmp_path / "audit.log").read_text()
    assert [path.is_dir() for path in tmp_path.glob("audit.damaged-*")] == [True]


def test_an_audit_goes_on_once_it_can_be_written(tmp_path: Path) -> None:
    audit = logging.getLogger(logs.AUDIT)
    (tmp_path / "data").write_text("in the way")
    with logs.auditing(LogSettings(audit=True), tmp_path / "data"):
        (tmp_path / "data").unlink()
        (tmp_path / "data").mkdir()
        audit.info("request", extra={"key": "kitchen"})
    assert "kitchen" in (tmp_path / "data" / "audit.log").read_text()


# Whatever is sent

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
    st.text(max_size=20).map(lambda tail: scopes.SUBPROTOCOL + tail) | st.text(max_size=10), max_size=4
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestMiddleware]:
    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("somebody came in without a key")

    data = tmp_path_factory.mktemp("data")
    keys.add(data, "kitchen", ["all"])
    made = settings.load([f"data={data}", "server.api_key=ÿ sesame"], environ={}).settings
    appliance = Appliance(made)
    yield RequestMiddleware(inside, made, Metrics(), appliance.keyring, appliance.byte_budget)


@hypothesis.given(HEADERS, st.text(max_size=30), st.sampled_from(["http", "websocket"]), SUBPROTOCOLS)
@hypothesis.settings(deadline=None)
@hypothesis.example([(b"authorization", "Basic ÿ".encode("latin-1"))], "/", "http", [])
@hypothesis.example([(b"origin", b"http://[")], "/", "http", [])
@hypothesis.example([], "/" * 60_000, "http", [])
def test_no_bytes_open_the_door_or_break_it(
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
def test_any_bytes_can_be_a_key_and_come_in_as_they_are(content: bytes) -> None:
    basic = base64.b64encode(b"name:" + content)
    assert scopes.offered_keys(Headers(raw=[(b"x-api-key", content)])) == [content]
    assert scopes.offered_keys(Headers(raw=[(b"authorization", b"Basic " + basic)])) == [content]
