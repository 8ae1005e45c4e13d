"""Scopes on a running server: every route, WebSocket and Wyoming event with every scope, and disguised paths."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import hypothesis
import pytest
import websockets
from fastapi import APIRouter, FastAPI
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Mount
from websockets.asyncio.client import connect
from wyoming.asr import Transcribe
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.ping import Ping

from chatapi import auth, settings
from chatapi.appliance import Appliance
from chatapi.audio import Audio
from chatapi.auth import policy
from chatapi.interfaces.http.app import create_app
from chatapi.interfaces.wyoming import events as wire
from chatapi.interfaces.wyoming.handler import WyomingHandler
from chatapi.observability import logs
from chatapi.settings import LogSettings, Settings
from chatapi.storage.layout import DataDirectory
from conftest import FAKE_ENGINES, RunAppliance
from routes_of import declared_routes, every_route
from secured_server import SecuredServer, key_protocol, secured
from wyoming_peer import ask, audio_events, open_to_wyoming

__all__ = ["secured"]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    data = tmp_path_factory.mktemp("data")
    yield create_app(Appliance(settings.load([*FAKE_ENGINES, f"data={data}"], environ={}).settings))


# The table against the interfaces


def test_policy_has_every_route_and_no_other(app: FastAPI) -> None:
    found = {(method, path) for method, path in declared_routes(app) if method != "HEAD"}
    assert ("WEBSOCKET", "/v1/realtime") in found and ("GET", "/page/{file:path}") in found and len(found) > 20
    assert {f"{method} {path}" for method, path in found if method != "WEBSOCKET"} == set(policy.POLICY["http"])
    assert {path for method, path in found if method == "WEBSOCKET"} == set(policy.POLICY["websocket"])


def test_policy_has_every_wyoming_event_and_no_other(fake_settings: Callable[..., Settings]) -> None:
    appliance: Any = Appliance(fake_settings())
    handled = WyomingHandler(appliance, appliance, auth.ANYBODY)._handlers
    assert set(policy.POLICY["wyoming"]) == wire.TYPES == {*handled, "ping"}


@pytest.mark.anyio
async def test_route_without_an_entry_is_denied_with_and_without_keys(
    fake_settings: Callable[..., Settings], data: Path
) -> None:
    served: list[str] = []

    async def leak(request: Request) -> Response:
        served.append(request.url.path)
        return PlainTextResponse("leaked")

    app, router = create_app(Appliance(fake_settings())), APIRouter()
    router.add_api_route("/router/{name}", leak)
    app.include_router(router)
    app.add_api_route("/debug", leak)
    app.add_route("/plain", leak)
    app.mount("/mounted", leak)
    app.add_api_route("/completion", leak, methods=["PATCH"])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for headers in ({}, {"X-API-Key": "created below"}):
            if headers:
                headers["X-API-Key"] = auth.add(data, "owner", ["all"])
            for path in ("/debug", "/plain", "/mounted/x", "/router/x"):
                reply = await client.get(path, headers=headers)
                assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
            reply = await client.patch("/completion", headers=headers)
            assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert served == []


SEGMENTS = st.sampled_from([
    "", ".", "..", "page", "health", "Health", "metrics", "v1", "models", "audio", "speech", "conversations",
    "completion", "realtime", "audio-device", "press", "x", "é", "a b", "{conversation}", "\n", "\0", "%2f", ";", "?",
])  # fmt: skip


@hypothesis.given(st.lists(SEGMENTS, max_size=5), st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]))
@hypothesis.settings(deadline=None, max_examples=500, suppress_health_check=list(hypothesis.HealthCheck))
def test_policy_and_router_agree_on_the_route_of_any_path(app: FastAPI, segments: list[str], method: str) -> None:
    path = "/" + "/".join(segments)
    found = auth.http_operation(method, path)
    scope = {"type": "http", "path": path, "root_path": "", "method": "GET" if method == "HEAD" else method}
    routed = [route for route in _flat(app.routes) if route.matches(dict(scope))[0] is Match.FULL]
    if found.denial is None:
        assert [f"{r.path}/{{file:path}}" if isinstance(r, Mount) else r.path for r in routed] == [found.route]


def _flat(of: list[Any]) -> Iterator[Any]:
    for route in of:
        inner = getattr(getattr(route, "original_router", route), "routes", None)
        yield from _flat(inner) if inner and not isinstance(route, Mount) else [route]


# HTTP


def test_key_reaches_only_the_routes_of_its_scope(secured: SecuredServer) -> None:
    reached: dict[str, set[str]] = {scope: set() for scope in auth.SCOPES}
    for method, path in every_route(secured.server):
        if method == "WEBSOCKET":
            continue
        wanted = auth.http_operation(method, path)
        for scope in auth.SCOPES:
            key = {"X-API-Key": secured.keys[scope]}
            reply = secured.server.client.request(method, path, headers=key)
            if scope == "all" or not wanted.scopes or scope in wanted.scopes:
                assert reply.status_code not in (401, 403), (method, path, scope, reply.text)
                reached[scope].add(wanted.route)
            else:
                assert reply.status_code == 403, (method, path, scope)
                assert method == "HEAD" or "scope_missing" in reply.text
    assert {"/v1/audio/transcriptions", "/v1/models", "/ready"} <= reached["transcribe"]
    assert not {"/completion", "/v1/chat/completions", "/v1/audio/speech", "/health"} & reached["transcribe"]
    assert "/v1/audio/voices" in reached["voices"] and "/conversions" in reached["voices"]
    samples = {"/commands/samples", "/commands/samples/export", "/commands/samples/{sample}/audio"}
    jobs = {"/jobs", "/jobs/{job}", "/jobs/{job}/events", "/jobs/{job}/cancel"}
    taught = {"/commands/samples/{sample}", "/commands/train", "/commands/versions", *samples, *jobs}
    monitored = {path for path in reached["moderate"] if path.startswith(("/monitors", "/detections", "/mutes"))}
    assert len(monitored) == 14
    assert reached["train"] | monitored == reached["moderate"] | {"/commands", "/commands/classify"} | taught
    assert len(reached["all"]) == len({name.split(" ")[1] for name in policy.POLICY["http"]})


def test_key_with_several_scopes_reaches_the_routes_of_each(secured: SecuredServer) -> None:
    key = auth.add(secured.server.appliance.settings.data, "captions", ["transcribe", "operate"])
    replies = {path: secured.get(path, key).status_code for path in ("/metrics", "/conversations/x", "/ready")}
    assert replies == {"/metrics": 200, "/conversations/x": 403, "/ready": 200}
    posted = secured.server.client.post("/v1/audio/transcriptions", headers={"X-API-Key": key})
    assert posted.status_code == 415


DISGUISES = [
    "//{}", "/{}/", "/{}//", "/./{}", "/x/../{}", "/page/../{}", "/page/..%2f{}", "/page//{}", "/%2f{}", "/{}%2f",
    "/%2e/{}", "/{}%00", "/{}%0a", "/{}%20", "/{};x=1", "/{}?x=1", "/{}#x", "http://localhost/{}", "/v1/../{}",
    "/v1/models/..%2f..%2f{}", "/{}.", "/{}.json", "/\\{}", "{}", "*",
]  # fmt: skip
CHANGED = [str.upper, str.title, lambda name: f"%{ord(name[0]):02x}{name[1:]}", lambda name: f"%25{name}"]
OVERRIDES = {
    "X-HTTP-Method-Override": "GET",
    "X-HTTP-Method": "GET",
    "X-Method-Override": "GET",
    "X-Original-URL": "/{}",
    "X-Rewrite-URL": "/{}",
    "X-Forwarded-Prefix": "/{}",
    "X-Forwarded-Path": "/{}",
}


def raw(port: int, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    """Status and body of a request whose target is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("name", "secret"), [("metrics", b"chatapi_"), ("health", b"engines")])
def test_disguised_path_reaches_no_route_without_its_scope(secured: SecuredServer, name: str, secret: bytes) -> None:
    port, key = secured.server.port, {"Authorization": f"Bearer {secured.keys['talk']}"}
    assert secret in raw(port, "GET", f"/{name}", {"X-API-Key": secured.keys["operate"]})[1]
    targets = [form.format(name) for form in DISGUISES] + [f"/{change(name)}" for change in CHANGED]
    for target in targets:
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            status, body = raw(port, method, target, key)
            assert status in (400, 403, 404, 405) and secret not in body, (method, target, status)
    for header, value in OVERRIDES.items():
        for method, target in (("POST", f"/{name}"), ("GET", "/nonsense"), ("POST", "/nonsense")):
            status, body = raw(port, method, target, {**key, header: value.format(name)})
            assert status == 403 and secret not in body, (header, method, target)
        assert secret not in raw(port, "GET", "/ready", {**key, header: value.format(name)})[1]


def test_disguised_path_starts_no_turn(secured: SecuredServer) -> None:
    port, prompt = secured.server.port, b'{"prompt": "hello"}'
    for scope in ("transcribe", "operate", "voices", "train", "moderate"):
        key = {"X-API-Key": secured.keys[scope], "Content-Type": "application/json"}
        for form in DISGUISES:
            status, body = raw(port, "POST", form.format("completion"), key, prompt)
            assert status in (400, 403, 404, 405) and b'"reply"' not in body, (scope, form)
        for method in ("PUT", "PATCH", "GET"):
            override = {**key, "X-HTTP-Method-Override": "POST"}
            assert raw(port, method, "/completion", override, prompt)[0] == 403


def test_another_method_of_an_allowed_route_is_told_the_right_one(secured: SecuredServer) -> None:
    for method in ("OPTIONS", "PUT", "TRACE", "BREW"):
        reply = secured.server.client.request(method, "/metrics", headers={"X-API-Key": secured.keys["operate"]})
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
        assert "/metrics does not support" in reply.text and reply.json()["code"] == "method_not_allowed"


def test_head_has_the_headers_of_get_and_needs_its_scope(secured: SecuredServer) -> None:
    for path in ("/metrics", "/health", "/", "/v1/models", "/v1/models/"):
        reply = secured.server.client.head(path, headers={"X-API-Key": secured.keys["operate"]})
        assert (reply.status_code, reply.content) == (200, b"") and int(reply.headers["content-length"]) > 0, path
    assert secured.server.client.head("/metrics", headers={"X-API-Key": secured.keys["talk"]}).status_code == 403
    assert secured.server.client.head("/metrics").status_code == 401
    assert secured.server.client.head("/completion", headers={"X-API-Key": secured.keys["talk"]}).status_code == 405


SPELLINGS = [
    "/chat/completions", "/v1/chat/completions/", "/v1/v1/chat/completions", "//v1/chat/completions",
    "/v1//chat//completions//", "/chat/completions/", "/v1/v1/v1/chat/completions",
]  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS)
def test_other_spelling_of_an_openai_route_is_that_route_and_needs_its_scope(secured: SecuredServer, path: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    for scope, status in (("talk", 200), ("all", 200), ("transcribe", 403), ("operate", 403)):
        key = {"X-API-Key": secured.keys[scope], "Content-Type": "application/json"}
        found, reply = raw(secured.server.port, "POST", path, key, body)
        assert found == status and json.loads(reply).get("error", {}).get("code", "scope_missing") == "scope_missing"
    assert raw(secured.server.port, "POST", path, {"Content-Type": "application/json"}, body)[0] == 401
    status, reply = raw(secured.server.port, "GET", path, {"X-API-Key": secured.keys["talk"]})
    assert status == 405 and "it supports POST" in json.loads(reply)["error"]["message"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/docs", "/openapi.json"), ("/v1", "/v1/chat/completions"), ("/v1/", "/v1/chat/completions"),
        ("/api/chat", "POST /v1/chat/completions"), ("/api/tags", "GET /v1/models"), ("/v1/embeddings", "no embedding"),
        ("/v1/files/x", "stores no files"), ("/health/", "is /health meant?"), ("/Health", "is /health meant?"),
        ("/v1/responses/resp_1/cancel", "when its client disconnects"),
        ("/v1/realtime/translations", "no live speech"), ("/v1/realtime/x", "WebSocket /v1/realtime"),
        ("/healthz", "/health and /ready"),
    ],
)  # fmt: skip
def test_path_of_another_server_is_told_the_right_one(secured: SecuredServer, path: str, hint: str) -> None:
    reply = secured.server.client.get(path, headers={"X-API-Key": secured.keys["all"]})
    document = reply.json()
    assert reply.status_code == 404 and hint in document.get("error", {}).get("message", document.get("detail"))


# WebSockets


@pytest.mark.anyio
async def test_realtime_session_needs_the_scope_talk_whatever_the_path_looks_like(secured: SecuredServer) -> None:
    async def opened(path: str, scope: str) -> int:
        at = f"ws://127.0.0.1:{secured.server.port}{path}"
        protocols = [websockets.Subprotocol("realtime"), key_protocol(secured.keys[scope])]
        try:
            async with connect(at, subprotocols=protocols) as socket:
                assert json.loads(await socket.recv())["type"] == "session.created"
                return 101
        except websockets.InvalidStatus as rejected:
            return rejected.response.status_code

    for scope in set(auth.SCOPES) - {"transcribe"}:
        assert await opened("/v1/realtime", scope) == (101 if scope in ("talk", "realtime", "all") else 403)
    for path in ("//v1/realtime", "/v1/realtime/", "/V1/realtime", "/v1%2frealtime/", "/v1/./realtime", "/metrics"):
        assert await opened(path, "transcribe") == 403
        assert await opened(path, "all") == 404


# Wyoming


@pytest.mark.anyio
@pytest.mark.parametrize("scope", ["talk", "transcribe"])
async def test_wyoming_client_may_send_only_the_events_of_its_scope(fake_appliance: RunAppliance, scope: str) -> None:
    async with fake_appliance(f"wyoming.scope={scope}") as appliance, open_to_wyoming(appliance) as (_, port):
        for kind in sorted(policy.POLICY["wyoming"]):
            found = await ask(port, Event(kind, {"text": "hello"}), Ping(), end=["pong"])
            denied = [event for event in found if event.data.get("code") == "scope_missing"]
            wanted = auth.operation("wyoming", kind).scopes
            assert bool(denied) is (bool(wanted) and scope not in wanted), kind
            assert all("wyoming.scope" in event.data["text"] for event in denied)


@pytest.mark.anyio
async def test_wyoming_client_with_the_scope_transcribe_is_offered_transcription_alone(
    fake_appliance: RunAppliance, beep: Audio
) -> None:
    async with fake_appliance("wyoming.scope=transcribe") as appliance, open_to_wyoming(appliance) as (_, port):
        [info] = await ask(port, Describe(), end=["info"])
        assert {name for name, programs in info.data.items() if programs} == {"asr"}
        heard = await ask(port, Transcribe(), *audio_events(beep.samples), end=["transcript"])
        assert heard[-1].type == "transcript" and heard[-1].data["text"]
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        [info] = await ask(port, Describe(), end=["info"])
        assert {name for name, programs in info.data.items() if programs} >= {"asr", "tts", "handle"}


# The audit log


def test_audit_record_names_the_key_and_the_scope(secured: SecuredServer) -> None:
    expected = {
        ("/metrics", "talk"): ("/metrics", "operate", 403),
        ("/v1/audio/voices", "voices"): ("/v1/audio/voices", "talk or voices", 200),
        ("/ready", "train"): ("/ready", "any", 200),
        ("/secret/c0ffee", "all"): ("other", "all", 404),
    }
    for (path, scope), (route, needs, status) in expected.items():
        record = secured.audited(secured.get(path, scope).headers["x-request-id"])
        assert (record["key"], record["route"], record["scope"], record["status"]) == (
            f"for-{scope}", route, needs, status
        )  # fmt: skip


@pytest.mark.anyio
async def test_audit_log_has_wyoming_connections(fake_appliance: RunAppliance, tmp_path: Path) -> None:
    with logs.auditing(LogSettings(audit=True), DataDirectory(tmp_path).audit_log):
        async with fake_appliance("wyoming.scope=transcribe") as appliance, open_to_wyoming(appliance) as (_, port):
            await ask(port, Ping(), end=["pong"])
            await ask(port, Event("transcript", {"text": "a secret"}), end=["handled"])
            with anyio.fail_after(60):
                while len(lines := (tmp_path / "audit.log").read_text().splitlines()) < 2:
                    await anyio.sleep(0.01)
    records = [json.loads(line) for line in lines]
    assert [(each["message"], each["key"], each["scope"], each["peer"]) for each in records] == [
        ("wyoming", "-", "transcribe", "127.0.0.1")
    ] * 2
    assert sorted(each["code"] for each in records) == ["", "scope_missing"] and "secret" not in "".join(lines)
