"""The stored conversations: each answers one turn at a time, and live sessions follow the turns of others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from chatapi.auth import current_client
from chatapi.errors import Busy, NotFound
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker
from chatapi.services.turns.response_history import CONVERSATION_PREFIX, PREFIX, is_of_responses
from chatapi.storage.history import (
    ConversationHistory,
    ConversationState,
    ConversationSummary,
    Exchange,
    ListFilter,
    SavedExchange,
    ToolResult,
)


class Follower(Protocol):
    """Keeps the exchanges of a conversation in memory."""

    def exchange_added(self, exchange: Exchange) -> None:
        """An exchange was stored."""

    def exchange_amended(self, number: int, answered: str | None, asked: str | None) -> None:
        """The answer of an exchange was changed, and its request unless None; `answered` None: it was removed."""

    def conversation_removed(self) -> None:
        """The conversation was deleted with all its exchanges."""


@dataclass
class _Turns:
    """The turns of one conversation that run or wait."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    count: int = 0


class Conversations:
    """The history, and the locks and followers of conversations, by id. All methods belong to one event loop."""

    def __init__(self, history: Worker[ConversationHistory]) -> None:
        self.history = history
        self._turns: defaultdict[str, _Turns] = defaultdict(_Turns)
        self._followers: defaultdict[str, list[Follower]] = defaultdict(list)

    async def recall(
        self, conversation: str, priority: Priority = Priority.REQUEST, everything: bool = False
    ) -> ConversationState:
        """The exchanges that fit the model, or everything. Raises NotFound (unknown_conversation)."""
        _require_conversation(conversation)
        return await self.history.call(lambda history: history.recall(conversation, everything), priority)

    async def listed(self, search: str = "", before: int = 0, most: int = 50) -> list[ConversationSummary]:
        """The conversations that the present client may list, the one used last at the start: its own; those of all
        for operators, and where there are no keys. `search`, `before` and `most`: as of ListFilter."""
        chosen = ListFilter(current_client.owner(), search, before, most, (PREFIX, CONVERSATION_PREFIX))
        return await self.history.call(lambda history: history.listed(chosen))

    async def rename(self, conversation: str, title: str) -> None:
        """Set the title in lists; empty: the start of the first message. Raises NotFound (unknown_conversation)."""
        _require_conversation(conversation)
        await self.history.call(lambda history: history.rename(conversation, title))

    async def add(
        self,
        before: ConversationState,
        asked: str,
        answered: str,
        results: tuple[ToolResult, ...] = (),
        priority: Priority = Priority.REQUEST,
    ) -> SavedExchange:
        """Store an exchange that follows those of `before`; a new conversation belongs to the present client."""
        client = current_client.holder()
        owner = client.owner_id if client is not None else ""
        saved = await self.history.call(lambda history: history.add(before, asked, answered, owner), priority)
        exchange = Exchange(saved.number, asked, answered, results)
        for follower in self._followers.get(before.id, ()):
            follower.exchange_added(exchange)
        return saved

    async def amend(self, conversation: str, number: int, answered: str | None, asked: str | None = None) -> None:
        """Change the answer of an exchange, and its request if given; `answered` None: remove the exchange."""
        await self.history.call(lambda history: history.amend(conversation, number, answered, asked))
        for follower in self._followers.get(conversation, ()):
            follower.exchange_amended(number, answered, asked)

    async def remove(self, conversation: str) -> None:
        """Delete a conversation, after the turns that hold it: they would store their exchange again. Raises NotFound
        (unknown_conversation)."""
        _require_conversation(conversation)
        async with self.turn(conversation):
            await self.history.call(lambda history: history.remove(conversation))
            for follower in self._followers.get(conversation, ()):
                follower.conversation_removed()

    @asynccontextmanager
    async def exclusive(self, conversation: str) -> AsyncIterator[None]:
        """Hold a conversation that answers no turn. Raises Busy (conversation_busy)."""
        if conversation in self._turns:
            raise Busy(
                f"the conversation {conversation!r} is still answering; wait for the end of that turn",
                code="conversation_busy",
            )
        async with self.turn(conversation):
            yield

    @asynccontextmanager
    async def turn(self, conversation: str) -> AsyncIterator[bool]:
        """Hold a conversation, after the turns that hold it; yields whether there were such turns."""
        turns = self._turns[conversation]
        waits = turns.count > 0
        turns.count += 1
        try:
            async with turns.lock:
                yield waits
        finally:
            turns.count -= 1
            if not turns.count:
                del self._turns[conversation]

    @contextmanager
    def followed(self, conversation: str, follower: Follower) -> Iterator[None]:
        """Tell the follower of changes inside the context."""
        followers = self._followers[conversation]
        followers.append(follower)
        try:
            yield
        finally:
            followers.remove(follower)
            if not followers:
                del self._followers[conversation]


def _require_conversation(name: str) -> None:
    """The history holds what belongs to responses too, whose exchanges no other turn can continue. Raises NotFound."""
    if is_of_responses(name):
        raise NotFound(
            f"{name[:100]!r} is the id of a response or of a conversation of responses; send it to /v1/responses as "
            "previous_response_id or as conversation",
            code="unknown_conversation",
        )
