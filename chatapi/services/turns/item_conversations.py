"""Conversations of items, as `/v1/conversations` has them: clients add and delete items, and responses add theirs.

Each is a conversation of the history. Its first exchange holds when it was created and its labels, each further one the
items that were added together.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from chatapi.errors import Busy, NotFound, Unprocessable
from chatapi.services.turns.conversations import Conversations
from chatapi.services.turns.response_history import CONVERSATION_PREFIX
from chatapi.storage.history import ConversationState

MOST_ITEMS = 2000
"""Most items of a conversation."""
MOST_CHARACTERS = 2_000_000
"""Most characters of all items of a conversation in JSON."""

Item = dict[str, Any]
"""An item with its id, in OpenAI's format."""


@dataclass(frozen=True)
class ItemConversation:
    """A conversation as it is stored."""

    state: ConversationState
    created_at: int
    """Creation time, in seconds since 1970."""
    metadata: Mapping[str, str]
    groups: tuple[tuple[Item, ...], ...]
    """The items of each exchange after the first, oldest first."""

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, oldest first."""
        return tuple(item for group in self.groups for item in group)

    @property
    def last(self) -> int:
        """Number of its last exchange, which grows with every addition."""
        return self.state.exchanges[-1].number

    def find(self, item: str) -> Item:
        """The item with this id. Raises NotFound (item_not_found)."""
        for each in self.items:
            if each["id"] == item:
                return each
        raise NotFound(f"the conversation {self.id} has no item {item[:100]!r}", code="item_not_found")

    def require_room(self, number: int, characters: int) -> None:
        """Raises Unprocessable (conversation_full) where so many items, of so many characters, do not fit."""
        if sum(map(len, self.groups)) + number > MOST_ITEMS:
            raise _full(f"{MOST_ITEMS} items")
        if sum(len(exchange.asked) for exchange in self.state.exchanges) + characters > MOST_CHARACTERS:
            raise _full(f"{MOST_CHARACTERS} characters")


def _full(limit: str) -> Unprocessable:
    message = f"a conversation has {limit} at most; delete items, or create another conversation"
    return Unprocessable(message, code="conversation_full", details={"param": "items"})


class ItemConversations:
    """The conversations of items. All methods belong to one event loop; each raises NotFound (conversation_not_found)
    for an id that is none of theirs."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._history = conversations.history

    @staticmethod
    def new_id() -> str:
        """An id that cannot be guessed: whoever knows it can read the conversation."""
        return CONVERSATION_PREFIX + secrets.token_hex(16)

    async def create(self, conversation: str, metadata: Mapping[str, str], items: Sequence[Item]) -> ItemConversation:
        """Create a conversation with these items. Raises Unprocessable (conversation_full)."""
        head = json.dumps({"created_at": int(time.time()), "metadata": dict(metadata)})
        await self._history.call(lambda history: history.add(ConversationState(conversation, None, ()), head, ""))
        try:
            return await self.add(conversation, items) if items else await self.get(conversation)
        except Unprocessable:
            await self.remove(conversation)
            raise

    async def get(self, conversation: str) -> ItemConversation:
        """The conversation with this id."""
        if conversation.startswith(CONVERSATION_PREFIX):
            try:
                return await self._history.call(lambda history: _parsed(history.recall(conversation, everything=True)))
            except (NotFound, LookupError, TypeError, ValueError):
                # What another program has written there is no conversation of items.
                pass
        raise NotFound(
            f"there is no conversation {conversation[:100]!r}: it was not created, was deleted or has expired",
            code="conversation_not_found",
            details={"param": "conversation"},
        )

    async def add(self, conversation: str, items: Sequence[Item]) -> ItemConversation:
        """Add items at the end, after the response that the conversation waits for. Raises Unprocessable
        (conversation_full)."""
        async with self._conversations.turn(conversation):
            present = await self.get(conversation)
            present.require_room(len(items), len(json.dumps(items)))
            await self._append(present, items)
            return await self.get(conversation)

    async def label(self, conversation: str, metadata: Mapping[str, str]) -> ItemConversation:
        """Replace the labels."""
        async with self._conversations.turn(conversation):
            present = await self.get(conversation)
            head = json.dumps({"created_at": present.created_at, "metadata": dict(metadata)})
            number = present.state.exchanges[0].number
            await self._amend(conversation, number, "", head)
            return await self.get(conversation)

    async def remove_item(self, conversation: str, item: str) -> ItemConversation:
        """Delete an item. Raises NotFound (item_not_found)."""
        async with self._conversations.turn(conversation):
            present = await self.get(conversation)
            present.find(item)
            for exchange, group in zip(present.state.exchanges[1:], present.groups, strict=True):
                left, number = [each for each in group if each["id"] != item], exchange.number
                if len(left) < len(group):
                    # Without an answer the exchange is deleted.
                    answered, asked = ("", json.dumps(left)) if left else (None, None)
                    await self._amend(conversation, number, answered, asked)
            return await self.get(conversation)

    async def remove(self, conversation: str) -> None:
        """Delete a conversation, after the response that it waits for."""
        async with self._conversations.turn(conversation):
            await self.get(conversation)
            await self._history.call(lambda history: history.remove(conversation))

    @asynccontextmanager
    async def continued(self, present: ItemConversation) -> AsyncIterator[None]:
        """Hold a conversation for a response to what it was. Raises Busy (conversation_busy) when it has another
        response or has changed since."""
        async with self._conversations.exclusive(present.id):
            if (await self.get(present.id)).last != present.last:
                message = f"the conversation {present.id} has changed meanwhile; send the request again"
                raise Busy(message, code="conversation_busy")
            yield

    async def append(self, present: ItemConversation, items: Sequence[Item]) -> None:
        """Add the items of a response, inside of `continued`."""
        await self._append(present, items)

    async def _append(self, present: ItemConversation, items: Sequence[Item]) -> None:
        if items:
            await self._history.call(lambda history: history.add(present.state, json.dumps(items), ""))

    async def _amend(self, conversation: str, number: int, answered: str | None, asked: str | None) -> None:
        await self._history.call(lambda history: history.amend(conversation, number, answered, asked))


def _parsed(state: ConversationState) -> ItemConversation:
    """Raises LookupError, TypeError, ValueError for what is no conversation of items."""
    head = json.loads(state.exchanges[0].asked)
    groups = tuple(tuple(json.loads(exchange.asked)) for exchange in state.exchanges[1:])
    return ItemConversation(state, int(head["created_at"]), dict(head["metadata"]), groups)
