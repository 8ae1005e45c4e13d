"""Conversation items of a live session, and how changes of them change the conversation history."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatapi.errors import NotFound, TooLarge, Unprocessable
from chatapi.events import ToolCall
from chatapi.services.live.answer import Answer
from chatapi.services.live.playback import PlaybackPosition

if TYPE_CHECKING:
    from chatapi.services.live.session import LiveSession

MOST = 1000
"""Most items that a client may refer to; older ones are still part of the conversation."""
MOST_CHARS = 1_000_000
"""Most characters of all items and pending messages: more fits no model's context, and all are kept in memory."""
SLACK = 0.1
"""Tolerance for a client's playback position beyond the sent audio, in seconds: clients round, and play blocks."""


def new_id(kind: str) -> str:
    """A new id, such as item_ and twenty hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(eq=False)
class Item:
    """An item of the conversation: a message, or as a CallItem a tool call."""

    role: str
    """user, assistant or system; empty for a tool call."""
    kind: str
    """input_text, input_audio, output_text or output_audio; function_call or function_call_output."""
    text: str | None = None
    """Text or transcript; None while it is not known yet."""
    id: str = field(default_factory=lambda: new_id("item"))
    status: str = "completed"
    answer: Answer | None = None
    """The answer that it is, or that responds to it."""
    number: int | None = None
    """Number of its turn in the history, when the client created it."""
    playback: PlaybackPosition = field(default_factory=PlaybackPosition)

    @property
    def exchange(self) -> int | None:
        return self.answer.number if self.answer is not None else self.number

    @property
    def size(self) -> int:
        """Its size, in characters."""
        return len(self.text or "")


@dataclass(eq=False)
class CallItem(Item):
    """A tool call, or with `output` its result."""

    call: ToolCall = field(kw_only=True)
    output: str | None = None

    @property
    def size(self) -> int:
        return len(self.call.arguments) + len(self.output or "")


class ConversationItems:
    """All items of a session, the oldest first."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self._items: dict[str, Item] = {}

    def add(self, item: Item) -> str | None:
        """Appends an item and returns the id of the previous one."""
        before = next(reversed(self._items), None)
        self._items[item.id] = item
        while len(self._items) > MOST:
            self._items.pop(next(iter(self._items)))
        return before

    def remove(self, item: Item) -> None:
        """Removes an item without a change of the history."""
        self._items.pop(item.id, None)

    def find(self, item_id: str) -> Item:
        """The item of that id. Raises NotFound (item_not_found)."""
        if (item := self._items.get(item_id)) is None:
            raise NotFound(f"item {item_id!r} does not exist", code="item_not_found")
        return item

    def unanswered(self) -> Iterator[Item]:
        """User items without a response; a withdrawn answer is none."""
        return (
            item
            for item in self._items.values()
            if item.role == "user" and item.number is None and (item.answer is None or item.answer.withdrawn)
        )

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

        `previous`: id of the item after which it is added, which must be the last one, or "root"; None: the last one.
        Raises Unprocessable, TooLarge (conversation_too_large), and NotFound for the result of an unknown tool call.
        """
        last = next(reversed(self._items), "root")
        if item.id in self._items:
            raise Unprocessable(f"item {item.id!r} exists already", details={"param": "item.id"})
        if previous not in (None, last):
            raise Unprocessable(
                "items can only be added at the end; omit previous_item_id", details={"param": "previous_item_id"}
            )
        self._check_room(item)
        if isinstance(item, CallItem):
            self._add_call(item)
        elif item.role == "user":
            self._session.pending.append(item.text or "")
        elif item.role == "assistant":
            pending_items = list(self.unanswered())
            prompt = " ".join(self._session.pending)
            item.number = await self._session.context.add(self._session.system, prompt, item.text or "")
            self._session.pending.clear()
            for other in pending_items:
                other.number = item.number
        before = self.add(item)
        if item.role == "system":
            self._session.prefill()
        return before

    def _check_room(self, item: Item) -> None:
        """Raises TooLarge (conversation_too_large) when the items have too many characters."""
        held = sum(each.size for each in self._items.values()) + sum(map(len, self._session.pending))
        if held + item.size > MOST_CHARS:
            raise TooLarge(
                f"the items of the conversation have {held} characters; at most {MOST_CHARS} are allowed: delete some",
                code="conversation_too_large",
                details={"limit_chars": MOST_CHARS},
            )

    def _add_call(self, item: CallItem) -> None:
        if item.output is None:
            self._session.tools.add_calls([item.call])
        else:
            self._session.tools.add_result(item.call.id, item.output)

    async def delete(self, item_id: str) -> None:
        """Deletes an item from the conversation. Raises NotFound."""
        item = self.find(item_id)
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
        item, session = self.find(item_id), self._session
        if item.kind != "output_audio":
            raise Unprocessable(f"item {item_id!r} has no output audio", details={"param": "item_id"})
        whole = item.playback.seconds
        if seconds > whole + SLACK:
            raise Unprocessable(
                f"only {whole * 1000:.0f} ms of the item were sent", code="invalid_value",
                details={"param": "audio_end_ms"},
            )  # fmt: skip
        text, answer, cancelled = item.playback.words(seconds), item.answer, False
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
        assistant_text = held.answered if any(item.role == "assistant" for item in left) else ""
        if user_text or assistant_text:
            await self._session.context.amend(number, assistant_text, user_text)
        else:
            await self._session.context.remove(number)
