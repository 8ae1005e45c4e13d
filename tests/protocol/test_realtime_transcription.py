"""Transcription sessions of `/v1/realtime`: prompt, logprobs, and what their scope allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from openai import AsyncOpenAI

from chatapi import auth
from chatapi.settings import Settings
from conftest import RunningServer, serving
from realtime_client import SERVER_VAD, Client, Event, raw, receive_event, silence, speech, talking

pytestmark = pytest.mark.anyio

LOGPROBS = "item.input_audio_transcription.logprobs"
COMPLETED = "conversation.item.input_audio_transcription.completed"
TURN = (silence(0.3), speech(1.0), silence(0.8))


async def check_transcribes_only(client: Client) -> None:
    """Speaks two turns, which are transcribed and not answered."""
    for _ in range(2):
        await client.say(*TURN)
        completed = await client.until(COMPLETED)
        assert completed["transcript"].startswith("heard ") and completed["usage"]["seconds"] > 0.5
    await client.rest()
    deltas = "".join(each["delta"] for each in client.events if each["type"].endswith("transcription.delta"))
    assert deltas == "".join(each["transcript"] for each in client.events if each["type"] == COMPLETED)
    assert "input_audio_buffer.committed" in client.types and "conversation.item.done" in client.types
    assert not [kind for kind in client.types if kind.startswith("response.") or kind == "error"]


@pytest.mark.parametrize(
    "query",
    [{"intent": "transcription"}, {"model": "gpt-4o-transcribe"}, {"model": "whisper-1"}, {"model": "gpt-realtime"}],
)
async def test_session_that_transcribes_gives_no_answer(shared_server: RunningServer, query: dict[str, str]) -> None:
    async with AsyncOpenAI(api_key="none", base_url=f"{shared_server.url}/v1") as openai:
        model = query.get("model", "default")
        more = {name: value for name, value in query.items() if name != "model"}
        async with openai.realtime.connect(model=model, extra_query=more) as connection:
            client = Client(connection)
            created = await client.until("session.created")
            assert created["session"]["type"] == ("realtime" if model == "gpt-realtime" else "transcription")
            session: Any = {
                "type": "transcription",
                "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}, "turn_detection": SERVER_VAD}},
                "include": ["item.input_audio_transcription.logprobs"],
            }
            await connection.session.update(session=session)
            updated = (await client.until("session.updated"))["session"]
            assert (updated["type"], updated["audio"]["input"]["transcription"]["model"]) == (
                "transcription",
                "gpt-4o-transcribe",
            )
            assert "output" not in updated["audio"] and "instructions" not in updated
            await check_transcribes_only(client)


async def test_default_turn_detection_transcribes(shared_server: RunningServer) -> None:
    async with raw(shared_server, "?intent=transcription&model=gpt-4o-mini-transcribe") as plain:
        session = (await receive_event(plain, "session.created"))["session"]
        assert session["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"
        assert session["audio"]["input"]["transcription"]["model"] == "gpt-4o-mini-transcribe"


async def test_turns_end_by_commit_without_turn_detection(shared_server: RunningServer) -> None:
    async with talking(shared_server, model="gpt-4o-transcribe") as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        await client.until("session.updated")
        await client.say(speech(1.0))
        await client.send("input_audio_buffer.commit")
        assert (await client.until(COMPLETED))["transcript"].startswith("heard ")


async def test_session_of_the_beta_is_transcribed(shared_server: RunningServer) -> None:
    session = {
        "input_audio_format": "pcm16",
        "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": ""},
        "turn_detection": {**SERVER_VAD, "prefix_padding_ms": 300, "threshold": 0.5},
        "input_audio_noise_reduction": {"type": "near_field"},
    }
    async with talking(shared_server) as client:
        await client.send("transcription_session.update", session=session)
        updated = (await client.until("session.updated"))["session"]
        assert updated["type"] == "transcription"
        assert updated["audio"]["input"]["noise_reduction"]["type"] == "near_field"
        await check_transcribes_only(client)


async def test_transcription_session_has_no_responses(shared_server: RunningServer) -> None:
    item = {"type": "message", "role": "user", "content": "hello"}
    events: list[Event] = [
        {"type": "response.create"},
        {"type": "conversation.item.create", "item": item},
        {"type": "session.update", "session": {"type": "realtime"}},
    ]
    async with raw(shared_server, "?intent=transcription") as plain:
        for event in events:
            await plain.send(json.dumps(event))
            assert "transcription session" in (await receive_event(plain, "error"))["error"]["message"]


async def test_transcription_session_keeps_nothing_of_its_turns(shared_server: RunningServer) -> None:
    async with talking(shared_server, model="whisper-1") as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": SERVER_VAD}}})
        await client.until("session.updated")
        await client.say(*TURN)
        await client.until(COMPLETED)
        with anyio.move_on_after(0.1):
            await client.until("nothing")
        conversation = client.events[0]["session"]["chatapi"]["conversation"]
    assert shared_server.client.get(f"/conversations/{conversation}").status_code == 404


async def test_prompt_keywords_and_logprobs_of_live_transcripts(shared_server: RunningServer) -> None:
    """The fake transcriber repeats the prompt; its tokens are words."""
    transcription = {"model": "gpt-4o-transcribe", "prompt": "Names:", "keywords": ["Ada", "Oslo"], "languages": ["en"]}
    asked = {"transcription": transcription, "turn_detection": SERVER_VAD}
    for kind in ("transcription", "realtime"):
        async with talking(
            shared_server, model="gpt-4o-transcribe" if kind == "transcription" else "default"
        ) as client:
            session: Event = {"type": kind, "audio": {"input": asked}, "include": [LOGPROBS, "unknown"]}
            await client.send("session.update", session=session)
            updated = (await client.until("session.updated"))["session"]
            assert updated["chatapi"]["ignored"] == "session.include.unknown"
            await client.say(*TURN)
            completed = await client.until(COMPLETED)
        assert completed["transcript"].endswith("seconds after Names: Ada, Oslo..")
        assert "".join(each["token"] for each in completed["logprobs"]).strip() == completed["transcript"]
        assert all(
            each["logprob"] == 0 and bytes(each["bytes"]).decode() == each["token"] for each in completed["logprobs"]
        )


async def test_transcript_has_no_logprobs_unless_they_are_requested(shared_server: RunningServer) -> None:
    async with talking(shared_server, model="whisper-1") as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": SERVER_VAD}}})
        await client.until("session.updated")
        await client.say(*TURN)
        completed = await client.until(COMPLETED)
    assert completed["logprobs"] is None and completed["transcript"].endswith("seconds.")


@pytest.fixture
def keyed_server(fake_settings: Callable[..., Settings]) -> Iterator[tuple[RunningServer, str]]:
    """A server, and its key with the scope transcribe."""
    settings = fake_settings()
    key = auth.add(settings.data, "recorder", ["transcribe"])
    with serving(settings) as server:
        yield server, key


async def test_key_with_the_scope_transcribe_opens_sessions_that_transcribe(
    keyed_server: tuple[RunningServer, str],
) -> None:
    server, key = keyed_server
    rejected: list[Event] = [
        {"type": "response.create"},
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": "hello"}},
        {"type": "session.update", "session": {"type": "realtime"}},
    ]
    async with talking(server, key, model="gpt-4o-transcribe") as client:
        assert client.events[0]["session"]["type"] == "transcription"
        await client.send("session.update", session={"audio": {"input": {"turn_detection": SERVER_VAD}}})
        await client.until("session.updated")
        await check_transcribes_only(client)
        for event in rejected:
            await client.connection.send(event)
            assert "transcription session" in (await client.until("error"))["error"]["message"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "scope_missing"),
        ("?model=gpt-realtime", "scope_missing"),
        ("?intent=transcription&conversation=c0ffee", "invalid_value"),
    ],
)
async def test_key_with_the_scope_transcribe_opens_no_conversation(
    keyed_server: tuple[RunningServer, str], query: str, code: str
) -> None:
    server, key = keyed_server
    async with raw(server, query, additional_headers={"Authorization": f"Bearer {key}"}) as plain:
        assert (await receive_event(plain, "error"))["error"]["code"] == code
        await plain.wait_closed()
        assert plain.close_code == 1008
