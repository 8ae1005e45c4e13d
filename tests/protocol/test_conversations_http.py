"""The list of conversations over HTTP: pages, search, titles, and what a key sees."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from chatapi import auth as keys
from conftest import RunningServer
from secured_server import SecuredServer, secured

__all__ = ["secured"]


def ask(server: RunningServer, prompt: str, **headers: str) -> str:
    answer = server.client.post(f"{server.url}/completion", json={"prompt": prompt}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["conversation"])


def listed(server: RunningServer, headers: dict[str, str] | None = None, **query: Any) -> dict[str, Any]:
    answer = server.client.get(f"{server.url}/conversations", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_conversations_are_listed_in_pages(shared_server: RunningServer) -> None:
    made = [ask(shared_server, f"page {number} of the walrus") for number in range(3)]
    first = listed(shared_server, search="of the WALRUS", limit=2)
    second = listed(shared_server, search="of the WALRUS", limit=2, before=first["next"])
    assert [each["id"] for each in (*first["conversations"], *second["conversations"])] == made[::-1]
    assert second["next"] is None
    assert first["conversations"][0]["title"] == "page 2 of the walrus"
    assert first["conversations"][0]["exchanges"] == 1


def test_a_conversation_is_renamed_and_deleted(shared_server: RunningServer) -> None:
    conversation = ask(shared_server, "Where do carpenters go?")
    place = f"{shared_server.url}/conversations/{conversation}"
    assert shared_server.client.patch(place, json={"title": " Carpenters "}).status_code == 204
    found = listed(shared_server, search="Carpenters")["conversations"]
    assert [each["title"] for each in found if each["id"] == conversation] == ["Carpenters"]
    assert shared_server.client.delete(place).status_code == 204
    assert conversation not in {each["id"] for each in listed(shared_server)["conversations"]}
    assert shared_server.client.patch(place, json={"title": "Gone"}).json()["code"] == "unknown_conversation"


@pytest.mark.parametrize(
    "body", [{}, {"title": "a\nb"}, {"title": "a" * 201}, {"title": 5}, {"title": "a", "colour": "red"}]
)
def test_invalid_titles_are_rejected(shared_server: RunningServer, body: dict[str, Any]) -> None:
    conversation = ask(shared_server, "hello")
    answer = shared_server.client.patch(f"{shared_server.url}/conversations/{conversation}", json=body)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 201}, {"before": -1}, {"before": 2**63}, {"search": "a" * 201}]
)
def test_invalid_queries_are_rejected(shared_server: RunningServer, query: dict[str, Any]) -> None:
    assert shared_server.client.get(f"{shared_server.url}/conversations", params=query).status_code == 422


def test_responses_are_not_listed(shared_server: RunningServer) -> None:
    answer = shared_server.client.post(
        f"{shared_server.url}/v1/responses", json={"model": "default", "input": "a response of its own"}
    )
    assert answer.status_code == 200, answer.text
    assert not listed(shared_server, search="a response of its own")["conversations"]


def test_a_key_lists_what_it_began(secured: SecuredServer) -> None:
    second = keys.add(secured.log.parent, "another", ["talk"])

    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    talk, operate = secured.keys["talk"], secured.keys["all"]
    mine = ask(secured.server, "mine", **bearer(talk))
    yours = ask(secured.server, "yours", **bearer(second))

    def seen(key: str) -> set[str]:
        return {each["id"] for each in listed(secured.server, bearer(key))["conversations"]} & {mine, yours}

    assert (seen(talk), seen(second), seen(operate)) == ({mine}, {yours}, {mine, yours})
    answer: httpx.Response = secured.get("/conversations", "transcribe")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
