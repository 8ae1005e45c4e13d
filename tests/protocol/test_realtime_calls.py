"""Calls over WebRTC, with aiortc as the client and fake engines: events, audio in both directions, limits, the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

from chatapi import auth
from chatapi.audio import Samples
from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.interfaces.http.realtime.session_description import checked_offer
from chatapi.settings import Settings
from conftest import RunningServer, serving, tone, until
from realtime_client import SERVER_VAD

pytest.importorskip("aiortc")
from aiortc import RTCSessionDescription

from chatapi.interfaces.http.realtime.call import DataChannelEvents
from chatapi.interfaces.http.realtime.event_channel import RealtimeClosed
from webrtc_client import RATE, Caller, calling

pytestmark = pytest.mark.anyio


def speech(seconds: float) -> Samples:
    return tone(seconds, rate=RATE)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


async def write(caller: Caller, text: str) -> None:
    content = [{"type": "input_text", "text": text}]
    caller.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await caller.until("conversation.item.done")


async def test_spoken_question_gets_a_spoken_answer(shared_server: RunningServer) -> None:
    # The format of the output is that of the track.
    audio = {"input": {"turn_detection": SERVER_VAD}, "output": {"format": {"type": "audio/pcmu"}}}
    session = {"type": "realtime", "model": "gpt-realtime", "audio": audio}
    async with calling(shared_server, session=session) as caller:
        created = await caller.until("session.created")
        assert created["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
        caller.microphone.say(silence(0.3), speech(1.0), silence(0.8))
        done = await caller.until("response.done")
        transcript = done["response"]["output"][0]["content"][0]["transcript"]
        assert transcript.startswith("You said: heard ")
        stopped = await caller.until("output_audio_buffer.stopped")
        started = next(event for event in caller.events if event["type"] == "output_audio_buffer.started")
        assert stopped["response_id"] == started["response_id"] == done["response"]["id"]
        # The audio is in the track and not in events.
        assert "response.output_audio.delta" not in caller.types
        assert "response.output_audio_transcript.delta" in caller.types and "error" not in caller.types
        await until(lambda: caller.heard_seconds > 0.2)
        assert caller.heard_seconds < 1
    await until(lambda: shared_server.appliance.live.sessions == 0)


@pytest.mark.slow
async def test_barge_in_stops_the_playback(shared_server: RunningServer) -> None:
    async with calling(shared_server, query="?model=gpt-realtime") as caller:
        await caller.until("session.created")
        caller.send("session.update", session={"audio": {"input": {"turn_detection": SERVER_VAD}}})
        await caller.until("session.updated")
        await write(caller, "one two three four five six seven eight nine ten " * 8)
        caller.send("response.create")
        await caller.until("response.done")
        await until(lambda: caller.heard_seconds > 0.5)
        caller.microphone.say(speech(1.0), silence(1.0))
        await caller.until("output_audio_buffer.cleared")
        assert "input_audio_buffer.speech_started" in caller.types
        heard = caller.heard_seconds
        # The whole answer takes 5 seconds.
        assert heard < 4
        conversation = (await caller.until("response.done"))["response"]["conversation_id"]
    messages = shared_server.client.get(f"/conversations/{conversation}").json()["messages"]
    assert messages[1]["text"].endswith(" —") and len(messages[1]["text"].split()) < 70


@pytest.mark.slow
async def test_client_clears_the_output(shared_server: RunningServer) -> None:
    async with calling(shared_server) as caller:
        await caller.until("session.created")
        await write(caller, "one two three four five six seven eight nine ten " * 8)
        caller.send("response.create")
        started = await caller.until("output_audio_buffer.started")
        await until(lambda: caller.heard_seconds > 0.2)
        caller.send("output_audio_buffer.clear")
        assert (await caller.until("output_audio_buffer.cleared"))["response_id"] == started["response_id"]
        await anyio.sleep(0.5)
        heard = caller.heard_seconds
        await anyio.sleep(0.5)
        assert caller.heard_seconds == heard and "output_audio_buffer.stopped" not in caller.types


@pytest.mark.slow
async def test_transcription_session_over_a_call(shared_server: RunningServer) -> None:
    async with calling(shared_server, query="?intent=transcription", session={}) as caller:
        assert (await caller.until("session.created"))["session"]["type"] == "transcription"
        caller.send("session.update", session={"audio": {"input": {"turn_detection": SERVER_VAD}}})
        caller.microphone.say(silence(0.3), speech(1.0), silence(0.8))
        done = await caller.until("conversation.item.input_audio_transcription.completed")
        assert done["transcript"].startswith("heard ")


@pytest.mark.parametrize("way", ["hangup", "delete", "client"])
async def test_call_ends_and_leaves_nothing(shared_server: RunningServer, way: str) -> None:
    async with calling(shared_server) as caller:
        await caller.until("session.created")
        assert shared_server.appliance.live.sessions == 1
        if way == "client":
            caller.channel.close()
        elif way == "delete":
            assert shared_server.client.delete(caller.location).status_code == 204
        else:
            assert shared_server.client.post(f"{caller.location}/hangup").status_code == 200
        await until(lambda: shared_server.appliance.live.sessions == 0)
        await until(lambda: shared_server.client.delete(caller.location).status_code == 404)


async def test_data_channel_is_bounded() -> None:
    async with DataChannelEvents(1) as events:
        while not events.closed:
            events._message("x" * (1 << 20))
        found = 0
        with pytest.raises(RealtimeClosed):
            while await events.receive():
                found += 1
    assert found == 16


@pytest.mark.slow
async def test_calls_count_as_live_sessions(shared_server: RunningServer) -> None:
    async with calling(shared_server) as one, calling(shared_server) as two:
        for caller in (one, two):
            await caller.until("session.created")
        third = Caller()
        offer = {"content": await third.offer(), "headers": {"Content-Type": "application/sdp"}}
        reply = shared_server.client.post("/v1/realtime/calls", **offer)  # type: ignore[arg-type]
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "too_many_sessions")
        await third.close()
    await until(lambda: shared_server.appliance.live.sessions == 0)


async def test_call_that_never_connects_is_given_up(
    shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatapi.interfaces.http.realtime.call.CONNECT_SECONDS", 0.3)
    caller = Caller()
    offer = {"content": await caller.offer(), "headers": {"Content-Type": "application/sdp"}}
    reply = shared_server.client.post("/v1/realtime/calls", **offer)  # type: ignore[arg-type]
    assert reply.status_code == 201 and shared_server.appliance.live.sessions == 1
    await until(lambda: shared_server.appliance.live.sessions == 0)
    await caller.close()


@pytest.mark.slow
async def test_call_needs_a_key_and_ends_with_it(fake_settings: Callable[..., Settings]) -> None:
    settings = fake_settings()
    key = auth.add(settings.data, "browser", ["realtime"])
    owner = auth.add(settings.data, "owner", ["all"])
    with serving(settings) as server:
        assert server.client.post("/v1/realtime/calls", content="v=0").status_code == 401
        secret = server.client.post("/v1/realtime/client_secrets", json={}, headers={"X-Api-Key": owner}).json()
        async with calling(server, key=secret["value"]) as caller:
            await caller.until("session.created")
        async with calling(server, key=key) as caller:
            await caller.until("session.created")
            auth.revoke(settings.data, "browser")
            await until(lambda: server.appliance.live.sessions == 0)


@pytest.mark.slow
async def test_server_shutdown_ends_calls(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings()) as server:
        caller = Caller()
        offer = {"content": await caller.offer(), "headers": {"Content-Type": "application/sdp"}}
        assert server.client.post("/v1/realtime/calls", **offer).status_code == 201  # type: ignore[arg-type]
    assert server.appliance.live.sessions == 0
    await caller.close()


async def test_call_that_lasts_too_long_says_so(shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.interfaces.http.realtime.call.MOST_SECONDS", 0.5)
    async with calling(shared_server) as caller:
        assert (await caller.until("error"))["error"]["code"] == "session_expired"
        await until(lambda: caller.channel.readyState == "closed")
    await until(lambda: shared_server.appliance.live.sessions == 0)


@pytest.mark.slow
async def test_caller_gets_an_error_when_the_server_ends(fake_settings: Callable[..., Settings]) -> None:
    caller = Caller()
    with ExitStack() as running:
        server = running.enter_context(serving(fake_settings()))
        offer = {"content": await caller.offer(), "headers": {"Content-Type": "application/sdp"}}
        answer = server.client.post("/v1/realtime/calls", **offer).text  # type: ignore[arg-type]
        await caller.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await caller.until("session.created")
        # On a thread, because the caller needs this event loop.
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, running.close)
            assert (await caller.until("error"))["error"]["code"] == "shutting_down"
    await caller.close()


def test_missing_library_is_named(shared_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("call", "call_audio"):
        monkeypatch.delitem(sys.modules, f"chatapi.interfaces.http.realtime.{module}")
    monkeypatch.setitem(sys.modules, "aiortc", None)
    reply = shared_server.client.post("/v1/realtime/calls", **SDP, content=HEAD + AUDIO)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "webrtc_missing")
    assert "chatapi-appliance[webrtc]" in reply.json()["error"]["message"]


SDP: dict[str, Any] = {"headers": {"Content-Type": "application/sdp"}}
HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({**SDP, "content": ""}, 400, "invalid_sdp"),
        ({**SDP, "content": "hello"}, 400, "invalid_sdp"),
        ({**SDP, "content": b"v=0\r\n\xff"}, 400, "invalid_sdp"),
        ({**SDP, "content": HEAD}, 400, "unsupported_media"),
        ({**SDP, "content": HEAD + AUDIO + AUDIO.replace("audio", "video")}, 400, "unsupported_media"),
        ({**SDP, "content": HEAD + AUDIO}, 400, "invalid_sdp"),
        ({**SDP, "content": HEAD + AUDIO + "a=rtpmap:x\r\n"}, 400, "invalid_sdp"),
        ({**SDP, "content": HEAD + AUDIO + "a=x\r\n" * 20_000}, 413, "sdp_too_large"),
        ({"json": {"sdp": HEAD}}, 415, "unsupported_media_type"),
        ({"files": {"sdp": (None, HEAD + AUDIO), "session": (None, "{")}}, 400, "invalid_value"),
        ({"files": {"sdp": (None, HEAD + AUDIO), "session": (None, '{"audio": 1}')}}, 400, "invalid_value"),
        ({"files": {"other": (None, "x")}}, 400, "invalid_sdp"),
        ({"content": "--x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "invalid_form"),
    ],
)
async def test_invalid_offer_is_rejected(
    shared_server: RunningServer, request_: dict[str, Any], status: int, code: str
) -> None:
    reply = shared_server.client.post("/v1/realtime/calls", **request_)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
    assert shared_server.appliance.live.sessions == 0


def test_only_local_addresses_of_a_client_are_tried() -> None:
    def candidate(address: str) -> str:
        return f"a=candidate:1 1 udp 2113937151 {address} 50000 typ host"

    addresses = [
        "192.168.1.5",
        "8.8.8.8",
        "0f1e.local",
        "fd00::1",
        "2001:4860:4860::8888",
        "203.0.114.9",
        "evil.example",
    ]
    offer = "\r\n".join([HEAD.strip(), AUDIO.strip(), *map(candidate, addresses)])
    kept = [line.split()[4] for line in checked_offer(offer, "203.0.114.9").splitlines() if "candidate" in line]
    assert kept == ["192.168.1.5", "0f1e.local", "fd00::1", "203.0.114.9"]
    many = "\r\n".join([HEAD.strip(), AUDIO.strip(), *(candidate(f"10.0.0.{n}") for n in range(200))])
    assert checked_offer(many, "").count("candidate") == 32
    for broken, error in (("hello", BadInput), (HEAD, Unprocessable), ("v" * 70_000, TooLarge)):
        with pytest.raises(error):
            checked_offer(broken, "")
