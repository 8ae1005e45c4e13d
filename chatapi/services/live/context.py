"""What a live conversation remembers, at hand and in the history alike."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from chatapi.runtime.workers import Worker
from chatapi.storage.history import ConversationHistory, ConversationState, Exchange, ToolResult


class ConversationContext:
    """One conversation's exchanges; what is changed here is changed in the history first."""

    def __init__(self, history: Worker[ConversationHistory], recalled: ConversationState) -> None:
        self.recalled = recalled
        self._history = history

    async def add(self, system: str | None, asked: str, answered: str, results: tuple[ToolResult, ...] = ()) -> int:
        """Put an exchange at the end; tells its number."""
        recalled = replace(self.recalled, system=system)
        saved = await self._history.call(lambda history: history.add(recalled, asked, answered))
        number = saved.number
        self.recalled = replace(recalled, exchanges=(*recalled.exchanges, Exchange(number, asked, answered, results)))
        return number

    def begin_with(self, recalled: ConversationState) -> None:
        """What is older than its first exchange no longer fits the model; the history keeps it."""
        first = recalled.exchanges[0].number if recalled.exchanges else inf
        kept = tuple(exchange for exchange in self.recalled.exchanges if exchange.number >= first)
        self.recalled = replace(self.recalled, exchanges=kept)

    async def amend(self, number: int, answered: str, asked: str | None = None) -> None:
        """Change an answer, and what was asked if it is given."""
        conversation = self.recalled.id
        await self._history.call(lambda history: history.amend(conversation, number, answered, asked))
        self.recalled = replace(
            self.recalled,
            exchanges=tuple(
                replace(e, asked=e.asked if asked is None else asked, answered=answered) if e.number == number else e
                for e in self.recalled.exchanges
            ),
        )

    async def forget(self, number: int) -> None:
        """The exchange never was."""
        conversation = self.recalled.id
        await self._history.call(lambda history: history.amend(conversation, number, None))
        kept = tuple(exchange for exchange in self.recalled.exchanges if exchange.number != number)
        self.recalled = replace(self.recalled, exchanges=kept)

    def without(self, call: str) -> None:
        """The function was never called."""
        self.recalled = replace(
            self.recalled,
            exchanges=tuple(
                replace(exchange, results=tuple(result for result in exchange.results if result.call.id != call))
                for exchange in self.recalled.exchanges
            ),
        )
