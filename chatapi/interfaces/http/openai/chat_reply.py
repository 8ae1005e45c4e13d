"""A chat turn's events as OpenAI sends them: one JSON document, or chunks as server-sent events."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import anyio.to_thread
from starlette.types import Send

from chatapi.audio import Audio, joined, wav
from chatapi.audio.encoding import Encoder
from chatapi.errors import ChatapiError, InternalError
from chatapi.events import Event, Speech, TextDelta, Token, ToolCall, ToolCalls, TurnEnded
from chatapi.interfaces.http.openai.chat_request import ChatCompletionRequest
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.streaming import EVENTS, WorkingReply, body, data_of, encoded, start
from chatapi.observability.metrics import Metrics
from chatapi.services.turns.chat_completion import AUDIO_ID_SECONDS, ChatCompletions

ENCODINGS = {"wav": "wav", "pcm16": "pcm", "mp3": "mp3", "flac": "flac", "opus": "opus", "aac": "aac"}
"""OpenAI's name of a format -> ours."""
OPENING = (TextDelta, ToolCalls, Speech, TurnEnded)
"""What fails before the first of these still gets a proper status."""
STEP = 6
"""Bytes: whole samples of 16 bits that base64 writes without padding, whose strings can be joined."""


class ChatReply(WorkingReply):
    """Runs the turn while it sends; a client who leaves ends it."""

    def __init__(self, chat: ChatCompletions, asked: ChatCompletionRequest, metrics: Metrics) -> None:
        super().__init__()
        self._chat = chat
        self._asked = asked
        self._metrics = metrics
        self._created = int(time.time())
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "created": self._created,
            "model": asked.model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

    async def reply(self, send: Send) -> None:
        async with self._chat.run(self._asked.turn) as events:
            await (self._as_chunks if self._asked.stream else self._as_whole)(events, send)

    async def _as_whole(self, events: AsyncIterator[Event], send: Send) -> None:
        happened = [event async for event in events]
        # A long answer's sound is encoded here, while others are served.
        data = await anyio.to_thread.run_sync(self._document, happened)
        await send(start("application/json", {"Content-Length": str(len(data))}))
        await send(body(data, more=False))

    def _document(self, happened: Sequence[Event]) -> bytes:
        ended = happened[-1] if happened else None
        if not isinstance(ended, TurnEnded):
            raise InternalError("the turn ended without saying so")
        choice = {
            "index": 0,
            "message": self._message(happened),
            "logprobs": self.logprobs([each for event in happened for each in getattr(event, "tokens", ())]),
            "finish_reason": ended.finish_reason,
        }
        return encoded({**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(ended)})

    def _message(self, happened: Sequence[Event]) -> dict[str, Any]:
        text = "".join(event.text for event in happened if isinstance(event, TextDelta))
        calls = [call for event in happened if isinstance(event, ToolCalls) for call in event.calls]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
            message["content"] = text or None
        sound = [event.audio for event in happened if isinstance(event, Speech)]
        if self._asked.audio is not None and (sound or not calls):
            message["content"] = None
            message["audio"] = {**self.spoken(), "data": _encoded(sound, self._asked.audio), "transcript": text}
        return message

    async def _as_chunks(self, events: AsyncIterator[Event], send: Send) -> None:
        begun = False
        told = _Chunks(self, self._asked)
        try:
            async for event in events:
                if not begun and isinstance(event, OPENING):
                    begun = True
                    await send(start("text/event-stream", EVENTS))
                data = b"".join(data_of(chunk) for chunk in told.of(event))
                if data:
                    await send(body(data))
        except ChatapiError as error:
            if not begun:
                raise
            self._metrics.errors.labels(error.code).inc()
            await send(body(data_of({"error": fault(error)}), more=False))
            return
        await send(body(b"data: [DONE]\n\n", more=False))

    def chunk(self, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        """One step of the answer."""
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._chunk([choice])

    def usage(self, ended: TurnEnded) -> dict[str, Any]:
        """The chunk that tells the tokens used."""
        return {**self._chunk([]), "usage": _usage(ended)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        # With include_usage every chunk has the member.
        usage = {"usage": None} if self._asked.usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **usage}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Of these tokens, where they were asked for."""
        if not self._asked.logprobs:
            return None
        told = [{**_token(token), "top_logprobs": [_token(each) for each in token.top]} for token in tokens]
        return {"content": told, "refusal": None}

    def spoken(self) -> dict[str, Any]:
        """What the spoken answer can be referred to by, and until when."""
        return {"id": self._asked.turn.audio_id, "expires_at": self._created + AUDIO_ID_SECONDS}


class _Chunks:
    """The chunks of one answer. Clients join the strings of all of them, so an id is told once."""

    def __init__(self, reply: ChatReply, asked: ChatCompletionRequest) -> None:
        self._reply = reply
        self._asked = asked
        self._begun = False
        self._calls = 0
        self._sound: Encoder | None = None
        self._rest = b""
        """Sound that is not yet enough for a step."""

    def of(self, event: Event) -> Iterator[dict[str, Any]]:
        """Those that an event makes."""
        if not isinstance(event, OPENING):
            return
        if not self._begun:
            self._begun = True
            yield self._reply.chunk(self._opening(event))
        if isinstance(event, TextDelta):
            spoken = self._asked.audio is not None
            delta = {"audio": {"transcript": event.text}} if spoken else {"content": event.text}
            yield self._reply.chunk(delta, logprobs=self._reply.logprobs(event.tokens))
        elif isinstance(event, ToolCalls):
            indexed = [{"index": self._calls + at, **_call(call)} for at, call in enumerate(event.calls)]
            self._calls += len(indexed)
            yield self._reply.chunk({"tool_calls": indexed})
        elif isinstance(event, Speech):
            if self._sound is None:
                self._sound = Encoder("pcm", event.audio.rate)
            yield from self._sounding(self._sound.feed(event.audio))
        else:
            yield from self._ending(event)

    def _sounding(self, data: bytes, last: bool = False) -> Iterator[dict[str, Any]]:
        """Clients join the strings of base64 too: only the last may be padded."""
        data = self._rest + data
        whole = len(data) if last else len(data) - len(data) % STEP
        self._rest = data[whole:]
        if whole:
            yield self._reply.chunk({"audio": {"data": base64.b64encode(data[:whole]).decode()}})

    def _opening(self, event: Event) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if isinstance(event, ToolCalls) or self._asked.audio is not None:
            delta["content"] = None
        if self._asked.audio is not None:
            delta["audio"] = {"id": self._reply.spoken()["id"]}
        return delta

    def _ending(self, ended: TurnEnded) -> Iterator[dict[str, Any]]:
        if self._asked.audio is not None:
            if self._sound is not None:
                yield from self._sounding(self._sound.finish(), last=True)
            yield self._reply.chunk({"audio": {"expires_at": self._reply.spoken()["expires_at"]}})
        yield self._reply.chunk({}, ended.finish_reason)
        if self._asked.usage:
            yield self._reply.usage(ended)


def _encoded(parts: Sequence[Audio], form: str) -> str:
    """A whole answer's sound in base64; a voice has one rate, which WAV keeps."""
    if not parts:
        raise InternalError("the answer has no sound")
    sound = joined([part.at(parts[0].rate) for part in parts])
    if form == "wav":
        # Of a whole file the length is known.
        return base64.b64encode(wav(sound)).decode()
    file = Encoder(ENCODINGS[form], sound.rate)
    return base64.b64encode(file.feed(sound) + file.finish()).decode()


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _token(token: Token) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


def _usage(ended: TurnEnded) -> dict[str, Any]:
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": ended.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
