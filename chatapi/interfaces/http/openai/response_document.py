"""A response as it grows: its document in OpenAI's format, and the events that stream it, in the order clients need."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from chatapi.errors import ChatapiError
from chatapi.events import Event, TextDelta, TextWithdrawn, Token, ToolCall, ToolCalls, TurnEnded
from chatapi.interfaces.http.openai.response_request import ParsedResponseRequest
from chatapi.interfaces.http.problems import fault
from chatapi.services.turns.response_history import PREFIX

StreamEvent = dict[str, Any]
"""A server-sent event of the stream, with its type and its number."""


class ResponseDocument:
    """The response to one request. Each of its methods that returns events must be exhausted."""

    def __init__(self, request: ParsedResponseRequest) -> None:
        self._request = request
        self._key = secrets.token_hex(12)
        self.id = PREFIX + self._key
        self.output: list[dict[str, Any]] = []
        """The items so far; the last may be an open message."""
        self._is_open = False
        """Whether text may be added to the last item."""
        self._sequence = 0
        self._document = self._head()

    @property
    def document(self) -> dict[str, Any]:
        """The whole response as it is now."""
        return {**self._document, "output": list(self.output)}

    @property
    def text(self) -> str:
        """The text of all messages."""
        return "".join(item["content"][0]["text"] for item in self.output if item["type"] == "message")

    def begin(self) -> Iterator[StreamEvent]:
        """The events before anything is generated."""
        yield self._event("response.created", response=self.document)
        yield self._event("response.in_progress", response=self.document)

    def add(self, event: Event) -> Iterator[StreamEvent]:
        """Adds an event of the turn, and returns what to stream for it."""
        if isinstance(event, TextDelta):
            yield from self._add_text(event)
        elif isinstance(event, TextWithdrawn) and self._is_open:
            self.output[-1]["content"][0] |= {"text": "", "logprobs": []}
        elif isinstance(event, ToolCalls):
            yield from self._close_message("completed")
            for call in event.calls:
                yield from self._add_call(call)
        elif isinstance(event, TurnEnded):
            yield from self._end(event)

    def completed(self) -> StreamEvent:
        """The last event of a stream."""
        return self._event(f"response.{self._document['status']}", response=self.document)

    def cancelled(self) -> StreamEvent:
        """The last event of a stream that its client cancels."""
        self._document["status"] = "cancelled"
        return self._event("response.incomplete", response=self.document)

    def failed(self, error: ChatapiError) -> Iterator[StreamEvent]:
        """The last events of a stream that an error ends."""
        described = fault(error)
        code = "rate_limit_exceeded" if described["type"] == "rate_limit_error" else "server_error"
        self._document |= {"status": "failed", "error": {"code": code, "message": error.message}}
        yield self._event("error", code=error.code, message=error.message, param=described["param"])
        yield self._event("response.failed", response=self.document)

    def _head(self) -> dict[str, Any]:
        body = self._request.body
        form = body.text.format if body.text is not None else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "conversation": {"id": body.conversation_id} if body.conversation_id is not None else None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "model": body.model,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": body.store,
            "temperature": body.temperature,
            "text": {"format": _plain(form) if form is not None else {"type": "text"}},
            "tool_choice": _choice(body.tool_choice),
            "tools": [
                {"description": None, "parameters": None, "strict": None, **_plain(each)} for each in body.tools or ()
            ],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": None,
            "metadata": body.metadata or {},
        }

    def _event(self, kind: str, **members: Any) -> StreamEvent:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, **members}

    def _add_text(self, delta: TextDelta) -> Iterator[StreamEvent]:
        if not self._is_open:
            yield from self._open_message()
        item, at = self.output[-1], len(self.output) - 1
        part = item["content"][0]
        part["text"] += delta.text
        logprobs = _logprobs(delta.tokens) if self._request.logprobs else []
        part["logprobs"] += logprobs
        place = {"item_id": item["id"], "output_index": at, "content_index": 0}
        yield self._event("response.output_text.delta", **place, delta=delta.text, logprobs=logprobs)

    def _open_message(self) -> Iterator[StreamEvent]:
        self._is_open, at = True, len(self.output)
        item = {"id": f"msg_{self._key}_{at}", "type": "message", "status": "in_progress", "role": "assistant"}
        yield self._event("response.output_item.added", output_index=at, item={**item, "content": []})
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.output.append({**item, "content": [part]})
        place = {"item_id": item["id"], "output_index": at, "content_index": 0}
        yield self._event("response.content_part.added", **place, part={**part, "logprobs": []})

    def _close_message(self, status: str) -> Iterator[StreamEvent]:
        if not self._is_open:
            return
        self._is_open, item, at = False, self.output[-1], len(self.output) - 1
        item["status"], part = status, item["content"][0]
        place = {"item_id": item["id"], "output_index": at, "content_index": 0}
        yield self._event("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=at, item=item)

    def _add_call(self, call: ToolCall) -> Iterator[StreamEvent]:
        at = len(self.output)
        item = {"id": f"fc_{self._key}_{at}", "type": "function_call", "call_id": call.id, "name": call.name}
        opened = {**item, "status": "in_progress", "arguments": ""}
        done = {**item, "status": "completed", "arguments": call.arguments}
        self.output.append(done)
        place = {"item_id": item["id"], "output_index": at}
        yield self._event("response.output_item.added", output_index=at, item=opened)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        yield self._event("response.output_item.done", output_index=at, item=done)

    def _end(self, ended: TurnEnded) -> Iterator[StreamEvent]:
        status = "incomplete" if ended.finish_reason == "length" else "completed"
        if not self.output:
            yield from self._open_message()
        yield from self._close_message(status)
        self._document |= {"status": status, "usage": _usage(ended)}
        if status == "incomplete":
            self._document["incomplete_details"] = {"reason": "max_output_tokens"}


def _plain(value: Any) -> dict[str, Any]:
    """The known members of a part of the request, as they were sent."""
    found: dict[str, Any] = value.model_dump(by_alias=True, include=set(type(value).model_fields), exclude_unset=True)
    return found


def _choice(choice: Any) -> Any:
    return choice or "auto" if choice is None or isinstance(choice, str) else _plain(choice)


def _logprobs(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    return [{**_token(token), "top_logprobs": [_token(each) for each in token.top]} for token in tokens]


def _token(token: Token) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


def _usage(ended: TurnEnded) -> dict[str, Any]:
    return {
        "input_tokens": ended.prompt_tokens,
        "input_tokens_details": {"cached_tokens": ended.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": ended.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": ended.reasoning_tokens},
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
    }
