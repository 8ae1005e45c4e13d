"""Wyoming with invalid events, endless audio, idle and stalled clients, and too many connections."""

from __future__ import annotations

import json
import socket
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import psutil
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeVoice
from wyoming.wake import Detect

from chatapi.audio import RATE
from conftest import TIMEOUT, RunAppliance, tone
from conftest import until as eventually
from wyoming_peer import ask, audio_events, open_to_wyoming, until

anyio_test = pytest.mark.anyio
START = AudioStart(RATE, 2, 1)


async def raw(port: int, *sent: bytes) -> list[dict[str, Any]]:
    """Sends bytes, and returns header and data of all events up to the end of the connection."""
    received = b""

    async def send() -> None:
        try:
            for data in sent:
                await stream.send(data)
        except anyio.BrokenResourceError:
            # The server closed the connection.
            return

    with anyio.fail_after(20):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream, anyio.create_task_group() as group:
            group.start_soon(send)
            try:
                while True:
                    received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                group.cancel_scope.cancel()
    found = []
    while received:
        line, _, received = received.partition(b"\n")
        header = json.loads(line)
        length = header.get("data_length", 0)
        found.append({**header, **json.loads(received[:length] or b"{}")})
        received = received[length:]
    return found


@anyio_test
@pytest.mark.parametrize(
    ("requests", "code", "message"),
    [
        ([AudioChunk(7_999, 2, 1, b"00")], "bad_audio", "8000 to 192000 Hz"),
        ([SynthesizeStart(), Transcript("Hello.")], "unexpected_event", "transcript arrived before synthesize-stop"),
        ([AudioStart(7_999, 2, 1)], "bad_audio", "8000 to 192000 Hz"),
        ([AudioStart(RATE, 5, 1)], "bad_audio", "5 bytes per sample are not supported"),
        ([AudioStart(RATE, 2, 0)], "bad_audio", "0 channels"),
        ([AudioStart(10**40, 2, 1)], "bad_audio", "sample rate"),
        ([Event("audio-start", {"rate": "16000", "width": 2, "channels": 1})], "invalid_value", "rate must be"),
        ([Event("audio-start", {"rate": RATE})], "invalid_value", "width must be given"),
        ([START, AudioChunk(8000, 2, 1, b"00")], "bad_audio", "differs from its audio-start"),
        ([START, AudioChunk(RATE, 2, 1, b"000"), Event("audio-stop")], "bad_audio", "1 bytes of a frame of 2"),
        ([Transcribe(language="xx")], "unknown_language", "supported languages: en, de"),
        ([Event("transcribe", {"language": 5})], "invalid_value", "language must be text"),
        ([Event("transcript", {"text": None})], "invalid_value", "text must be text"),
        ([Event("transcript", {"text": "\ud800"})], "invalid_value", "text must be text"),
        ([Synthesize("one \0 two")], "invalid_value", "NUL or lone surrogates"),
        ([Event("transcript", {})], "invalid_value", "text must be given"),
        ([Event("recognize", {})], "invalid_value", "text must be given"),
        ([Event("transcript", {"text": "a", "context": [1]})], "invalid_value", "context must be a table"),
        ([Transcript("a", context={"conversation_id": "x" * 201})], "invalid_value", "at most 200"),
        ([Detect(names=["hey_jarvis"])], "unknown_wake_word", "use fake"),
        ([Event("detect", {"names": "echo"})], "invalid_value", "names must be a list"),
        ([Synthesize("Hello.", SynthesizeVoice("nobody"))], "unknown_voice", "there are: fake, fake-high"),
        ([Synthesize("Hello.", SynthesizeVoice("echo", speaker="2"))], "unknown_speaker", "single speaker"),
        ([Synthesize("<speak/>", text_format="ssml")], "unsupported_text_format", "only text is supported"),
        ([Synthesize("a" * 101)], "text_too_long", "100 characters (limits"),
        ([SynthesizeStart(), *[SynthesizeChunk("a" * 30)] * 4], "text_too_long", "100 characters (limits"),
        ([Event("synthesize", {"text": b"\xff\xfe".decode("latin-1"), "voice": 5})], "invalid_value", "voice must be"),
        ([Event("select-program", {"name": "piper"})], "unknown_program", "use chatapi"),
        ([Event("ping", {"text": 5})], "invalid_value", "text must be text"),
        ([Event("describe", {}, b"x" * 5_000)], "event_too_large", "at most 4096 bytes"),
    ],
)  # fmt: skip
async def test_invalid_request_gets_an_error_and_ends_the_connection(
    fake_appliance: RunAppliance, requests: list[Any], code: str, message: str
) -> None:
    async with fake_appliance("limits.prompt_chars=100", "wyoming.payload_bytes=4096") as appliance:
        async with open_to_wyoming(appliance) as (_, port):
            data = b"".join(map(bytes_of, requests))
            error = (await raw(port, data))[-1]
            assert (error["type"], error["code"]) == ("error", code)
            assert message in error["text"]
            # Other clients are not affected.
            assert (await ask(port, Ping("a"), end=["pong"]))[-1].data == {"text": "a"}


def bytes_of(request: Any) -> bytes:
    event = request if isinstance(request, Event) else request.event()
    data = json.dumps(event.data).encode()
    header = {"type": event.type, "data_length": len(data), "payload_length": len(event.payload or b"")}
    return json.dumps(header).encode() + b"\n" + data + (event.payload or b"")


@anyio_test
@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\n",
        b'{"type": "synthesize", "data_length": 5}\n\x00\x01\x02\x03\x04',
        b'{"type": "synthesize", "data_length": 3}\n{"text": "Hello."}',
        b'{"type": "audio-chunk", "payload_length": 10000000000}\n' + b"0" * 100_000,
        b"x" * 200_000,
    ],
    ids=["http", "tls", "binary", "lying_length", "10_gb", "endless_line"],
)
async def test_malformed_event_gets_an_error_and_ends_the_connection(fake_appliance: RunAppliance, sent: bytes) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        [error] = await raw(port, sent)
    assert (error["type"], error["code"]) in (("error", "bad_event"), ("error", "event_too_large"))


@anyio_test
async def test_event_of_100_mb_needs_no_memory(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        megabyte = bytes(1_000_000)
        before = psutil.Process().memory_info().rss
        [error] = await raw(port, b'{"type": "audio-chunk", "payload_length": 100000000}\n', *[megabyte] * 100)
        assert (error["code"], "100000000; at most 1048576" in error["text"]) == ("event_too_large", True)
        assert psutil.Process().memory_info().rss - before < 50_000_000


@anyio_test
async def test_incomplete_event_times_out(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("server.body_seconds=0.2") as appliance, open_to_wyoming(appliance) as (server, port):
        [error] = await raw(port, b'{"type": "synthesize", "data_length": 100}\n{"text": ')
        assert (error["code"], "not complete after 0.2 seconds" in error["text"]) == ("too_slow", True)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b'{"type": "pi')
            await eventually(lambda: server.health["connections"] == 1)
        # The client disconnects within an event.
        await eventually(lambda: server.health["connections"] == 0)


@anyio_test
async def test_idle_client_is_disconnected(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("wyoming.idle_seconds=0.2") as appliance, open_to_wyoming(appliance) as (_, port):
        for requests in ((), (bytes_of(Transcribe()), bytes_of(START)), (bytes_of(SynthesizeStart()),)):
            error = (await raw(port, *requests))[-1]
            assert (error["code"], "idle for 0.2 seconds" in error["text"]) == ("idle", True)


@anyio_test
async def test_client_waiting_for_a_long_response_is_not_idle(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("wyoming.idle_seconds=0.3", "fake.delay=0.02") as appliance:
        async with open_to_wyoming(appliance) as (_, port):
            long = Transcript("one two three " * 10)
            received = await ask(port, long, Ping(), long, Synthesize("Hello."), end=["audio-stop"])
            assert [each.type for each in received].count("handled") == 2 and received[-1].type == "audio-stop"
            [*_, error] = await ask(port, end=[])
            assert error.data["code"] == "idle"


@anyio_test
async def test_endless_audio_is_rejected_for_transcription(fake_appliance: RunAppliance) -> None:
    clip = np.tile(tone(0.5), 9)
    async with fake_appliance("limits.audio_seconds=4") as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Transcribe(), *audio_events(clip), end=["transcript"])
        error = received[-1].data
        assert (error["code"], "longer than 4 seconds" in error["text"]) == ("audio_too_long", True)
        # Wake-word detection has no limit.
        received = await ask(port, Detect(), *audio_events(clip), end=["not-detected"])
        assert [each.type for each in received] == ["not-detected"]


@anyio_test
async def test_stalled_client_is_disconnected(fake_appliance: RunAppliance) -> None:
    text = " ".join(["word"] * 1500)
    async with fake_appliance("server.send_seconds=0.3") as appliance, open_to_wyoming(appliance) as (server, port):
        with socket.socket() as stalled:
            # A receive buffer too small for the response.
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", port))
            for _ in range(8):
                stalled.sendall(bytes_of(Synthesize(text)))
            await eventually(lambda: server.health["connections"] == 1)
            # Other clients are served meanwhile.
            assert (await ask(port, Synthesize("Hello."), end=["audio-stop"]))[-1].type == "audio-stop"
            await eventually(lambda: server.health["connections"] == 0, 20)


@anyio_test
async def test_disconnect_cancels_the_work(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.02") as appliance, open_to_wyoming(appliance) as (server, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Transcript("one two three " * 50).event())
            await until(client, "handled-chunk")
        await eventually(lambda: server.health["connections"] == 0 and appliance.engines.llm.admission.used == 0)
        assert (
            'chatapi_turns_total{input="text",kind="request",reply="text",result="disconnected"} 1.0'
            in appliance.metrics.page().decode()
        )


@anyio_test
async def test_200_connections_at_once_are_served_or_rejected(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("wyoming.connections=10") as appliance, open_to_wyoming(appliance) as (server, port):
        responses: list[list[Event]] = []
        may_close = anyio.Event()

        async def visit() -> None:
            received: list[Event] = []
            try:
                async with AsyncTcpClient("127.0.0.1", port) as client:
                    await client.write_event(Ping().event())
                    received += await until(client, "pong", "error")
                    responses.append(received)
                    if received and received[-1].type == "pong":
                        await may_close.wait()
            except OSError:
                # Closed without an event.
                if not received:
                    responses.append(received)

        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(visit)
            await eventually(lambda: len(responses) == 200)
            assert server.health["connections"] == 10
            may_close.set()
        types = [events[-1].type if events else "closed" for events in responses]
        assert types.count("pong") == 10 and types.count("error") >= 64
        assert {events[-1].data["code"] for events in responses if events and events[-1].type == "error"} == {
            "too_many_connections"
        }
        await eventually(lambda: server.health["connections"] == 0)
        assert (await ask(port, Synthesize("Hello."), end=["audio-stop"]))[-1].type == "audio-stop"


async def pinged(client: AsyncTcpClient, number: int) -> Event:
    await client.write_event(Ping(str(number)).event())
    return (await until(client, "pong", "error"))[-1]


@anyio_test
async def test_half_closed_connection_gets_its_response(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (server, port):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"".join(map(bytes_of, (Describe(), Synthesize("Hello.")))))
            await stream.send_eof()
            with anyio.fail_after(TIMEOUT):
                received = b"".join([data async for data in stream])
        assert b'"info"' in received and b'"audio-stop"' in received
        await eventually(lambda: server.health["connections"] == 0)


@anyio_test
async def test_client_without_events_times_out_earlier(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("server.head_seconds=1.5") as appliance, open_to_wyoming(appliance) as (server, port):
        [error] = await raw(port)
        assert (error["code"], "idle for 1.5 seconds" in error["text"]) == ("idle", True)
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await pinged(client, 1)
            await anyio.sleep(2)
            assert (await pinged(client, 2)).type == "pong" and server.health["connections"] == 1


@anyio_test
async def test_this_machine_has_only_the_limit_of_all_connections(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("wyoming.connections=3", "wyoming.connections_per_address=2") as appliance:
        async with open_to_wyoming(appliance) as (server, port):
            async with AsyncTcpClient("127.0.0.1", port) as one, AsyncTcpClient("127.0.0.1", port) as two:
                async with AsyncTcpClient("127.0.0.1", port) as three:
                    assert [(await pinged(each, 1)).type for each in (one, two, three)] == ["pong"] * 3
                    [rejected] = await ask(port, Ping(), end=["pong"])
                    assert rejected.data["code"] == "too_many_connections"
                await eventually(lambda: server.health["connections"] == 2)
                assert [event.type for event in await ask(port, Ping(), end=["pong"])] == ["pong"]


@anyio_test
async def test_bytes_beyond_the_budget_are_rejected_and_released(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("limits.inflight_bytes=1048576") as appliance, open_to_wyoming(appliance) as (_, port):
        held = appliance.byte_budget.open()
        held.hold(1_000_000)
        [error] = await raw(port, b'{"type": "audio-chunk", "payload_length": 900000}\n', bytes(500_000))
        assert (error["type"], error["code"]) == ("error", "busy")
        held.release()
        await eventually(lambda: appliance.byte_budget.held == 0)


@anyio_test
async def test_large_data_does_not_block_other_connections(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("limits.prompt_chars=100000") as appliance, open_to_wyoming(appliance) as (_, port):
        received = await ask(port, Synthesize("word " * 19_000), end=["audio-start"])
        assert received[-1].type == "audio-start"
        [error] = await raw(port, bytes_of(Event("transcript", {"text": "a", "context": {"a": [0] * 20_000}})))
        assert error["code"] == "event_too_large"
