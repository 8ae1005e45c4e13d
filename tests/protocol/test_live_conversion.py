"""Live voice conversion over its WebSocket, on the fake engine: the tone changes, its place in time does not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from chatapi.audio import RATE, Samples
from chatapi.auth import add as add_key
from chatapi.services.voice_conversion.stream_conversion import JUDGED_CHUNKS, ChunkPace, Joint
from conftest import RunningServer, serving, tone
from test_voices import add, clip

pytestmark = pytest.mark.anyio
VOICE = 1500.0


@pytest.fixture(scope="module")
def server(shared_server: RunningServer) -> Iterator[RunningServer]:
    assert add(shared_server, "anna", clip(hertz=VOICE)).status_code == 201
    yield shared_server
    shared_server.client.delete("/voices/anna")


@asynccontextmanager
async def connected(server: RunningServer, key: str = "") -> AsyncIterator[ClientConnection]:
    headers = {"X-API-Key": key} if key else {}
    async with connect(f"ws://127.0.0.1:{server.port}/conversions/live", additional_headers=headers) as socket:
        yield socket


def pcm(samples: Samples) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


async def until_done(socket: ClientConnection) -> tuple[Samples, dict[str, Any]]:
    """The audio that comes, and the message after it."""
    audio = b""
    with anyio.fail_after(60):
        while isinstance(message := await socket.recv(), bytes):
            audio += message
    return np.frombuffer(audio, "<i2") / np.float32(32_768), json.loads(message)


def hertz(samples: Samples, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate / len(samples)


@pytest.mark.parametrize("rate", [RATE, 48_000])
async def test_audio_is_converted_while_it_arrives(server: RunningServer, rate: int) -> None:
    async with connected(server) as socket:
        await socket.send(json.dumps({"type": "start", "voice": "anna", "sample_rate": rate}))
        started = json.loads(await socket.recv())
        assert started["type"] == "started" and started["algorithmic_latency_ms"] == 140
        assert "voice anna" in started["mark"] and started["sample_rate"] == RATE
        # Half a second of speech: the first chunk, of 80 ms, comes although more will follow.
        await socket.send(pcm(tone(0.5, 440, rate)))
        with anyio.fail_after(60):
            first = await socket.recv()
        assert isinstance(first, bytes) and len(first) == 2 * 0.08 * RATE
        for _ in range(5):
            await socket.send(pcm(tone(0.1, 440, rate)))
        await socket.send(json.dumps({"type": "end"}))
        rest, done = await until_done(socket)
    found = np.concatenate([np.frombuffer(first, "<i2") / np.float32(32_768), rest])
    assert done == {"type": "done", "seconds": pytest.approx(1.0, abs=0.01)}
    assert hertz(found, RATE) == pytest.approx(VOICE, abs=5)
    # The tone of the fake engine goes on from chunk to chunk: a gap or a step would be other frequencies, too.
    loud = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert loud[np.abs(np.fft.rfftfreq(len(found), 1 / RATE) - VOICE) > 20].max() < loud.max() / 100


async def test_silence_gives_silence(server: RunningServer) -> None:
    async with connected(server) as socket:
        await socket.send(json.dumps({"type": "start", "voice": "anna"}))
        await socket.recv()
        quiet = np.zeros(RATE, np.float32)
        for part in (quiet, tone(1.0), quiet):
            await socket.send(pcm(part)[:-1])
            await socket.send(pcm(part)[-1:])
        await socket.send(json.dumps({"type": "end"}))
        found, done = await until_done(socket)
    assert done["seconds"] == 3.0 and len(found) == 3 * RATE
    assert not found[: round(0.7 * RATE)].any() and not found[round(2.3 * RATE) :].any()
    assert np.abs(found[round(1.3 * RATE) : round(1.7 * RATE)]).max() > 0.2


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([{"type": "start", "voice": "nobody's"}], "unknown_voice"),
        ([{"type": "start"}], "invalid_value"),
        ([{"type": "start", "voice": "anna", "chunk_ms": 50}], "invalid_value"),
        ([{"type": "start", "voice": "anna", "pitch": 2}], "invalid_value"),
        (["no JSON"], "invalid_json"),
        ([b"\0\0"], "invalid_json"),
        ([{"type": "start", "voice": "anna"}, {"type": "start", "voice": "anna"}], "bad_request"),
    ],
)
async def test_a_wrong_message_is_answered_with_an_error(
    server: RunningServer, messages: list[dict[str, Any] | str | bytes], code: str
) -> None:
    async with connected(server) as socket:
        for each in messages:
            await socket.send(json.dumps(each) if isinstance(each, dict) else each)
        _, message = await until_done(socket)
        if message["type"] == "started":
            _, message = await until_done(socket)
    assert message["type"] == "error" and message["error"]["code"] == code, message


async def test_one_more_live_conversion_than_allowed_is_rejected(server: RunningServer) -> None:
    async with connected(server) as first, connected(server) as second:
        start = json.dumps({"type": "start", "voice": "anna"})
        await first.send(start)
        assert json.loads(await first.recv())["type"] == "started"
        await second.send(start)
        _, message = await until_done(second)
        assert message["error"]["code"] == "busy", message
    async with connected(server) as third:
        await third.send(start)
        assert json.loads(await third.recv())["type"] == "started"


async def test_the_socket_needs_the_scope_and_the_voices_of_the_key(fake_settings: Any) -> None:
    chosen = fake_settings()
    keys = {name: add_key(chosen.data, name, [name]) for name in ("voices", "talk")}
    with serving(chosen) as running:
        assert add(running, "mine", clip(), key=keys["voices"]).status_code == 201
        async with connected(running, keys["voices"]) as socket:
            await socket.send(json.dumps({"type": "start", "voice": "mine"}))
            assert json.loads(await socket.recv())["type"] == "started"
        with pytest.raises(Exception, match="403"):
            async with connected(running, keys["talk"]):
                pass


def test_chunks_that_overlap_are_cross_faded() -> None:
    joint, found = Joint(), []
    joint.begin()
    found.append(joint.feed(np.ones(10, np.float32), 4))
    joint.begin()
    found.append(joint.feed(np.full(3, 3, np.float32), 0))
    found.append(joint.feed(np.full(5, 3, np.float32), 0))
    assert np.concatenate(found).tolist() == pytest.approx([1] * 6 + [1.4, 1.8, 2.2, 2.6] + [3] * 4)


async def test_a_slow_box_takes_longer_chunks_and_a_fast_one_those_that_were_asked_for() -> None:
    pace = ChunkPace(1280)

    def count(share: float, times: int = JUDGED_CHUNKS) -> int:
        for _ in range(times):
            seconds = pace.chunk / RATE
            pace.add(share * seconds, seconds)
        return pace.chunk

    assert count(0.5) == 1280 and count(1.5, JUDGED_CHUNKS - 1) == 1280
    assert count(1.5, 1) == 2560 and count(1.5) == 5120
    assert count(0.6) == 5120 and count(2, 20 * JUDGED_CHUNKS) == 10_240
    assert count(0.1) == 5120 and count(0.1, 20 * JUDGED_CHUNKS) == 1280
