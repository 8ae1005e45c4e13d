"""The exchanges of a live conversation, in memory and in the history."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from chatapi.runtime.workers import Worker
from chatapi.storage.history import ConversationHistory, ConversationState, Exchange, ToolResult


class ConversationContext:
    """The exchanges of one conversation; every change is written to the history first."""

    def __init__(self, history: Worker[ConversationHistory], conversation_state: ConversationState) -> None:
        self.conversation_state = conversation_state
        self._history = history

    async def add(self, system: str | None, asked: str, answered: str, results: tuple[ToolResult, ...] = ()) -> int:
        """Appends an exchange and returns its number."""
        conversation_state = replace(self.conversation_state, system=system)
        saved = await self._history.call(lambda history: history.add(conversation_state, asked, answered))
        number = saved.number
        self.conversation_state = replace(
            conversation_state, exchanges=(*conversation_state.exchanges, Exchange(number, asked, answered, results))
        )
        return number

    def trim_to(self, shortened: ConversationState) -> None:
        """Removes the exchanges before the first one of `shortened`, which fits the model; the history keeps them."""
        first = shortened.exchanges[0].number if shortened.exchanges else inf
        kept = tuple(exchange for exchange in self.conversation_state.exchanges if exchange.number >= first)
        self.conversation_state = replace(self.conversation_state, exchanges=kept)

    async def amend(self, number: int, answered: str, asked: str | None = None) -> None:
        """Changes an answer, and its request if `asked` is given."""
        conversation = self.conversation_state.id
        await self._history.call(lambda history: history.amend(conversation, number, answered, asked))
        self.conversation_state = replace(
            self.conversation_state,
            exchanges=tuple(
                replace(e, asked=e.asked if asked is None else asked, answered=answered) if e.number == number else e
                for e in self.conversation_state.exchanges
            ),
        )

    async def remove(self, number: int) -> None:
        """Removes an exchange."""
        conversation = self.conversation_state.id
        await self._history.call(lambda history: history.amend(conversation, number, None))
        kept = tuple(exchange for exchange in self.conversation_state.exchanges if exchange.number != number)
        self.conversation_state = replace(self.conversation_state, exchanges=kept)

    def remove_tool_result(self, call_id: str) -> None:
        """Removes a tool call and its result from all exchanges."""
        self.conversation_state = replace(
            self.conversation_state,
            exchanges=tuple(
                replace(exchange, results=tuple(result for result in exchange.results if result.call.id != call_id))
                for exchange in self.conversation_state.exchanges
            ),
        )
