"""Live conversations with recorded voices through the Realtime API: every question must be answered."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from chatapi.audio import RATE, Audio
from fuzz.server_process import ServerProcess

SEND_RATE = 24_000
"""Sample rate of the Realtime API."""
BLOCK = SEND_RATE // 25
"""Samples of one event: 40 ms."""
TIMEOUT = 25.0
"""Seconds from a question to the first audio of its answer; the machine is busy."""

SCORES = ("likeness", "certainty", "speech_seconds", "against_answer")
"""Fields of the log entry of an unanswered utterance, besides the reason."""


@dataclass
class Question:
    """A spoken question, and its answer."""

    clip: str
    """The name of its file."""
    barge_in: bool
    """Whether it began in the last second of an answer."""
    started: float
    """By the monotonic clock, like all times here."""
    ended: float = 0.0
    """0 while it is still being sent."""
    transcript: str = ""
    last_sound: float = 0.0
    """When sound came last of an answer that began after the question did."""
    events: list[str] = field(default_factory=list)
    """Types of the events that came since it began, but for sound."""

    @property
    def answered(self) -> bool:
        """An interrupted answer to a part of the question does not count; a clip may end in near silence."""
        return self.ended > 0 and self.last_sound > self.ended - 0.3


class LiveClient:
    """Sends one question after another; some start during the last second of an answer."""

    def __init__(self, server: ServerProcess, sounds: dict[str, Audio], seed: int) -> None:
        self._server, self._rng = server, random.Random(f"live:{seed}")
        self._sounds = {name: _resampled(each) for name, each in sounds.items()}
        self._id = f"live-{seed}"
        """Of the request, by which its lines in the log are found."""
        self.questions: list[Question] = []
        self.faults: list[str] = []
        self._playback_end = 0.0
        """When the received audio will have been played."""
        self._current: Question | None = None
        self._created: dict[str, float] = {}
        """Response -> when it began."""
        self._open: set[str] = set()
        """Responses in progress."""

    @property
    def unanswered(self) -> list[Question]:
        return [each for each in self.questions if not each.answered]

    @property
    def unanswered_why(self) -> list[str]:
        """Of each unanswered question: the clip, its events, and the reasons in the log."""
        logged = list(decisions(self._server.log, self._id))
        found = []
        for each in self.unanswered:
            events = " ".join(each.events) or "-"
            reasons = [text for at, text in logged if each.started <= at <= each.ended + TIMEOUT]
            found.append(
                f"no answer {TIMEOUT:g} s after {each.clip}{' during an answer' if each.barge_in else ''}; "
                f"transcript: {each.transcript or '-'}; the server: {', '.join(reasons) or '-'}; "
                f"events since it began: {events}"
            )
        return found

    async def run(self, end: float) -> None:
        """Runs until `end`, or until the connection fails."""
        address = f"ws://127.0.0.1:{self._server.port}/v1/realtime?model=default"
        try:
            async with connect(
                address, max_size=None, ping_timeout=60, additional_headers={"X-Request-ID": self._id}
            ) as connection:
                reading = asyncio.create_task(self._read(connection))
                while time.monotonic() < end:
                    await self._ask(connection)
                reading.cancel()
        except (ConnectionClosed, OSError) as error:
            self.faults.append(f"the connection ended: {error!r}")

    async def _ask(self, connection: ClientConnection) -> None:
        """Waits for its turn, sends a question, and waits for the answer."""
        barge_in = self._playback_end - time.monotonic() > 1.2 and self._rng.random() < 0.5
        start = self._playback_end - self._rng.random() if barge_in else self._playback_end + 0.3 + self._rng.random()
        await self._silence(connection, start)
        clip, sound = self._rng.choice(list(self._sounds.items()))
        question = self._current = Question(clip, barge_in, time.monotonic())
        await self._play(connection, sound)
        question.ended = time.monotonic()
        self.questions.append(question)
        while not (question.answered and not self._open) and time.monotonic() < question.ended + TIMEOUT:
            await self._play(connection, np.zeros(BLOCK, np.int16))

    async def _silence(self, connection: ClientConnection, until: float) -> None:
        while time.monotonic() < until:
            await self._play(connection, np.zeros(BLOCK, np.int16))

    async def _play(self, connection: ClientConnection, samples: np.ndarray) -> None:
        """Sends the samples in real time."""
        started = time.monotonic()
        for at in range(0, len(samples), BLOCK):
            data = base64.b64encode(samples[at : at + BLOCK].tobytes()).decode()
            await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
            await asyncio.sleep(max(0.0, started + (at + BLOCK) / SEND_RATE - time.monotonic()))

    async def _read(self, connection: ClientConnection) -> None:
        async for message in connection:
            self._handle(json.loads(message))

    def _handle(self, event: dict[str, Any]) -> None:
        kind, question, now = event["type"], self._current, time.monotonic()
        if question is not None and kind != "response.output_audio.delta":
            question.events.append(kind)
        if kind == "response.created":
            self._created[event["response"]["id"]] = now
            self._open.add(event["response"]["id"])
        elif kind == "response.output_audio.delta":
            size = len(base64.b64decode(event["delta"]))
            self._playback_end = max(self._playback_end, now) + size / 2 / SEND_RATE
            if question is not None and self._created.get(event["response_id"], now) >= question.started:
                question.last_sound = now
        elif kind == "response.done":
            self._open.discard(event["response"]["id"])
            if event["response"]["status"] == "failed":
                self.faults.append(f"a response failed: {event['response'].get('status_details')}")
        elif kind == "input_audio_buffer.speech_started":
            # The rest of the answer is discarded.
            self._playback_end = min(self._playback_end, now)
        elif kind == "conversation.item.input_audio_transcription.completed" and question is not None:
            question.transcript = event.get("transcript", "")
        elif kind == "error":
            self.faults.append(f"error {event['error'].get('code')}: {event['error'].get('message')}")


def decisions(log: Path, request_id: str) -> Iterator[tuple[float, str]]:
    """Which utterances of a session were not answered, when and why, from the log."""
    since = time.monotonic() - time.time()
    for line in log.read_text(errors="replace").splitlines():
        if "utterance not answered" not in line:
            continue
        entry = json.loads(line)
        if entry["request_id"] == request_id:
            at = datetime.fromisoformat(entry["time"]).timestamp() + since
            scores = " ".join(f"{name} {entry[name]}" for name in SCORES)
            yield at, f"{entry['reason']} ({scores})"


def _resampled(audio: Audio) -> np.ndarray:
    """As it is sent, without the silence around it, so that it is known when the question ended."""
    loud = np.flatnonzero(np.abs(audio.samples) > 0.02)
    samples = soxr.resample(audio.samples[loud[0] : loud[-1]], audio.rate or RATE, SEND_RATE)
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")
