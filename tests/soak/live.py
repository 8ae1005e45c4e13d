"""A live conversation by the Realtime API, in real time, with recorded voices: every question must be answered."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from chatapi.audio import RATE, Audio
from fuzz.box import Box

SENT = 24_000
"""Samples a second of the Realtime API."""
BLOCK = SENT // 25
"""Samples of one event: 40 ms."""
PATIENCE = 25.0
"""Seconds after a question until the first sound of its answer; the machine is busy."""


@dataclass
class Question:
    """What was asked, and what came."""

    against: bool
    """Whether it began in the last second of an answer."""
    begun: float
    ended: float = 0.0
    """0: it is still being asked."""
    transcript: str = ""
    last_sound: float = 0.0
    """When sound came last of an answer that began after the question did."""
    told: list[str] = field(default_factory=list)
    """Types of the events that came since it began, but for sound."""

    @property
    def answered(self) -> bool:
        """What was said to a part of the question, and broken off, is no answer; a clip may end in near silence."""
        return self.ended > 0 and self.last_sound > self.ended - 0.3


class LiveClient:
    """Asks one question after another; some begin while the last second of an answer is heard."""

    def __init__(self, box: Box, sounds: list[Audio], seed: int) -> None:
        self._box, self._rng = box, random.Random(f"live:{seed}")
        self._sounds = [_resampled(each) for each in sounds]
        self.questions: list[Question] = []
        self.faults: list[str] = []
        self._heard_until = 0.0
        """When what has been received of answers will have been played."""
        self._current: Question | None = None
        self._created: dict[str, float] = {}
        """Response -> when it began."""
        self._open: set[str] = set()
        """Responses that are not done."""

    @property
    def unanswered(self) -> list[Question]:
        return [each for each in self.questions if not each.answered]

    async def run(self, end: float) -> None:
        """Until then, or until the connection fails."""
        address = f"ws://127.0.0.1:{self._box.port}/v1/realtime?model=default"
        try:
            async with connect(address, max_size=None, ping_timeout=60) as connection:
                reading = asyncio.create_task(self._read(connection))
                while time.monotonic() < end:
                    await self._ask(connection)
                reading.cancel()
        except (ConnectionClosed, OSError) as error:
            self.faults.append(f"the connection ended: {error!r}")

    async def _ask(self, connection: ClientConnection) -> None:
        """Wait until it may be asked, ask, and wait for the answer."""
        against = self._heard_until - time.monotonic() > 1.2 and self._rng.random() < 0.5
        start = self._heard_until - self._rng.random() if against else self._heard_until + 0.3 + self._rng.random()
        await self._silence(connection, start)
        question = self._current = Question(against, time.monotonic())
        await self._play(connection, self._rng.choice(self._sounds))
        question.ended = time.monotonic()
        self.questions.append(question)
        while not (question.answered and not self._open) and time.monotonic() < question.ended + PATIENCE:
            await self._play(connection, np.zeros(BLOCK, np.int16))
        if not question.answered:
            told = " ".join(question.told) or "-"
            self.faults.append(f"no answer {PATIENCE:g} s after a question; events since it began: {told}")

    async def _silence(self, connection: ClientConnection, until: float) -> None:
        while time.monotonic() < until:
            await self._play(connection, np.zeros(BLOCK, np.int16))

    async def _play(self, connection: ClientConnection, samples: np.ndarray) -> None:
        """In the time that it takes."""
        begun = time.monotonic()
        for at in range(0, len(samples), BLOCK):
            data = base64.b64encode(samples[at : at + BLOCK].tobytes()).decode()
            await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
            await asyncio.sleep(max(0.0, begun + (at + BLOCK) / SENT - time.monotonic()))

    async def _read(self, connection: ClientConnection) -> None:
        async for message in connection:
            self._take(json.loads(message))

    def _take(self, event: dict[str, Any]) -> None:
        kind, question, now = event["type"], self._current, time.monotonic()
        if question is not None and kind != "response.output_audio.delta":
            question.told.append(kind)
        if kind == "response.created":
            self._created[event["response"]["id"]] = now
            self._open.add(event["response"]["id"])
        elif kind == "response.output_audio.delta":
            size = len(base64.b64decode(event["delta"]))
            self._heard_until = max(self._heard_until, now) + size / 2 / SENT
            if question is not None and self._created.get(event["response_id"], now) >= question.begun:
                question.last_sound = now
        elif kind == "response.done":
            self._open.discard(event["response"]["id"])
            if event["response"]["status"] == "failed":
                self.faults.append(f"a response failed: {event['response'].get('status_details')}")
        elif kind == "input_audio_buffer.speech_started":
            # What is left of an answer is thrown away.
            self._heard_until = min(self._heard_until, now)
        elif kind == "conversation.item.input_audio_transcription.completed" and question is not None:
            question.transcript = event.get("transcript", "")
        elif kind == "error":
            self.faults.append(f"error {event['error'].get('code')}: {event['error'].get('message')}")


def _resampled(audio: Audio) -> np.ndarray:
    """As it is sent, without the silence around it, so that it is known when the question ended."""
    loud = np.flatnonzero(np.abs(audio.samples) > 0.02)
    samples = soxr.resample(audio.samples[loud[0] : loud[-1]], audio.rate or RATE, SENT)
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")
