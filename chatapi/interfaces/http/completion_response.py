"""Responses of `/completion`: the events of a turn as JSON, WAV or server-sent events, streamed or at the end."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from starlette.types import Send

from chatapi.audio.encoding import Encoder
from chatapi.audio.provenance import marked_wav
from chatapi.errors import InternalError
from chatapi.events import Event, Speech, TextDelta, TextWithdrawn, Transcript, TurnEnded, TurnStarted, TurnTimings
from chatapi.interfaces.http.completion_request import CompletionRequest
from chatapi.interfaces.http.problems import problem
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, encoded, event_of, start
from chatapi.observability.logs import request_id
from chatapi.observability.metrics import Metrics
from chatapi.services.turns.completion import Completions
from chatapi.services.turns.result import TurnResult

HEADER_CHARS = 4000
"""Longest text in a header, in characters; many clients accept at most 8 KiB of headers in total."""


class CompletionResponse(CancellableResponse):
    """Runs the turn while it sends the response; cancels the turn when the client disconnects."""

    def __init__(self, conversation: Completions, request: CompletionRequest, metrics: Metrics) -> None:
        super().__init__()
        self._conversation = conversation
        self._request = request
        self._metrics = metrics

    async def reply(self, send: Send) -> None:
        async with self._conversation.run(self._request.turn) as events:
            await self._send_events(events, send)

    async def _send_events(self, events: AsyncIterator[Event], send: Send) -> None:
        result = TurnResult()
        if self._request.kind == "events":
            await self._send_server_sent_events(events, send, result)
        elif self._request.kind == "wav" and self._request.stream:
            await self._send_growing_wav(events, send, result)
        else:
            await self._send_whole(events, send, result)

    async def _send_whole(self, events: AsyncIterator[Event], send: Send, result: TurnResult) -> None:
        async for event in events:
            result.add(event)
        if self._request.kind == "wav":
            content = marked_wav(result.audio(), self._comment())
            media_type, headers = "audio/wav", _headers(result, whole=True)
        else:
            content, media_type, headers = encoded(_document(result)), "application/json", {}
        await send(start(media_type, {"Content-Length": str(len(content)), **headers}))
        await send(body(content, more=False))

    async def _send_growing_wav(self, events: AsyncIterator[Event], send: Send, result: TurnResult) -> None:
        file: Encoder | None = None
        async for event in events:
            result.add(event)
            if isinstance(event, Speech):
                if file is None:
                    file = Encoder("wav", event.audio.rate, self._comment())
                    await send(start(file.media_type, _headers(result, whole=False)))
                await send(body(file.feed(event.audio)))
        if file is None:
            raise InternalError("the response has no audio")
        await send(body(b"", more=False))

    def _comment(self) -> str:
        return self._conversation.synthesis.comment(self._request.turn.voice)

    async def _send_server_sent_events(self, events: AsyncIterator[Event], send: Send, result: TurnResult) -> None:
        stream = EventStream(send, self._metrics, lambda error: event_of("error", problem(error)))
        async with stream.ending():
            async for event in events:
                result.add(event)
                # No response for the start alone: an error right after it still gets a proper status. The end has the
                # whole answer, without what was withdrawn.
                if isinstance(event, (TurnStarted, TextWithdrawn)):
                    continue
                if not stream.started:
                    first = {"id": request_id.get(), "conversation": result.conversation}
                    await stream.send(event_of("start", first))
                await stream.send(event_of(*_server_sent_event(event, result)))


def _document(result: TurnResult) -> dict[str, Any]:
    """The JSON response."""
    ended = result.ended
    return {
        "id": request_id.get(),
        **({} if ended.kept else {"kept": False}),
        "conversation": result.conversation,
        "transcript": result.transcript,
        "reply": result.reply,
        "finish_reason": ended.finish_reason,
        "usage": {
            "prompt_tokens": ended.prompt_tokens,
            "completion_tokens": ended.completion_tokens,
            "cached_tokens": ended.cached_tokens,
        },
        "timings": as_timings(ended.timings),
    }


def _headers(result: TurnResult, whole: bool) -> dict[str, str]:
    """The same as headers of a WAV, percent-encoded UTF-8; for a streamed WAV only what is known at its start."""
    headers = {"X-Chatapi-Conversation": result.conversation}
    if result.transcript is not None:
        headers["X-Chatapi-Transcript"] = _header(result.transcript)
    if whole:
        document = _document(result)
        headers["X-Chatapi-Reply"] = _header(document["reply"])
        headers["X-Chatapi-Finish-Reason"] = document["finish_reason"]
        headers["X-Chatapi-Usage"] = json.dumps(document["usage"])
        headers["X-Chatapi-Timings"] = json.dumps(document["timings"])
        if not document.get("kept", True):
            headers["X-Chatapi-Kept"] = "false"
    return headers


def as_timings(timings: TurnTimings) -> dict[str, float | None]:
    """Timings in seconds, rounded to milliseconds."""
    return {name: None if value is None else round(value, 3) for name, value in asdict(timings).items()}


def _header(text: str) -> str:
    """Percent-encoded text, truncated between characters when it is too long."""
    encoded = ""
    for character in text:
        if len(encoded) + len(step := quote(character, safe=" !'(),.:;?-")) > HEADER_CHARS:
            break
        encoded += step
    return encoded


def _server_sent_event(event: Event, result: TurnResult) -> tuple[str, dict[str, Any]]:
    if isinstance(event, Transcript):
        return "transcript", asdict(event)
    if isinstance(event, TextDelta):
        return "delta", {"text": event.text}
    if isinstance(event, Speech):
        audio = base64.b64encode(event.audio.pcm16()).decode()
        return "speech", {"audio": audio, "rate": event.audio.rate, "text": event.text}
    if isinstance(event, TurnEnded):
        return "end", _document(result)
    return "progress", asdict(event)
