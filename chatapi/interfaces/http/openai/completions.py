"""`POST /v1/completions`: continuations of a text, in OpenAI's older format."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.engines import Sampling
from chatapi.events import Event, TextDelta, Token, TurnEnded
from chatapi.interfaces.http import openai_aliases, openapi
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openai import completion_parameters
from chatapi.interfaces.http.openai.chat_response import usage_of
from chatapi.interfaces.http.openai.completion_parameters import TextCompletionRequest
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import renamed
from chatapi.interfaces.http.problems import Traceparent, fault
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, data_of, encoded, start
from chatapi.services.turns.chat_completion import ChatTurn
from chatapi.services.turns.completion import MAX_SEED
from chatapi.services.turns.result import TurnResult
from chatapi.services.turns.text_completion import text_messages


class TextChoice(BaseModel):
    """A continuation."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str
    """stop or length."""


class TextCompletion(BaseModel):
    """Continuations of a text, in OpenAI's format."""

    id: str
    object: str
    created: int
    """Creation time, in seconds since 1970."""
    model: str
    choices: list[TextChoice]
    usage: dict[str, Any]
    """Tokens of the prompts and the continuations."""


@dataclass(frozen=True)
class _Job:
    """One continuation to make."""

    text: str
    turn: ChatTurn


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1")

    @routes.post(
        "/completions",
        summary="Continue a text, in OpenAI's format",
        response_class=Response,
        responses={
            200: {
                "model": TextCompletion,
                "description": "The continuations; with stream=true as chunks.",
                "content": {"text/event-stream": openapi.events("A server-sent event; [DONE] is in the last one.")},
            },
            **error_responses(400, 404, 408, 413, 415, 503),
        },
        openapi_extra=openapi.json_body(TextCompletionRequest),
    )
    async def completions(request: Request, traceparent: Traceparent = "") -> Response:
        ignored = IgnoredParameters.of(request)
        parsed = await json_body(request, "prompt", partial(_parse, ignored))
        openai_aliases.model(appliance, "llm", parsed.model)
        sampling, dropped = appliance.chat.supported(_sampling(parsed))
        for name in dropped:
            ignored.add(name)
        return TextCompletionResponse(appliance, parsed, _jobs(appliance, parsed, sampling, traceparent))

    return routes


def _parse(ignored: IgnoredParameters, values: dict[str, Any]) -> TextCompletionRequest:
    check_plain(values)
    return completion_parameters.parse_body(values, ignored)


def _sampling(parsed: TextCompletionRequest) -> Sampling:
    return Sampling(
        stop_texts=(parsed.stop,) if isinstance(parsed.stop, str) else tuple(parsed.stop or ()),
        top_p=None if parsed.top_p == 1 else parsed.top_p,
        frequency_penalty=parsed.frequency_penalty or None,
        presence_penalty=parsed.presence_penalty or None,
        logit_bias={int(token): bias for token, bias in (parsed.logit_bias or {}).items()},
        logprobs=parsed.logprobs,
    )


def _jobs(appliance: Appliance, parsed: TextCompletionRequest, sampling: Sampling, traceparent: str) -> list[_Job]:
    """The continuations to make, with seeds of their own."""
    return [
        _Job(
            text,
            ChatTurn(
                text_messages(appliance.chat, text),
                max_tokens=parsed.max_tokens,
                temperature=parsed.temperature,
                seed=None if parsed.seed is None else (parsed.seed + number) % (MAX_SEED + 1),
                sampling=sampling,
                traceparent=traceparent,
            ),
        )
        for text in parsed.prompts
        for number in range(parsed.n)
    ]


class TextCompletionResponse(CancellableResponse):
    """Runs the turns while it sends the response, one after the other; cancels them when the client disconnects."""

    def __init__(self, appliance: Appliance, request: TextCompletionRequest, jobs: Sequence[_Job]) -> None:
        super().__init__()
        self._chat = appliance.chat
        self._metrics = appliance.metrics
        self._request = request
        self._jobs = jobs
        self._head = {
            "id": f"cmpl-{secrets.token_hex(16)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": None,
        }

    async def reply(self, send: Send) -> None:
        with renamed({"messages": "prompt"}):
            await (self._send_chunks if self._request.stream else self._send_whole)(send)

    async def _send_whole(self, send: Send) -> None:
        choices, ended = [], []
        for index, job in enumerate(self._jobs):
            result = TurnResult()
            async with self._chat.run(job.turn) as events:
                async for event in events:
                    result.add(event)
            before = job.text if self._request.echo else ""
            reason, logprobs = result.ended.finish_reason, self._logprobs(result.tokens, len(before))
            choices.append(_choice(index, before + result.text, reason, logprobs))
            ended.append(result.ended)
        data = encoded({**self._head, "choices": choices, "usage": usage_of(ended, self._request.n)})
        await send(start("application/json", {"Content-Length": str(len(data))}))
        await send(body(data, more=False))

    async def _send_chunks(self, send: Send) -> None:
        stream = EventStream(send, self._metrics, lambda error: data_of({"error": fault(error)}))
        async with stream.ending():
            ended = [await self._send_choice(index, job, stream) for index, job in enumerate(self._jobs)]
            if self._request.stream_options is not None and self._request.stream_options.include_usage:
                await stream.send(data_of({**self._head, "choices": [], "usage": usage_of(ended, self._request.n)}))
            await stream.send(b"data: [DONE]\n\n")

    async def _send_choice(self, index: int, job: _Job, stream: EventStream) -> TurnEnded:
        """Sends the chunks of one continuation; returns the end of its turn."""
        result, sent = TurnResult(), 0
        async with self._chat.run(job.turn) as events:
            async for event in events:
                result.add(event)
                before = job.text if self._request.echo and not sent else ""
                if (choice := self._chunk(index, event, before, sent)) is not None:
                    sent += len(choice["text"])
                    await stream.send(data_of({**self._head, "choices": [choice]}))
        return result.ended

    def _chunk(self, index: int, event: Event, before: str, offset: int) -> dict[str, Any] | None:
        """The choice of the chunk for an event; `before`: what precedes it, `offset`: characters sent so far."""
        if isinstance(event, TextDelta):
            logprobs = self._logprobs(event.tokens, offset + len(before))
            return _choice(index, before + event.text, None, logprobs)
        return _choice(index, before, event.finish_reason, None) if isinstance(event, TurnEnded) else None

    def _logprobs(self, tokens: Sequence[Token], offset: int) -> dict[str, Any] | None:
        """The tokens in OpenAI's older format, when they are wanted; `offset`: characters before them."""
        if self._request.logprobs is None:
            return None
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            found["tokens"].append(token.text)
            found["token_logprobs"].append(token.logprob)
            found["top_logprobs"].append({each.text: each.logprob for each in token.top})
            found["text_offset"].append(offset)
            offset += len(token.text)
        return found


def _choice(index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
