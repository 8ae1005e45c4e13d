"""Where an item that a client creates belongs in the history: at the end, or between other items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from chatapi.services.live.conversation_item import CallItem, Item

if TYPE_CHECKING:
    from chatapi.services.live.session import LiveSession


class ItemInsertion:
    """Adds the content of one item to the exchanges of a session, or to what waits for its next answer."""

    def __init__(self, session: LiveSession, before: Sequence[Item], after: Sequence[Item]) -> None:
        """`before` and `after`: the items of the conversation before and after the new one."""
        self._session = session
        self._context = session.context
        self._before = [item for item in before if item.role in ("user", "assistant")]
        self._after = [item for item in after if item.role in ("user", "assistant")]

    async def insert(self, item: Item) -> None:
        """Adds the item. Raises NotFound for the result of an unknown tool call, and TooLarge."""
        if isinstance(item, CallItem):
            await self._insert_call(item)
        elif item.role == "user":
            await self._insert_request(item)
        elif item.role == "assistant" and item.text:
            await self._insert_answer(item)

    async def _insert_call(self, item: CallItem) -> None:
        tools = self._session.tools
        if item.output is None:
            tools.add_calls([item.call])
            return
        tools.add_result(item.call.id, item.output)
        following = self._after[0] if self._after else None
        if following is None or following.exchange is None:
            return
        result, number = tools.results[-1], following.exchange
        tools.remove(item.call.id)
        if following.role == "assistant" and (asked := _requests(self._before, number)):
            number = await self._detach_answer(number, asked)
        self._context.add_tool_result(number, result)

    async def _detach_answer(self, number: int, asked: Sequence[Item]) -> int:
        """Moves an answer after its requests, to an exchange of its own, whose number is returned."""
        answered = self._answered(number)
        await self._context.amend(number, "", _joined(asked))
        added, moved = await self._context.insert_before(number + 1, self._session.system, "", answered)
        for each in (*self._before, *self._after):
            each.renumber(moved)
        for each in self._after:
            if each.role == "assistant" and each.exchange == number:
                each.answer, each.number = None, added
        return added

    async def _insert_request(self, item: Item) -> None:
        number = self._after[0].exchange if self._after else None
        if number is None:
            self._insert_pending(item)
            return
        asked = [*_requests(self._before, number), item, *_requests(self._after, number)]
        await self._context.amend(number, self._answered(number), _joined(asked))
        item.number = number

    def _insert_pending(self, item: Item) -> None:
        """Adds a request to those that wait for an answer, before the ones that follow it."""
        pending, text = self._session.pending, item.text or ""
        waiting = [each.text for each in self._after if each.role == "user" and each.text in pending]
        if text:
            pending.insert(pending.index(waiting[0]) if waiting else len(pending), text)

    async def _insert_answer(self, item: Item) -> None:
        previous, text = self._before[-1] if self._before else None, item.text or ""
        following = self._after[0] if self._after else None
        if following is not None and following.role == "assistant" and following.exchange is not None:
            item.number = following.exchange
            await self._context.amend(item.number, f"{text} {self._answered(item.number)}".rstrip())
        elif following is not None and previous is not None and previous.role == "assistant" and previous.exchange:
            item.number = previous.exchange
            await self._context.amend(item.number, f"{self._answered(item.number)} {text}".lstrip())
        elif following is not None and following.exchange is not None:
            await self._split(item, following.exchange)
        else:
            await self._answer_pending(item)

    async def _answer_pending(self, item: Item) -> None:
        """Adds an answer to the requests that wait for one, as far as they are before it."""
        session, text = self._session, item.text or ""
        later = [each.text for each in self._after if each.role == "user" and each.text in session.pending]
        cut = session.pending.index(later[0]) if later else len(session.pending)
        asked, results = " ".join(session.pending[:cut]), session.tools.results
        requests = [each for each in self._before if each.unanswered]
        if results and asked:
            # The results of tool calls follow the request that led to them.
            number = await self._context.add(session.system, asked, "")
            item.number = await self._context.add(session.system, "", text, results)
        else:
            number = item.number = await self._context.add(session.system, asked, text, results)
        session.tools.clear_results()
        del session.pending[:cut]
        for each in requests:
            each.number = number

    async def _split(self, item: Item, number: int) -> None:
        """Adds an answer before the exchange of that number, whose requests before the answer become its own."""
        earlier, later = _requests(self._before, number), _requests(self._after, number)
        if earlier:
            await self._context.amend(number, self._answered(number), _joined(later))
        item.number, moved = await self._context.insert_before(
            number, self._session.system, _joined(earlier), item.text or ""
        )
        for each in (*self._before, *self._after):
            each.renumber(moved)
        for each in earlier:
            each.answer, each.number = None, item.number

    def _answered(self, number: int) -> str:
        exchanges = self._session.conversation_state.exchanges
        return next((each.answered for each in exchanges if each.number == number), "")


def _requests(items: Iterable[Item], number: int) -> list[Item]:
    return [item for item in items if item.role == "user" and item.exchange == number]


def _joined(items: Iterable[Item]) -> str:
    return " ".join(item.text for item in items if item.text)
