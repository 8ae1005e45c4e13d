"""A turn's events as HTTP: JSON, WAV or server-sent events, sent as they happen or at the end."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from starlette.types import Send

from chatapi.audio import Audio, joined, wav
from chatapi.audio.encoding import Encoder
from chatapi.errors import ChatapiError, InternalError
from chatapi.events import Event, Speech, TextDelta, Transcript, TurnEnded, TurnStarted, TurnTimings
from chatapi.interfaces.http.completion_request import CompletionRequest
from chatapi.interfaces.http.problems import problem
from chatapi.interfaces.http.streaming import EVENTS, WorkingReply, body, encoded, event_of, start
from chatapi.observability.logs import request_id
from chatapi.observability.metrics import Metrics
from chatapi.services.turns.completion import Completions

HEADER_CHARS = 4000
"""Longest text in a header; many clients take no more than 8 KiB of them in all."""


class CompletionResponse(WorkingReply):
    """Runs the turn while it sends; a client who leaves ends it."""

    def __init__(self, completions: Completions, asked: CompletionRequest, metrics: Metrics) -> None:
        super().__init__()
        self._completions = completions
        self._asked = asked
        self._metrics = metrics

    async def reply(self, send: Send) -> None:
        async with self._completions.run(self._asked.turn) as events:
            await self._told(events, send)

    async def _told(self, events: AsyncIterator[Event], send: Send) -> None:
        collected = _Collected()
        if self._asked.kind == "events":
            await self._as_events(events, send, collected)
        elif self._asked.kind == "wav" and self._asked.stream:
            await self._as_growing_wav(events, send, collected)
        else:
            await self._as_whole(events, send, collected)

    async def _as_whole(self, events: AsyncIterator[Event], send: Send, collected: _Collected) -> None:
        async for event in events:
            collected.add(event)
        if self._asked.kind == "wav":
            content, media_type, headers = wav(collected.sound()), "audio/wav", collected.headers(whole=True)
        else:
            content, media_type, headers = encoded(collected.document()), "application/json", {}
        await send(start(media_type, {"Content-Length": str(len(content)), **headers}))
        await send(body(content, more=False))

    async def _as_growing_wav(self, events: AsyncIterator[Event], send: Send, collected: _Collected) -> None:
        file: Encoder | None = None
        async for event in events:
            collected.add(event)
            if isinstance(event, Speech):
                if file is None:
                    file = Encoder("wav", event.audio.rate)
                    await send(start(file.media_type, collected.headers(whole=False)))
                await send(body(file.feed(event.audio)))
        if file is None:
            raise InternalError("the answer has no sound")
        await send(body(b"", more=False))

    async def _as_events(self, events: AsyncIterator[Event], send: Send, collected: _Collected) -> None:
        begun = False
        try:
            async for event in events:
                collected.add(event)
                name, data = _translated(event, collected)
                # The start alone is not worth a reply: what fails right after it still gets a proper status.
                if not begun and not isinstance(event, TurnStarted):
                    begun = True
                    await send(start("text/event-stream", EVENTS))
                    await send(
                        body(event_of("start", {"id": request_id.get(), "conversation": collected.conversation}))
                    )
                if begun:
                    await send(body(event_of(name, data)))
        except ChatapiError as error:
            if not begun:
                raise
            self._metrics.errors.labels(error.code).inc()
            await send(body(event_of("error", problem(error))))
        await send(body(b"", more=False))


class _Collected:
    """What has happened so far in a turn."""

    def __init__(self) -> None:
        self.conversation = ""
        self._transcript: Transcript | None = None
        self._reply: list[str] = []
        self._sound: list[Audio] = []
        self._ended: TurnEnded | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, TurnStarted):
            self.conversation = event.conversation
        elif isinstance(event, Transcript):
            self._transcript = event
        elif isinstance(event, TextDelta):
            self._reply.append(event.text)
        elif isinstance(event, Speech):
            self._sound.append(event.audio)
        elif isinstance(event, TurnEnded):
            self._ended = event

    def sound(self) -> Audio:
        if not self._sound:
            raise InternalError("the answer has no sound")
        rate = self._sound[0].rate
        return joined([part.at(rate) for part in self._sound])

    def document(self) -> dict[str, Any]:
        """The JSON reply."""
        ended = self._ended
        if ended is None:
            raise InternalError("the turn ended without saying so")
        return {
            "id": request_id.get(),
            **({} if ended.kept else {"kept": False}),
            "conversation": self.conversation,
            "transcript": None if self._transcript is None else self._transcript.text,
            "reply": "".join(self._reply).rstrip(),
            "finish_reason": ended.finish_reason,
            "usage": {
                "prompt_tokens": ended.prompt_tokens,
                "completion_tokens": ended.completion_tokens,
                "cached_tokens": ended.cached_tokens,
            },
            "timings": as_timings(ended.timings),
        }

    def headers(self, whole: bool) -> dict[str, str]:
        """The same beside a WAV, percent-encoded UTF-8; of a reply that is still growing, what is known."""
        headers = {"X-Chatapi-Conversation": self.conversation}
        if self._transcript is not None:
            headers["X-Chatapi-Transcript"] = _header(self._transcript.text)
        if whole:
            document = self.document()
            headers["X-Chatapi-Reply"] = _header(document["reply"])
            headers["X-Chatapi-Finish-Reason"] = document["finish_reason"]
            headers["X-Chatapi-Usage"] = json.dumps(document["usage"])
            headers["X-Chatapi-Timings"] = json.dumps(document["timings"])
            if not document.get("kept", True):
                headers["X-Chatapi-Kept"] = "false"
        return headers


def as_timings(timings: TurnTimings) -> dict[str, float | None]:
    """Seconds, to the millisecond."""
    return {name: None if value is None else round(value, 3) for name, value in asdict(timings).items()}


def _header(text: str) -> str:
    """Percent-encoded, cut where it gets too long, never inside a character."""
    encoded = ""
    for character in text:
        if len(encoded) + len(step := quote(character, safe=" !'(),.:;?-")) > HEADER_CHARS:
            break
        encoded += step
    return encoded


def _translated(event: Event, collected: _Collected) -> tuple[str, dict[str, Any]]:
    if isinstance(event, Transcript):
        return "transcript", asdict(event)
    if isinstance(event, TextDelta):
        return "delta", {"text": event.text}
    if isinstance(event, Speech):
        audio = base64.b64encode(event.audio.pcm16()).decode()
        return "speech", {"audio": audio, "rate": event.audio.rate, "text": event.text}
    if isinstance(event, TurnEnded):
        return "end", collected.document()
    return "progress", asdict(event)
