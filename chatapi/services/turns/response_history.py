"""Stored responses, which later requests may continue; they are kept, expire and are deleted as conversations are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from chatapi.errors import NotFound
from chatapi.events import ToolCall
from chatapi.runtime.workers import Worker
from chatapi.services.turns.chat_completion import ChatMessage
from chatapi.storage.history import ConversationHistory, ConversationState

PREFIX = "resp_"
"""Start of every response's id, so that the id of a conversation is never taken for one."""
CONVERSATION_PREFIX = "conv_"
"""Start of the id of every conversation of items, for the same reason."""
LONGEST_CHAIN = 1000
"""Most responses that follow one another."""


@dataclass(frozen=True)
class StoredResponse:
    """A response and what was asked."""

    id: str
    previous: str | None
    """Id of the response that it continues."""
    asked: tuple[ChatMessage, ...]
    """Messages of its request; audio as its transcript."""
    answered: tuple[ChatMessage, ...]
    document: dict[str, Any]
    """The response as it was sent."""


def is_response(name: str) -> bool:
    """Whether an id can be that of a response; no conversation has such an id."""
    return name.startswith(PREFIX)


def is_of_responses(name: str) -> bool:
    """Whether an id can be that of a response or of a conversation of items: their exchanges are documents, which no
    other turn can continue."""
    return name.startswith((PREFIX, CONVERSATION_PREFIX))


class ResponseHistory:
    """The stored responses. Each is a conversation of one exchange, because several may continue the same one."""

    def __init__(self, history: Worker[ConversationHistory]) -> None:
        self._history = history

    async def add(self, response: StoredResponse) -> None:
        """Store a response."""
        asked = json.dumps({"previous": response.previous, "messages": [_plain(each) for each in response.asked]})
        answered = json.dumps({"messages": [_plain(each) for each in response.answered], "response": response.document})
        state = ConversationState(response.id, None, ())
        await self._history.call(lambda history: history.add(state, asked, answered))

    async def get(self, response: str) -> StoredResponse:
        """The response with this id. Raises NotFound (response_not_found)."""
        if is_response(response):
            try:
                state = await self._history.call(lambda history: history.recall(response, everything=True))
                return _stored(state)
            except (NotFound, LookupError, TypeError, ValueError):
                # What another program has written there is no response.
                pass
        raise _not_found(response)

    async def chain(self, response: str) -> list[StoredResponse]:
        """The response with this id after those it continues. Raises NotFound (response_not_found)."""
        found: list[StoredResponse] = []
        following: str | None = response
        while following is not None and len(found) < LONGEST_CHAIN:
            found.append(await self.get(following))
            following = found[-1].previous
        return found[::-1]

    async def remove(self, response: str) -> None:
        """Delete a response; those that continue it can then not be continued. Raises NotFound (response_not_found)."""
        await self.get(response)
        await self._history.call(lambda history: history.remove(response))


def _not_found(response: str) -> NotFound:
    return NotFound(
        f"there is no response {response[:100]!r}: it was not stored, was deleted or has expired",
        code="response_not_found",
    )


def _plain(message: ChatMessage) -> dict[str, Any]:
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return {"role": message.role, "parts": message.parts, "tool_calls": calls, "tool_call_id": message.tool_call_id}


def _stored(state: ConversationState) -> StoredResponse:
    """Raises LookupError, TypeError, ValueError for what is no response."""
    exchange = state.exchanges[0]
    asked, answered = json.loads(exchange.asked), json.loads(exchange.answered)
    return StoredResponse(
        state.id,
        asked["previous"],
        tuple(_message(each) for each in asked["messages"]),
        tuple(_message(each) for each in answered["messages"]),
        answered["response"],
    )


def _message(plain: dict[str, Any]) -> ChatMessage:
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in plain["tool_calls"])
    return ChatMessage(plain["role"], tuple(plain["parts"]), calls, plain["tool_call_id"])
