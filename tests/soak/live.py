"""A live conversation by the Realtime API, in real time, with recorded voices: every question must be answered."""

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
from fuzz.box import Box

SENT = 24_000
"""Samples a second of the Realtime API."""
BLOCK = SENT // 25
"""Samples of one event: 40 ms."""
PATIENCE = 25.0
"""Seconds after a question until the first sound of its answer; the machine is busy."""

SCORES = ("likeness", "certainty", "speech_seconds", "against_answer")
"""What the log says of an utterance that is not answered, besides the reason."""


@dataclass
class Question:
    """What was asked, and what came."""

    clip: str
    """What was asked: the name of its file."""
    against: bool
    """Whether it began in the last second of an answer."""
    begun: float
    """By the monotonic clock, as all times here."""
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

    def __init__(self, box: Box, sounds: dict[str, Audio], seed: int) -> None:
        self._box, self._rng = box, random.Random(f"live:{seed}")
        self._sounds = {name: _resampled(each) for name, each in sounds.items()}
        self._id = f"live-{seed}"
        """Of the request, by which its lines in the box's log are found."""
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

    @property
    def unanswered_why(self) -> list[str]:
        """Of each unanswered question: the clip, what was told of it, and what the box's log says was decided."""
        decided = list(decisions(self._box.log, self._id))
        found = []
        for each in self.unanswered:
            told = " ".join(each.told) or "-"
            why = [text for at, text in decided if each.begun <= at <= each.ended + PATIENCE]
            found.append(
                f"no answer {PATIENCE:g} s after {each.clip}{' during an answer' if each.against else ''}; "
                f"transcript: {each.transcript or '-'}; the box: {', '.join(why) or '-'}; events since it began: {told}"
            )
        return found

    async def run(self, end: float) -> None:
        """Until then, or until the connection fails."""
        address = f"ws://127.0.0.1:{self._box.port}/v1/realtime?model=default"
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
        """Wait until it may be asked, ask, and wait for the answer."""
        against = self._heard_until - time.monotonic() > 1.2 and self._rng.random() < 0.5
        start = self._heard_until - self._rng.random() if against else self._heard_until + 0.3 + self._rng.random()
        await self._silence(connection, start)
        clip, sound = self._rng.choice(list(self._sounds.items()))
        question = self._current = Question(clip, against, time.monotonic())
        await self._play(connection, sound)
        question.ended = time.monotonic()
        self.questions.append(question)
        while not (question.answered and not self._open) and time.monotonic() < question.ended + PATIENCE:
            await self._play(connection, np.zeros(BLOCK, np.int16))

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


def decisions(log: Path, request_id: str) -> Iterator[tuple[float, str]]:
    """Which utterances of a session were not answered, when and why, from the box's log."""
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
    samples = soxr.resample(audio.samples[loud[0] : loud[-1]], audio.rate or RATE, SENT)
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")
