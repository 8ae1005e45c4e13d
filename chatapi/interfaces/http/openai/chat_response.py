"""The response of a chat completion in OpenAI's format: a JSON document, or chunks as server-sent events."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import anyio.to_thread
from starlette.types import Send

from chatapi.audio import Audio
from chatapi.audio.encoding import Encoder
from chatapi.audio.provenance import marked_wav
from chatapi.events import Event, ReasoningDelta, Speech, TextDelta, Token, ToolCall, ToolCalls, TurnEnded
from chatapi.interfaces.http.openai.chat_request import ChatCompletionRequest
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, data_of, encoded, start
from chatapi.observability.metrics import Metrics
from chatapi.services.turns.chat_completion import AUDIO_ID_SECONDS, ChatCompletions, ChatTurn
from chatapi.services.turns.result import TurnResult

ENCODINGS = {"wav": "wav", "pcm16": "pcm", "mp3": "mp3", "flac": "flac", "opus": "opus", "aac": "aac"}
"""OpenAI's format name -> the encoder's name."""
STARTING_EVENTS = (TextDelta, ReasoningDelta, ToolCalls, Speech, TurnEnded)
"""Events that start the response; an error before the first of them still gets a proper status."""
SEND_BYTES = 16 << 10
"""Bytes of chunks that are sent at once, at most one chunk more."""
BASE64_UNIT = 6
"""Bytes of a base64 unit: whole 16-bit samples without padding, so that the strings can be joined."""


class ChatCompletionResponse(CancellableResponse):
    """Runs the turns while it sends the response, one after the other; cancels them when the client disconnects."""

    def __init__(self, chat: ChatCompletions, request: ChatCompletionRequest, metrics: Metrics) -> None:
        super().__init__()
        self._chat = chat
        self._request = request
        self._metrics = metrics
        self._created = int(time.time())
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "created": self._created,
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

    async def reply(self, send: Send) -> None:
        await (self._send_chunks if self._request.stream else self._send_whole)(send)

    async def _send_whole(self, send: Send) -> None:
        results = []
        for turn in self._request.turns:
            result = TurnResult()
            async with self._chat.run(turn) as events:
                async for event in events:
                    result.add(event)
            results.append(result)
        # The audio of a long answer is encoded on a thread, so that the event loop is not blocked.
        data = await anyio.to_thread.run_sync(self._document, results)
        await send(start("application/json", {"Content-Length": str(len(data))}))
        await send(body(data, more=False))

    def _document(self, results: Sequence[TurnResult]) -> bytes:
        choices = [
            {
                "index": index,
                "message": self._message(result, self._request.turns[index]),
                "logprobs": self.logprobs(result.tokens),
                "finish_reason": result.ended.finish_reason,
            }
            for index, result in enumerate(results)
        ]
        usage = usage_of([result.ended for result in results], len(results))
        return encoded({**self._head, "object": "chat.completion", "choices": choices, "usage": usage})

    def _message(self, result: TurnResult, turn: ChatTurn) -> dict[str, Any]:
        text, calls = result.text, result.calls
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if result.reasoning:
            message["reasoning_content"] = result.reasoning.strip()
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
            message["content"] = text or None
        if self._request.audio is not None and (result.speech or not calls):
            message["content"] = None
            comment = self._chat.synthesis.comment(turn.voice)
            data = _encoded(result.audio(), self._request.audio, comment)
            message["audio"] = {**self.spoken(turn), "data": data, "transcript": text}
        return message

    async def _send_chunks(self, send: Send) -> None:
        stream = EventStream(send, self._metrics, lambda error: data_of({"error": fault(error)}))
        async with stream.ending():
            ended = [await self._send_choice(index, turn, stream) for index, turn in enumerate(self._request.turns)]
            if self._request.usage:
                await stream.send(data_of({**self._chunk([]), "usage": usage_of(ended, len(ended))}))
            await stream.send(b"data: [DONE]\n\n")

    async def _send_choice(self, index: int, turn: ChatTurn, stream: EventStream) -> TurnEnded:
        """Sends the chunks of one completion; returns the end of its turn."""
        chunks, result, data = _Chunks(self, self._request, index, turn), TurnResult(), b""
        async with self._chat.run(turn) as events:
            async for event in events:
                if isinstance(event, STARTING_EVENTS):
                    await stream.start()
                data += b"".join(data_of(chunk) for chunk in chunks.of(event))
                # Events that are ready together are sent together: sending costs more than they do.
                if data and not (events.pending and len(data) < SEND_BYTES):
                    await stream.send(data)
                    data = b""
                if isinstance(event, TurnEnded):
                    result.add(event)
        return result.ended

    def chunk(
        self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        """A chunk with a delta of the message of one completion."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._chunk([choice])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        # With include_usage every chunk has this member.
        usage = {"usage": None} if self._request.usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **usage}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Log-probabilities of the tokens, when the request wants them."""
        if not self._request.logprobs:
            return None
        content = [{**_token(token), "top_logprobs": [_token(each) for each in token.top]} for token in tokens]
        return {"content": content, "refusal": None}

    def spoken(self, turn: ChatTurn) -> dict[str, Any]:
        """The id of the spoken answer, and when it expires."""
        return {"id": turn.audio_id, "expires_at": self._created + AUDIO_ID_SECONDS}


class _Chunks:
    """The chunks of one completion. Clients join the strings of all chunks, so an id is sent only once."""

    def __init__(
        self, reply: ChatCompletionResponse, request: ChatCompletionRequest, index: int, turn: ChatTurn
    ) -> None:
        self._reply = reply
        self._request = request
        self._index = index
        self._spoken = reply.spoken(turn)
        self._started = False
        self._calls = 0
        self._encoder: Encoder | None = None
        self._rest = b""
        """PCM bytes that are not enough for a base64 unit yet."""

    def of(self, event: Event) -> Iterator[dict[str, Any]]:
        """The chunks for an event."""
        if not isinstance(event, STARTING_EVENTS):
            return
        if not self._started:
            self._started = True
            yield self._chunk(self._first_delta(event))
        if isinstance(event, TextDelta):
            spoken = self._request.audio is not None
            delta = {"audio": {"transcript": event.text}} if spoken else {"content": event.text}
            yield self._chunk(delta, logprobs=self._reply.logprobs(event.tokens))
        elif isinstance(event, ReasoningDelta):
            yield self._chunk({"reasoning_content": event.text})
        elif isinstance(event, ToolCalls):
            indexed = [{"index": self._calls + at, **_call(call)} for at, call in enumerate(event.calls)]
            self._calls += len(indexed)
            yield self._chunk({"tool_calls": indexed})
        elif isinstance(event, Speech):
            if self._encoder is None:
                self._encoder = Encoder("pcm", event.audio.rate)
            yield from self._audio_chunks(self._encoder.feed(event.audio))
        else:
            yield from self._last_chunks(event)

    def _audio_chunks(self, data: bytes, last: bool = False) -> Iterator[dict[str, Any]]:
        """Audio chunks; only the last may be padded, because clients join the base64 strings too."""
        data = self._rest + data
        whole = len(data) if last else len(data) - len(data) % BASE64_UNIT
        self._rest = data[whole:]
        if whole:
            yield self._chunk({"audio": {"data": base64.b64encode(data[:whole]).decode()}})

    def _first_delta(self, event: Event) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if isinstance(event, ToolCalls) or self._request.audio is not None:
            delta["content"] = None
        if self._request.audio is not None:
            delta["audio"] = {"id": self._spoken["id"]}
        return delta

    def _last_chunks(self, ended: TurnEnded) -> Iterator[dict[str, Any]]:
        if self._request.audio is not None:
            if self._encoder is not None:
                yield from self._audio_chunks(self._encoder.finish(), last=True)
            yield self._chunk({"audio": {"expires_at": self._spoken["expires_at"]}})
        yield self._chunk({}, ended.finish_reason)

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        return self._reply.chunk(self._index, delta, reason, logprobs)


def _encoded(audio: Audio, form: str, comment: str) -> str:
    """The audio of a whole answer in base64; `comment`: for the file's metadata."""
    if form == "wav":
        # A complete file has its length in the header.
        return base64.b64encode(marked_wav(audio, comment)).decode()
    file = Encoder(ENCODINGS[form], audio.rate, comment)
    return base64.b64encode(file.feed(audio) + file.finish()).decode()


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _token(token: Token) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


def usage_of(ended: Sequence[TurnEnded], number: int) -> dict[str, Any]:
    """The token usage of completions, of which each `number` have one prompt, which counts once."""
    prompt = sum(each.prompt_tokens for each in ended[::number])
    completion = sum(each.completion_tokens for each in ended)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(each.cached_tokens for each in ended[::number]), "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(each.reasoning_tokens for each in ended), "audio_tokens": 0,
        },
    }  # fmt: skip
