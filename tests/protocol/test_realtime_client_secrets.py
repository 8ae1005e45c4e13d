"""Client secrets of `/v1/realtime`: OpenAI's formats, scope, expiry, and what a browser can do with one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
import websockets
from openai import OpenAI
from openai.types.realtime import ClientSecretCreateResponse

from chatapi import auth
from chatapi.auth.client_secrets import MOST_CHARS, ClientSecrets
from chatapi.auth.scopes import ANYBODY
from chatapi.errors import Busy, TooLarge, Unauthorized
from chatapi.settings import Settings
from conftest import RunningServer, serving
from realtime_client import Event, raw, receive_event, silence, speech
from realtime_client import talking as talking_to


@pytest.fixture
def keyed_server(fake_settings: Callable[..., Settings]) -> Iterator[tuple[RunningServer, str]]:
    """A server, and its key with the scope talk."""
    settings = fake_settings()
    key = auth.add(settings.data, "owner", ["talk"])
    with serving(settings) as server:
        yield server, key


def made(server: RunningServer, key: str, path: str = "client_secrets", **body: object) -> Event:
    reply = server.client.post(f"/v1/realtime/{path}", json=body, headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 200, reply.text
    document: Event = reply.json()
    return document


@pytest.mark.anyio
async def test_secret_opens_the_session_that_it_was_made_for(keyed_server: tuple[RunningServer, str]) -> None:
    server, key = keyed_server
    with OpenAI(api_key=key, base_url=f"{server.url}/v1") as openai:
        found = openai.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief."},
        )
    ClientSecretCreateResponse.model_validate(found.model_dump(exclude_unset=True), strict=True)
    assert found.value.startswith("ek_") and 50 < found.expires_at - time.time() < 70
    assert found.session.object == "realtime.session" and found.session.id.startswith("sess_")
    for protocols in (["realtime", f"openai-insecure-api-key.{found.value}"], []):
        headers = {} if protocols else {"Authorization": f"Bearer {found.value}"}
        async with raw(server, subprotocols=protocols or None, additional_headers=headers) as plain:
            session = (await receive_event(plain, "session.created"))["session"]
            assert (session["model"], session["instructions"]) == ("gpt-realtime", "Be brief.")
            await plain.send(json.dumps({"type": "session.update", "session": {"output_modalities": ["text"]}}))
            assert (await receive_event(plain, "session.updated"))["session"]["instructions"] == "Be brief."
    reply = server.client.post("/completion", json={"prompt": "hi"}, headers={"Authorization": f"Bearer {found.value}"})
    assert (reply.status_code, reply.json()["code"]) == (403, "scope_missing")
    assert "a client secret of the key 'owner'" in reply.json()["detail"]


@pytest.mark.anyio
@pytest.mark.parametrize("server_needs_key", [True, False])
async def test_secret_of_a_transcription_session_gives_transcripts_alone(
    fake_settings: Callable[..., Settings], server_needs_key: bool
) -> None:
    audio = {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}}
    with serving(fake_settings(*(["server.api_key=secret"] if server_needs_key else []))) as server:
        for path, body in (
            ("client_secrets", {"session": {"type": "transcription", "audio": audio}}),
            ("transcription_sessions", {"turn_detection": audio["input"]["turn_detection"]}),
        ):
            document = made(server, "secret", path, **body)
            value = document["client_secret"]["value"] if path != "client_secrets" else document["value"]
            async with talking_to(server, key=value) as client:
                assert client.events[0]["session"]["type"] == "transcription"
                await client.say(silence(0.3), speech(1.0), silence(0.8))
                await client.until("conversation.item.input_audio_transcription.completed")
                await client.send("response.create")
                await client.until("error")
                await client.send("session.update", session={"type": "realtime"})
                assert (await client.until("error"))["error"]["param"] == "session.type"


def test_session_of_the_beta_has_its_secret_inside(keyed_server: tuple[RunningServer, str]) -> None:
    server, key = keyed_server
    document = made(server, key, "sessions", model="gpt-4o-realtime-preview", voice="verse", modalities=["text"])
    assert (document["object"], document["modalities"]) == ("realtime.session", ["text"])
    assert document["client_secret"]["value"].startswith("ek_") and document["voice"] == "verse"
    with OpenAI(api_key=key, base_url=f"{server.url}/v1") as openai:
        created = openai.beta.realtime.sessions.create(modalities=["text"], turn_detection={"type": "server_vad"})
        assert created.modalities == ["text"] and created.client_secret.value.startswith("ek_")
        transcribing = openai.beta.realtime.transcription_sessions.create(input_audio_format="g711_ulaw")
        assert transcribing.input_audio_format == "g711_ulaw" and transcribing.modalities is None


@pytest.mark.anyio
async def test_secret_ends_with_its_time_and_with_the_key_of_its_maker(keyed_server: tuple[RunningServer, str]) -> None:
    server, key = keyed_server
    value = made(server, key, expires_after={"seconds": 10})["value"]
    other = made(server, key)["value"]
    server.appliance.keyring.secrets._now = lambda: time.time() + 11
    for secret, message in ((value, "has expired"), (f"ek_{'0' * 32}", "an API key is required")):
        with pytest.raises(websockets.InvalidStatus) as rejected:
            async with raw(server, additional_headers={"Authorization": f"Bearer {secret}"}):
                pass
        assert rejected.value.response.status_code == 401
        assert message in json.loads(rejected.value.response.body or b"")["error"]["message"]
    auth.revoke(server.appliance.settings.data, "owner")
    with pytest.raises(websockets.InvalidStatus):
        async with raw(server, additional_headers={"Authorization": f"Bearer {other}"}):
            pass


@pytest.mark.anyio
async def test_secret_made_without_a_key_ends_with_the_first_key(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings()) as server:
        value = made(server, "none")["value"]
        async with raw(server, additional_headers={"Authorization": f"Bearer {value}"}) as plain:
            await receive_event(plain, "session.created")
        auth.add(server.appliance.settings.data, "first", ["all"])
        with pytest.raises(websockets.InvalidStatus) as rejected:
            async with raw(server, additional_headers={"Authorization": f"Bearer {value}"}):
                pass
        assert rejected.value.response.status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"session": {"type": "dictation"}}, "session.type"),
        ({"session": {"audio": {"output": {"speed": 9}}}}, "session.audio.output.speed"),
        ({"session": {"model": "llama-9000"}}, "model"),
        ({"expires_after": {"seconds": 9}}, "expires_after.seconds"),
        ({"session": {"instructions": "x" * 32_001}}, "instructions"),
        ({"session": {"instructions": "x", "tools": [{"type": "mcp"}]}}, "session.tools.0.type"),
    ],
)
def test_invalid_session_is_rejected_when_the_secret_is_made(
    shared_server: RunningServer, body: Event, param: str
) -> None:
    reply = shared_server.client.post("/v1/realtime/client_secrets", json=body)
    assert reply.status_code in (400, 404) and reply.json()["error"]["param"] == param


def test_unknown_fields_are_named_in_the_header(shared_server: RunningServer) -> None:
    body = {"session": {"extensions": {"a": 1}}, "purpose": "demo"}
    reply = shared_server.client.post("/v1/realtime/client_secrets", json=body)
    assert reply.headers["x-chatapi-ignored"] == "purpose, session.extensions"


def test_secrets_are_bounded() -> None:
    now = [1000.0]
    secrets = ClientSecrets(lambda: now[0])
    with pytest.raises(TooLarge):
        secrets.create(ANYBODY, "x" * (MOST_CHARS + 1), 60)
    values = []
    with pytest.raises(Busy):
        while True:
            values.append(secrets.create(ANYBODY, "x" * MOST_CHARS, 60)[0])
    assert len(values) == 64 and secrets.find(values[0].encode()) is not None
    now[0] += 61
    with pytest.raises(Unauthorized):
        secrets.find(values[0].encode())
    for _ in range(1000):
        secrets.create(ANYBODY, "{}", 60)
    with pytest.raises(Busy):
        secrets.create(ANYBODY, "{}", 60)
