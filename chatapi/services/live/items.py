"""Conversation items of a live session, and how changes of them change the conversation history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatapi.errors import NotFound, TooLarge, Unprocessable
from chatapi.services.live.answer import Answer
from chatapi.services.live.conversation_item import CallItem, Item
from chatapi.services.live.item_insertion import ItemInsertion

if TYPE_CHECKING:
    from chatapi.services.live.session import LiveSession

MOST = 1000
"""Most items that a client may refer to; older ones are still part of the conversation."""
MOST_CHARS = 1_000_000
"""Most characters of all items and pending messages: more fits no model's context, and all are kept in memory."""
SLACK = 0.1
"""Tolerance for a client's playback position beyond the sent audio, in seconds: clients round, and play blocks."""


class ConversationItems:
    """All items of a session, the oldest first."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self._items: dict[str, Item] = {}

    def add(self, item: Item) -> str | None:
        """Appends an item and returns the id of the previous one."""
        before = next(reversed(self._items), None)
        self._items[item.id] = item
        self._drop_oldest()
        return before

    def _drop_oldest(self) -> None:
        while len(self._items) > MOST:
            self._items.pop(next(iter(self._items)))

    def remove(self, item: Item) -> None:
        """Removes an item without a change of the history."""
        self._items.pop(item.id, None)

    def find(self, item_id: str, action: str = "retrieve") -> Item:
        """The item of that id, for this action. Raises NotFound with OpenAI's code for it."""
        if (item := self._items.get(item_id)) is None:
            code = f"item_{action}_invalid_item_id"
            raise NotFound(f"item {item_id!r} does not exist", code=code, details={"param": "item_id"})
        return item

    def unanswered(self) -> Iterator[Item]:
        """User items without a response."""
        return (item for item in self._items.values() if item.unanswered)

    def spoken_item(self, answer: Answer | None) -> Item | None:
        """The last spoken user item that the answer responds to."""
        spoken = (i for i in reversed(self._items.values()) if i.kind == "input_audio" and i.answer is answer)
        return next(spoken, None) if answer is not None else None

    @property
    def system(self) -> list[str]:
        """Texts of the system items."""
        return [item.text or "" for item in self._items.values() if item.role == "system"]

    async def create(self, item: Item, previous: str | None = None) -> str | None:
        """Adds a client's item to the conversation; returns the id of the previous one.

        `previous`: id of the item after which it is added, or "root" for the beginning; None: the last one. Raises
        Unprocessable, TooLarge (conversation_too_large), and NotFound for an unknown item or the result of an unknown
        tool call.
        """
        if item.id in self._items:
            raise Unprocessable(f"item {item.id!r} exists already", details={"param": "item.id"})
        at = self._position(previous)
        self._check_room(item)
        items = list(self._items.values())
        await ItemInsertion(self._session, items[:at], items[at:]).insert(item)
        before = self._place(item, previous)
        if item.role == "system":
            self._session.prefill()
        return before

    def _position(self, previous: str | None) -> int:
        """How many items are before one that follows this item. Raises NotFound."""
        if previous is None or previous == "root":
            return 0 if previous else len(self._items)
        if previous not in self._items:
            raise NotFound(
                f"the previous item {previous!r} does not exist; send root for the beginning, or nothing for the end",
                code="item_create_invalid_previous_item_id",
                details={"param": "previous_item_id"},
            )
        return list(self._items).index(previous) + 1

    def _place(self, item: Item, previous: str | None) -> str | None:
        """Puts an item behind another one; at the end when that is gone meanwhile. Returns the previous one's id."""
        if previous is None or (previous != "root" and previous not in self._items):
            return self.add(item)
        items = list(self._items.values())
        at = self._position(previous)
        self._items = {each.id: each for each in (*items[:at], item, *items[at:])}
        self._drop_oldest()
        return None if at == 0 else previous

    def _check_room(self, item: Item) -> None:
        """Raises TooLarge (conversation_too_large) when the items have too many characters."""
        held = sum(each.size for each in self._items.values()) + sum(map(len, self._session.pending))
        if held + item.size > MOST_CHARS:
            raise TooLarge(
                f"the items of the conversation have {held} characters; at most {MOST_CHARS} are allowed: delete some",
                code="conversation_too_large",
                details={"limit_chars": MOST_CHARS},
            )

    async def delete(self, item_id: str) -> None:
        """Deletes an item from the conversation. Raises NotFound."""
        item = self.find(item_id, "delete")
        if item.role == "assistant" and item.status == "in_progress" and item.answer is not None:
            await self._session.cancel(item.answer)
        self.remove(item)
        if isinstance(item, CallItem):
            self._session.tools.remove(item.call.id)
            self._session.context.remove_tool_result(item.call.id)
        elif item.exchange is not None:
            await self._amend_history(item)
        elif item.role == "user" and item.text in self._session.pending:
            self._session.pending.remove(item.text)
        elif item.role == "system":
            self._session.prefill()

    async def truncate(self, item_id: str, seconds: float) -> None:
        """Truncates an item to the audio that was played. Raises NotFound, Unprocessable."""
        item, session = self.find(item_id, "truncate"), self._session
        if item.kind != "output_audio":
            raise Unprocessable(f"item {item_id!r} has no output audio", details={"param": "item_id"})
        whole = item.playback.seconds
        if seconds > whole + SLACK:
            raise Unprocessable(
                f"only {whole * 1000:.0f} ms of the item were sent", code="invalid_value",
                details={"param": "audio_end_ms"},
            )  # fmt: skip
        text, answer, cancelled = item.playback.words_of_answer(seconds), item.answer, False
        if answer is not None and session.answer is answer:
            session.report_playback(seconds)
            cancelled = await session.cancel()
        if seconds < whole and not cancelled and answer is not None and answer.number is not None:
            await session.truncate(answer, text)
        item.text = text

    async def _amend_history(self, deleted: Item) -> None:
        number = deleted.exchange
        held = next((e for e in self._session.conversation_state.exchanges if e.number == number), None)
        if held is None or number is None:
            return
        left = [item for item in self._items.values() if item.exchange == number]
        user_text = " ".join(item.text or "" for item in left if item.role == "user")
        answers = [item.text or "" for item in left if item.role == "assistant"]
        # What is stored may be less than the text of an item: only what was played.
        assistant_text = " ".join(answers) if deleted.role == "assistant" else held.answered if answers else ""
        if user_text or assistant_text:
            await self._session.context.amend(number, assistant_text, user_text)
        else:
            await self._session.context.remove(number)
