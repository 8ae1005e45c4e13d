"""The policy of scopes: what is in it, what it denies, and which path belongs to which route."""

from __future__ import annotations

import pytest

from chatapi import auth
from chatapi.auth import policy
from chatapi.errors import Forbidden, MethodNotAllowed, NotFound


def holder(*scopes: str) -> auth.KeyHolder:
    return auth.KeyHolder("kitchen", scopes)


def test_policy_names_only_scopes_and_methods_that_exist() -> None:
    tables = policy.POLICY.values()
    assert {scope for table in tables for scopes in table.values() for scope in scopes} <= set(auth.SCOPES) - {"all"}
    assert set(auth.http_methods()) <= {"GET", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"}
    assert all(name.split(" ")[1].startswith("/") for name in policy.POLICY["http"])


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/", "/"),
        ("HEAD", "/health", "/health"),
        ("DELETE", "/conversations/c0ffee", "/conversations/{conversation}"),
        ("GET", "/conversations/{conversation}", "/conversations/{conversation}"),
        ("GET", "/v1/models/a b", "/v1/models/{model}"),
        ("GET", "/page/", "/page/{file:path}"),
        ("GET", "/page/deep/er/style.css", "/page/{file:path}"),
    ],
)
def test_path_belongs_to_its_route(method: str, path: str, route: str) -> None:
    found = auth.http_operation(method, path)
    assert (found.route, found.denial) == (route, None)


@pytest.mark.parametrize(
    "path",
    [
        "", "*", "health", "//", "//health", "/health/", "/Health", "/health\n", "/health\0", "/health ", "/./health",
        "/page", "/pages/x", "/conversations/", "/conversations/a/b", "/v1/models/", "/v1/models/a/b", "/completion;x",
        "/x/../health", "/healthy", "/v1", "http://box/health", "/page/x\ny", "/" * 60_000,
    ],
)  # fmt: skip
def test_any_other_path_is_denied_to_every_key(path: str) -> None:
    found = auth.http_operation("GET", path)
    assert (found.route, found.scopes) == ("other", ("all",))
    for scopes in (("talk",), ("operate", "transcribe")):
        with pytest.raises(Forbidden, match="needs the scope all"):
            policy.authorize(holder(*scopes), found)
    for powerful in (holder("all"), auth.ANYBODY):
        with pytest.raises(NotFound):
            policy.authorize(powerful, found)


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE", "get", "GET ", "", "M" * 60_000])
def test_another_method_is_denied_and_only_clients_of_the_path_learn_which_there_are(method: str) -> None:
    found = auth.http_operation(method, "/conversations/c0ffee")
    with pytest.raises(MethodNotAllowed) as raised:
        policy.authorize(holder("talk"), found)
    assert raised.value.methods == ("DELETE", "GET", "PATCH")
    with pytest.raises(Forbidden):
        policy.authorize(holder("operate"), found)
    with pytest.raises(MethodNotAllowed):
        policy.authorize(holder("train"), auth.http_operation(method, "/ready"))


def test_request_for_a_websocket_needs_its_scope_and_is_denied() -> None:
    for method in ("GET", "POST"):
        found = auth.http_operation(method, "/v1/realtime")
        for scopes in (("talk",), ("all",)):
            with pytest.raises(NotFound, match="is a WebSocket"):
                policy.authorize(holder(*scopes), found)
        with pytest.raises(Forbidden, match="the scope talk"):
            policy.authorize(holder("operate"), found)


@pytest.mark.parametrize("name", ["", "pong", "Describe", "describe ", "audio", "talk", "describe/ping"])
def test_event_that_the_policy_does_not_have_is_denied(name: str) -> None:
    for powerful in (holder("all"), auth.ANYBODY):
        with pytest.raises(NotFound):
            policy.authorize(powerful, auth.operation("wyoming", name))
    with pytest.raises(Forbidden):
        policy.authorize(holder("talk"), auth.operation("websocket", name))


def test_each_of_several_scopes_is_enough_and_the_error_names_them() -> None:
    transcription = auth.http_operation("POST", "/v1/audio/transcriptions")
    for scopes in (("talk",), ("transcribe",), ("all",), ("operate", "transcribe")):
        policy.authorize(holder(*scopes), transcription)
    with pytest.raises(Forbidden) as raised:
        policy.authorize(holder("operate", "voices"), transcription)
    assert raised.value.code == "scope_missing"
    assert raised.value.details == {"scope": "talk", "scopes": ["talk", "transcribe"]}
    assert "the key 'kitchen' has the scopes operate, voices" in raised.value.message
    assert "needs the scope talk or transcribe; `chatapi keys add NAME --scope SCOPE`" in raised.value.message
