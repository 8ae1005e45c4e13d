"""The exchanges of a live conversation, in memory and in the history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from chatapi.services.turns.conversations import Conversations
from chatapi.storage.history import ConversationState, Exchange, ToolResult


class ConversationContext:
    """The exchanges of one conversation; every change is written to the history first."""

    def __init__(self, conversations: Conversations, conversation_state: ConversationState) -> None:
        """It must follow the conversation (`Conversations.followed`), and so learns of its own changes too."""
        self.conversation_state = conversation_state
        self._conversations = conversations

    async def add(self, system: str | None, asked: str, answered: str, results: tuple[ToolResult, ...] = ()) -> int:
        """Appends an exchange and returns its number."""
        self.conversation_state = replace(self.conversation_state, system=system)
        return (await self._conversations.add(self.conversation_state, asked, answered, results)).number

    def trim_to(self, shortened: ConversationState) -> None:
        """Removes the exchanges before the first one of `shortened`, which fits the model; the history keeps them."""
        first = shortened.exchanges[0].number if shortened.exchanges else inf
        self._replace(exchange for exchange in self.conversation_state.exchanges if exchange.number >= first)

    async def amend(self, number: int, answered: str, asked: str | None = None) -> None:
        """Changes an answer, and its request if `asked` is given."""
        await self._conversations.amend(self.conversation_state.id, number, answered, asked)

    async def remove(self, number: int) -> None:
        """Removes an exchange."""
        await self._conversations.amend(self.conversation_state.id, number, None)

    async def insert_before(
        self, number: int, system: str | None, asked: str, answered: str
    ) -> tuple[int, dict[int, int]]:
        """Adds an exchange before another one. Returns its number, and old number -> new number of those after it.

        Numbers order the exchanges, so those after it get new ones.
        """
        later = [each for each in self.conversation_state.exchanges if each.number >= number]
        added = await self.add(system, asked, answered)
        moved = {each.number: await self.add(system, each.asked, each.answered, each.results) for each in later}
        for each in later:
            await self.remove(each.number)
        return added, moved

    def add_tool_result(self, number: int, result: ToolResult) -> None:
        """Adds the result of a tool call to an exchange."""
        self._replace(
            replace(exchange, results=(*exchange.results, result)) if exchange.number == number else exchange
            for exchange in self.conversation_state.exchanges
        )

    def remove_tool_result(self, call_id: str) -> None:
        """Removes a tool call and its result from all exchanges."""
        self._replace(
            replace(exchange, results=tuple(result for result in exchange.results if result.call.id != call_id))
            for exchange in self.conversation_state.exchanges
        )

    def exchange_added(self, exchange: Exchange) -> None:
        """Takes over an exchange that was stored, also by another turn."""
        self._replace((*self.conversation_state.exchanges, exchange))

    def exchange_amended(self, number: int, answered: str | None, asked: str | None) -> None:
        """Takes over a changed answer, and request unless None; `answered` None: removes the exchange."""
        exchanges = self.conversation_state.exchanges
        if answered is None:
            self._replace(each for each in exchanges if each.number != number)
            return
        self._replace(
            replace(each, asked=each.asked if asked is None else asked, answered=answered)
            if each.number == number
            else each
            for each in exchanges
        )

    def conversation_removed(self) -> None:
        """Forgets all exchanges: the next answer begins the conversation anew."""
        self._replace(())

    def _replace(self, exchanges: Iterable[Exchange]) -> None:
        self.conversation_state = replace(self.conversation_state, exchanges=tuple(exchanges))
