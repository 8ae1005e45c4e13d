"""A client of `/v1/realtime/calls` like a browser: aiortc with a microphone, a data channel and a loudspeaker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from fractions import Fraction
from typing import Any

import anyio
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from chatapi.audio import Samples
from conftest import TIMEOUT, RunningServer
from openai_events import check_event

RATE = 48_000
FRAME = RATE // 50


class Microphone(MediaStreamTrack):
    """Speaks what it is given, in real time, and is silent otherwise."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._samples = np.zeros(0, np.float32)
        self._begin = time.monotonic()
        self._position = 0

    def say(self, *sounds: Samples) -> None:
        """Queues sounds of 48 kHz."""
        self._samples = np.concatenate([self._samples, *sounds])

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(max(0.0, self._begin + self._position / RATE - time.monotonic()))
        part, self._samples = self._samples[:FRAME], self._samples[FRAME:]
        pcm = np.zeros(FRAME, np.int16)
        pcm[: len(part)] = part * 32767
        frame = AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._position, Fraction(1, RATE)
        self._position += FRAME
        return frame


class Caller:
    """One call, the events that it received, and the loudness of what it heard."""

    def __init__(self) -> None:
        self.microphone = Microphone()
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel: RTCDataChannel = self.peer.createDataChannel("oai-events")
        self.events: list[dict[str, Any]] = []
        self.heard: list[float] = []
        """Peak of every frame of 20 ms, 0 to 1."""
        self.location = ""
        self._new, self._received = anyio.create_memory_object_stream[dict[str, Any]](10_000)
        self.channel.on("message", lambda text: self._take(json.loads(text)))
        self.peer.on("track", self._listen)
        self._tasks: set[asyncio.Task[None]] = set()

    async def offer(self) -> str:
        self.peer.addTrack(self.microphone)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def until(self, *kinds: str) -> dict[str, Any]:
        with anyio.fail_after(TIMEOUT):
            while True:
                event = await self._received.receive()
                check_event(event)
                self.events.append(event)
                if event["type"] in kinds:
                    return event

    def _take(self, event: dict[str, Any]) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._new.send_nowait(event)

    def send(self, kind: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"type": kind, **fields}))

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def heard_seconds(self) -> float:
        """How long the loudspeaker sounded."""
        return sum(peak > 0.05 for peak in self.heard) * 0.02

    async def close(self) -> None:
        """Hangs up."""
        await self.peer.close()
        self._new.close()
        self._received.close()

    def _listen(self, track: MediaStreamTrack) -> None:
        async def listen() -> None:
            while True:
                try:
                    frame = await track.recv()
                except MediaStreamError:
                    return
                assert isinstance(frame, AudioFrame)
                self.heard.append(float(np.abs(frame.to_ndarray()).max()) / 32768)

        task = asyncio.get_running_loop().create_task(listen())
        self._tasks.add(task)


@asynccontextmanager
async def calling(
    server: RunningServer, key: str = "none", query: str = "", session: dict[str, Any] | None = None
) -> AsyncIterator[Caller]:
    """Calls the server; with a `session` by a form, as OpenAI's documents do it, otherwise by the offer alone."""
    caller = Caller()
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, headers=headers) as http:
            offer = await caller.offer()
            if session is None:
                more: dict[str, Any] = {"content": offer, "headers": {"Content-Type": "application/sdp"}}
            else:
                more = {"files": {"sdp": (None, offer), "session": (None, json.dumps(session))}}
            reply = await http.post(f"/v1/realtime/calls{query}", **more)
            assert (reply.status_code, reply.headers["content-type"]) == (201, "application/sdp"), reply.text
            caller.location = reply.headers["location"]
            await caller.peer.setRemoteDescription(RTCSessionDescription(reply.text, "answer"))
            yield caller
    finally:
        await caller.close()
