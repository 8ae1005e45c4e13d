"""Captions over HTTP: started from a stream, the microphone or pushed audio, and watched as server-sent events."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import av
import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI

from broadcaster import Broadcast, broadcasting
from chatapi.audio import RATE, Samples
from chatapi.auth import key_store
from chatapi.interfaces.http import caption_routes
from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, encode_audio, serving, tone
from realtime_client import SERVER_VAD, Client, silence, speech

WIRE_RATE = 24_000
LINE = np.concatenate([np.zeros(int(0.4 * RATE)), tone(1.2), np.zeros(RATE)]).astype(np.float32)
"""Audio with one line."""


def mp3(samples: Samples) -> bytes:
    return encode_audio(samples, RATE, "libmp3lame", "mp3")


def ts(samples: Samples) -> bytes:
    """A segment of an HLS stream."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as out:
        stream = out.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = RATE
        to_codec = av.AudioResampler(format=stream.format, layout="mono", rate=RATE, frame_size=1024)
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture
def caption_server(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    with serving(fake_settings("captions.private_urls=true", "captions.sessions=3", "captions.history=10")) as running:
        yield running


@pytest.fixture
def broadcast() -> Iterator[Broadcast]:
    with broadcasting() as found:
        yield found


def start(server: RunningServer, **fields: Any) -> dict[str, Any]:
    response = server.client.post("/captions", json=fields)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/captions/{found['id']}"
    return found


def events(server: RunningServer, id_: str, after: int = 0) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, number (0: none) and data of each event until the end."""
    headers = {"last-event-id": str(after)} if after else {}
    with server.client.stream("GET", f"/captions/{id_}/events", headers=headers, timeout=TIMEOUT) as response:
        assert response.status_code == 200, response.read()
        name, number = "", 0
        for line in response.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "id":
                number = int(value)
            elif key == "data":
                yield name, number, json.loads(value)
                name, number = "", 0


def lines_of(found: list[tuple[str, int, dict[str, Any]]]) -> list[str]:
    return [data["text"] for name, _, data in found if name == "line"]


def test_a_recording_at_a_url_is_captioned_to_its_end(caption_server: RunningServer, broadcast: Broadcast) -> None:
    broadcast.files["/talk.mp3"] = mp3(np.concatenate([LINE, LINE, tone(1.0)]))
    made = start(caption_server, source="stream", url=broadcast.url("/talk.mp3"), title="A talk")
    found = list(events(caption_server, made["id"]))
    lines = [data for name, _, data in found if name == "line"]
    assert len(lines) == 3 and all(each["text"].startswith("heard ") for each in lines)
    assert [round(each["start"]) for each in lines] == [0, 3, 5] and lines[2]["end"] > 5.9
    numbers = [number for _, number, _ in found if number]
    assert numbers == list(range(1, len(numbers) + 1))
    assert found[-1][0] == "end" and found[-1][2]["state"] == "ended" and found[-1][2]["lines"] == 3
    document = caption_server.client.get(f"/captions/{made['id']}").json()
    assert [each["text"] for each in document["transcript"]] == lines_of(found)
    assert (document["title"], document["state"], document["viewers"]) == ("A talk", "ended", 0)
    assert "127.0.0.1" not in json.dumps(document)


def test_a_line_of_two_people_is_a_line_of_each(caption_server: RunningServer, broadcast: Broadcast) -> None:
    # The pause is too short to end a line.
    said = np.concatenate(
        [tone(3.0, 220), np.zeros(RATE // 10, np.float32), tone(3.0, 880), np.zeros(RATE, np.float32)]
    )
    broadcast.files["/talk.mp3"] = mp3(np.concatenate([said, tone(2.0, 220)]))
    made = start(caption_server, source="stream", url=broadcast.url("/talk.mp3"), speakers=True)
    lines = [data for name, _, data in events(caption_server, made["id"]) if name == "line"]
    assert [each["speaker"] for each in lines] == ["A", "B", "A"]
    assert [each["start"] for each in lines] == [0, pytest.approx(3.1, abs=0.3), pytest.approx(7, abs=0.5)]
    assert lines[0]["end"] == lines[1]["start"] and lines[1]["end"] == pytest.approx(6.1, abs=0.3)
    assert all(each["text"].startswith("heard ") for each in lines)


def test_a_viewer_resumes_behind_the_last_event_and_learns_of_a_gap(
    caption_server: RunningServer, broadcast: Broadcast
) -> None:
    broadcast.files["/talk.mp3"] = mp3(np.concatenate([LINE] * 14))
    made = start(caption_server, source="stream", url=broadcast.url("/talk.mp3"))
    whole = list(events(caption_server, made["id"]))
    last = [number for _, number, _ in whole if number][-1]
    resumed = list(events(caption_server, made["id"], last - 4))
    assert [number for _, number, _ in resumed if number] == list(range(last - 3, last + 1))
    late = list(events(caption_server, made["id"], 1))
    assert late[0] == ("gap", 0, {"missing": last - 10 - 1}) and late[1][1] == last - 9
    # A number that these captions have not reached is of others.
    assert next(number for _, number, _ in events(caption_server, made["id"], 10_000) if number) == last - 9


def test_a_broadcast_that_breaks_off_is_connected_to_again(caption_server: RunningServer, broadcast: Broadcast) -> None:
    part = mp3(np.concatenate([LINE, LINE]))
    broadcast.broadcasts["/radio"] = [part[: len(part) - 100], part]
    broadcast.hold = threading.Event()
    made = start(caption_server, source="stream", url=broadcast.url("/radio"))
    found = []
    for event in events(caption_server, made["id"]):
        found.append(event)
        if event[0] == "line" and len(lines_of(found)) == 4:
            assert caption_server.client.delete(f"/captions/{made['id']}").status_code == 204
    states = [data["state"] for name, _, data in found if name == "state"]
    assert states == ["live", "reconnecting", "live", "ended"]
    starts = [data["start"] for name, _, data in found if name == "line"]
    assert starts == sorted(starts) and starts[2] > 5.0
    assert caption_server.client.get(f"/captions/{made['id']}").status_code == 404


def test_an_hls_stream_is_read_segment_by_segment(caption_server: RunningServer, broadcast: Broadcast) -> None:
    for number in range(3):
        broadcast.files[f"/hls/{number}.ts"] = ts(LINE)
    listed = "".join(f"#EXTINF:2.6,\n{number}.ts\n" for number in range(3))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-MEDIA-SEQUENCE:7\n"
    broadcast.files["/hls/media.m3u8"] = f"{head}{listed}#EXT-X-ENDLIST\n".encode()
    variant = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900000\nnone.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=64000\nmedia.m3u8\n"
    broadcast.files["/hls/master.m3u8"] = variant.encode()
    made = start(caption_server, source="stream", url=broadcast.url("/hls/master.m3u8"))
    found = list(events(caption_server, made["id"]))
    assert len(lines_of(found)) == 3, found
    assert broadcast.requests == [f"/hls/{each}" for each in ("master.m3u8", "media.m3u8", "0.ts", "1.ts", "2.ts")]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-KEY:METHOD=AES-128,URI="k"\n#EXTINF:3,\na.ts\n', "encrypted"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile:///etc/passwd\n", "http"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-ENDLIST\n", "segments"),
    ],
)
def test_an_hls_stream_that_cannot_be_read_fails_with_the_reason(
    caption_server: RunningServer, broadcast: Broadcast, text: str, wrong: str
) -> None:
    broadcast.files["/a.m3u8"] = text.encode()
    made = start(caption_server, source="stream", url=broadcast.url("/a.m3u8"))
    end = list(events(caption_server, made["id"]))[-1][2]
    assert end["state"] == "failed" and wrong in end["failure"]["message"]


def test_a_stream_leads_to_no_private_address(fake_settings: Callable[..., Settings], broadcast: Broadcast) -> None:
    with serving(fake_settings()) as server:
        response = server.client.post("/captions", json={"source": "stream", "url": broadcast.url("/radio")})
        assert response.status_code == 422 and response.json()["code"] == "url_not_public"
    assert not broadcast.requests


def test_a_redirect_and_a_playlist_lead_to_no_address_that_is_not_http(
    caption_server: RunningServer, broadcast: Broadcast
) -> None:
    broadcast.redirects["/radio"] = "file:///etc/passwd"
    broadcast.files["/radio.pls"] = b"[playlist]\nFile1=file:///etc/passwd\n"
    for path in ("/radio", "/radio.pls"):
        made = start(caption_server, source="stream", url=broadcast.url(path))
        assert list(events(caption_server, made["id"]))[-1][2]["failure"]["code"] == "invalid_url"


@asynccontextmanager
async def pushing(server: RunningServer, id_: str, **more: Any) -> AsyncIterator[Client]:
    async with AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1") as openai:
        async with openai.realtime.connect(model="whisper-1") as connection:
            client = Client(connection)
            await client.until("session.created")
            chatapi = {"captions": id_, **more}
            await client.send(
                "session.update",
                session={
                    "type": "transcription",
                    "chatapi": chatapi,
                    "audio": {"input": {"turn_detection": SERVER_VAD}},
                },
            )
            yield client


@pytest.mark.anyio
async def test_a_realtime_session_pushes_audio_whose_viewers_see_lines_and_partial_text(
    caption_server: RunningServer,
) -> None:
    made = start(caption_server, source="push")
    assert made["state"] == "waiting"
    async with pushing(caption_server, made["id"], speakers=True) as client:
        await client.until("session.updated")
        segments = []
        for seconds, hertz in ((3.0, 220), (1.5, 880)):
            await client.say(silence(0.3), tone(seconds, hertz, WIRE_RATE), silence(1.0))
            segments.append(await client.until("conversation.item.input_audio_transcription.segment"))
        async with pushing(caption_server, made["id"]) as second:
            assert (await second.until("error"))["error"]["code"] == "captions_in_use"
    assert [each["speaker"] for each in segments] == ["A", "B"] and segments[1]["start"] > 4
    deleted = threading.Event()

    def watch() -> list[Any]:
        found = []
        for event in events(caption_server, made["id"]):
            found.append(event)
            if len(lines_of(found)) == 2 and not deleted.is_set():
                deleted.set()
                caption_server.client.delete(f"/captions/{made['id']}")
        return found

    found = await anyio.to_thread.run_sync(watch)
    assert [data["speaker"] for name, _, data in found if name == "line"] == ["A", "B"]


@pytest.mark.anyio
async def test_partial_text_reaches_a_viewer_before_its_line(caption_server: RunningServer) -> None:
    made = start(caption_server, source="push")
    names: list[str] = []

    def watch() -> None:
        for name, _, _ in events(caption_server, made["id"]):
            names.append(name)
            if name == "line":
                caption_server.client.delete(f"/captions/{made['id']}")

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, watch)
        async with pushing(caption_server, made["id"]) as client:
            await client.until("session.updated")
            for _ in range(15):
                await client.say(speech(0.3))
                await anyio.sleep(0.02)
            await client.say(silence(1.0))
            await client.until("conversation.item.input_audio_transcription.completed")
    assert "partial" in names and names.index("partial") < names.index("line")


@pytest.mark.anyio
async def test_unknown_captions_are_an_error_of_the_session(caption_server: RunningServer) -> None:
    async with pushing(caption_server, "cap_none") as client:
        assert (await client.until("error"))["error"]["code"] == "unknown_captions"


def test_the_microphone_is_captioned_once(caption_server: RunningServer) -> None:
    service = caption_server.appliance.captions
    assert caption_server.client.post("/captions", json={"source": "microphone"}).status_code == 422

    @asynccontextmanager
    async def microphone() -> AsyncIterator[AsyncIterator[Samples]]:
        async def blocks() -> AsyncIterator[Samples]:
            yield LINE
            await anyio.sleep_forever()

        yield blocks()

    service.microphone = microphone
    made = start(caption_server, source="microphone", speakers=True)
    again = caption_server.client.post("/captions", json={"source": "microphone"})
    assert again.status_code == 409 and again.json()["code"] == "microphone_in_use"
    for name, _, data in events(caption_server, made["id"]):
        if name == "line":
            assert data["speaker"] == "A"
            caption_server.client.delete(f"/captions/{made['id']}")


def test_captions_are_limited_in_number_and_by_their_options(caption_server: RunningServer) -> None:
    for _ in range(3):
        start(caption_server, source="push")
    response = caption_server.client.post("/captions", json={"source": "push"})
    assert response.status_code == 503 and response.json()["code"] == "too_many_captions"
    assert len(caption_server.client.get("/captions").json()["captions"]) == 3
    for wrong in (
        {},
        {"source": "stream"},
        {"source": "push", "url": "http://a/b"},
        {"source": "push", "speakers": True},
        {"source": "stream", "url": "ftp://a/b"},
        {"source": "microphone", "language": "xx"},
        {"source": "microphone", "known_speaker_names": ["A"]},
    ):
        assert caption_server.client.post("/captions", json=wrong).status_code == 422, wrong


def test_captions_that_are_too_old_end(fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.services.captions.service.SWEEP_SECONDS", 0.02)
    with serving(fake_settings("captions.max_seconds=0.1", "captions.keep_seconds=0.1")) as server:
        made = start(server, source="push")
        assert list(events(server, made["id"]))[-1][2]["state"] == "ended"
        while server.client.get("/captions").json()["captions"]:
            pass


def test_a_viewer_gets_a_sign_of_life(caption_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_routes, "HEARTBEAT_SECONDS", 0.02)
    made = start(caption_server, source="push")
    with caption_server.client.stream("GET", f"/captions/{made['id']}/events") as response:
        assert any(line.startswith(":") for line in response.iter_lines())


def test_a_key_sees_its_own_captions_and_needs_operate_for_the_microphone(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings("server.api_key=master-key-of-the-box")) as server:
        data = server.appliance.settings.data
        first, second = (key_store.add(data, name, ("transcribe",)) for name in ("first", "second"))

        def client(key: str) -> httpx.Client:
            return httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT)

        with client(first) as one, client(second) as two, client("master-key-of-the-box") as master:
            made = one.post("/captions", json={"source": "push"}).json()
            assert two.get(f"/captions/{made['id']}").status_code == 404
            assert two.get("/captions").json() == {"captions": []}
            assert master.get(f"/captions/{made['id']}").status_code == 200
            refused = one.post("/captions", json={"source": "microphone"})
            assert refused.status_code == 403 and refused.json()["code"] == "scope_missing"
