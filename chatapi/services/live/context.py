"""What a live conversation remembers, at hand and in the history alike."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from chatapi.runtime.workers import Worker
from chatapi.storage.history import ConversationHistory, ConversationState, Exchange, ToolResult


class ConversationContext:
    """One conversation's exchanges; what is changed here is changed in the history first."""

    def __init__(self, history: Worker[ConversationHistory], conversation_state: ConversationState) -> None:
        self.conversation_state = conversation_state
        self._history = history

    async def add(self, system: str | None, asked: str, answered: str, results: tuple[ToolResult, ...] = ()) -> int:
        """Put an exchange at the end; tells its number."""
        conversation_state = replace(self.conversation_state, system=system)
        saved = await self._history.call(lambda history: history.add(conversation_state, asked, answered))
        number = saved.number
        self.conversation_state = replace(
            conversation_state, exchanges=(*conversation_state.exchanges, Exchange(number, asked, answered, results))
        )
        return number

    def begin_with(self, conversation_state: ConversationState) -> None:
        """What is older than its first exchange no longer fits the model; the history keeps it."""
        first = conversation_state.exchanges[0].number if conversation_state.exchanges else inf
        kept = tuple(exchange for exchange in self.conversation_state.exchanges if exchange.number >= first)
        self.conversation_state = replace(self.conversation_state, exchanges=kept)

    async def amend(self, number: int, answered: str, asked: str | None = None) -> None:
        """Change an answer, and what was asked if it is given."""
        conversation = self.conversation_state.id
        await self._history.call(lambda history: history.amend(conversation, number, answered, asked))
        self.conversation_state = replace(
            self.conversation_state,
            exchanges=tuple(
                replace(e, asked=e.asked if asked is None else asked, answered=answered) if e.number == number else e
                for e in self.conversation_state.exchanges
            ),
        )

    async def forget(self, number: int) -> None:
        """The exchange never was."""
        conversation = self.conversation_state.id
        await self._history.call(lambda history: history.amend(conversation, number, None))
        kept = tuple(exchange for exchange in self.conversation_state.exchanges if exchange.number != number)
        self.conversation_state = replace(self.conversation_state, exchanges=kept)

    def without(self, call: str) -> None:
        """The function was never called."""
        self.conversation_state = replace(
            self.conversation_state,
            exchanges=tuple(
                replace(exchange, results=tuple(result for result in exchange.results if result.call.id != call))
                for exchange in self.conversation_state.exchanges
            ),
        )
