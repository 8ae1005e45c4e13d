"""The items of a conversation as a Realtime client sees them, and what changing them changes in the conversation."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chatapi.errors import BadInput, NotFound, TooLarge, Unprocessable
from chatapi.events import ToolCall
from chatapi.interfaces.http.realtime.client_events import Create, FunctionCallItem, FunctionOutputItem, MessageItem
from chatapi.services.live import LiveSession
from chatapi.services.live.answer import Answer
from chatapi.services.live.playback import PlaybackPosition

MOST = 1000
"""Items a client may name; older ones are still part of the conversation."""
MOST_CHARS = 1_000_000
"""Characters of all items and of what is to be answered: more fits no model's context, and all are kept in memory."""
SLACK = 0.1
"""Seconds by which a client may count more sound than was sent: it rounds, and its player works in blocks."""
KINDS = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


def new_id(kind: str) -> str:
    """An id as OpenAI's look."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(eq=False)
class Item:
    """A message of the conversation, unless it is a CallItem."""

    role: str
    kind: str
    """input_text, input_audio, output_text or output_audio; function_call or function_call_output."""
    text: str | None = None
    """What is written, or what was said; None: not known yet."""
    id: str = field(default_factory=lambda: new_id("item"))
    status: str = "completed"
    answer: Answer | None = None
    """The answer it is, or to which it led."""
    number: int | None = None
    """Of its exchange in the history, when it came without an answer of ours."""
    playback: PlaybackPosition = field(default_factory=PlaybackPosition)

    @property
    def exchange(self) -> int | None:
        return self.answer.number if self.answer is not None else self.number

    @property
    def size(self) -> int:
        """Characters it holds."""
        return len(self.text or "")

    @property
    def part(self) -> dict[str, Any]:
        """Its content. Sound itself is not kept."""
        return {"type": self.kind, "transcript" if self.kind.endswith("audio") else "text": self.text}

    def document(self, empty: bool = False) -> dict[str, Any]:
        """As it is sent; `empty`: before it has any content."""
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [] if empty else [self.part],
        }


@dataclass(eq=False)
class CallItem(Item):
    """A function that is to be called, or with `output` what it gave."""

    call: ToolCall = field(kw_only=True)
    output: str | None = None

    @property
    def size(self) -> int:
        return len(self.call.arguments) + len(self.output or "")

    def document(self, empty: bool = False) -> dict[str, Any]:
        document = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        if self.output is not None:
            return {**document, "call_id": self.call.id, "output": self.output}
        arguments = "" if empty else self.call.arguments
        return {**document, "call_id": self.call.id, "name": self.call.name, "arguments": arguments}


class ConversationItems:
    """All items, oldest first."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self._items: dict[str, Item] = {}

    def add(self, item: Item) -> str | None:
        """Put it at the end; tells the id of the one before."""
        before = next(reversed(self._items), None)
        self._items[item.id] = item
        while len(self._items) > MOST:
            self._items.pop(next(iter(self._items)))
        return before

    def drop(self, item: Item) -> None:
        """It never was."""
        self._items.pop(item.id, None)

    def find(self, item_id: str) -> Item:
        """Raises NotFound (item_not_found)."""
        if (item := self._items.get(item_id)) is None:
            raise NotFound(f"there is no item {item_id!r}", code="item_not_found")
        return item

    def unanswered(self) -> Iterator[Item]:
        """What the next answer answers."""
        return (item for item in self._items.values() if item.role == "user" and item.exchange is None
                and item.answer is None)  # fmt: skip

    def answered(self, answer: Answer | None) -> Item | None:
        """The last thing said aloud that led to an answer."""
        spoken = (i for i in reversed(self._items.values()) if i.kind == "input_audio" and i.answer is answer)
        return next(spoken, None) if answer is not None else None

    @property
    def system(self) -> list[str]:
        """What system items say."""
        return [item.text or "" for item in self._items.values() if item.role == "system"]

    async def create(self, event: Create) -> tuple[Item, str | None]:
        """The new item and the id of the one before. Raises Unprocessable."""
        item, last = made(event.item), next(reversed(self._items), "root")
        if item.id in self._items:
            raise Unprocessable(f"there is an item {item.id!r} already", details={"param": "item.id"})
        if event.previous_item_id not in (None, last):
            raise Unprocessable(
                "items can only be added at the end; leave previous_item_id out", details={"param": "previous_item_id"}
            )
        self._check_room(item)
        if isinstance(item, CallItem):
            self._give(item)
        elif item.role == "user":
            self._session.pending.append(item.text or "")
        elif item.role == "assistant":
            asked = list(self.unanswered())
            asked_for = " ".join(self._session.pending)
            item.number = await self._session.context.add(self._session.options.system, asked_for, item.text or "")
            self._session.pending.clear()
            for other in asked:
                other.number = item.number
        return item, self.add(item)

    def _check_room(self, item: Item) -> None:
        """Raises TooLarge (conversation_too_large)."""
        held = sum(each.size for each in self._items.values()) + sum(map(len, self._session.pending))
        if held + item.size > MOST_CHARS:
            raise TooLarge(
                f"the items of the conversation have {held} characters, and {MOST_CHARS} are taken; delete some",
                code="conversation_too_large",
                details={"limit_chars": MOST_CHARS},
            )

    def _give(self, item: CallItem) -> None:
        if item.output is None:
            self._session.tools.add_calls([item.call])
        else:
            self._session.tools.add_result(item.call.id, item.output)

    async def delete(self, item_id: str) -> None:
        """Take it out of the conversation. Raises NotFound."""
        item = self.find(item_id)
        if item.role == "assistant" and item.status == "in_progress" and item.answer is not None:
            await self._session.cancel(item.answer)
        self.drop(item)
        if isinstance(item, CallItem):
            self._session.tools.remove(item.call.id)
            self._session.context.remove_tool_result(item.call.id)
        elif item.exchange is not None:
            await self._amend(item)
        elif item.role == "user" and item.text in self._session.pending:
            self._session.pending.remove(item.text)

    async def truncate(self, item_id: str, seconds: float) -> None:
        """Only so much of it was heard. Raises NotFound, Unprocessable."""
        item, session = self.find(item_id), self._session
        if item.kind != "output_audio":
            raise Unprocessable(f"{item_id!r} is nothing that was spoken here", details={"param": "item_id"})
        whole = item.playback.seconds
        if seconds > whole + SLACK:
            raise Unprocessable(
                f"only {whole * 1000:.0f} ms of the item were sent", code="invalid_value",
                details={"param": "audio_end_ms"},
            )  # fmt: skip
        words, answer, given_up = item.playback.words(seconds), item.answer, False
        if answer is not None and session.answer is answer:
            session.report_playback(seconds)
            given_up = await session.cancel()
        if seconds < whole and not given_up and answer is not None and answer.number is not None:
            await session.truncate(answer, words)
        item.text = words

    async def _amend(self, gone: Item) -> None:
        number = gone.exchange
        held = next((e for e in self._session.conversation_state.exchanges if e.number == number), None)
        if held is None or number is None:
            return
        left = [item for item in self._items.values() if item.exchange == number]
        asked = " ".join(item.text or "" for item in left if item.role == "user")
        answered = held.answered if any(item.role == "assistant" for item in left) else ""
        if asked or answered:
            await self._session.context.amend(number, answered, asked)
        else:
            await self._session.context.remove(number)


def made(message: MessageItem | FunctionCallItem | FunctionOutputItem) -> Item:
    """The item a client describes. Raises BadInput, Unprocessable."""
    item_id = message.id or new_id("item")
    if isinstance(message, FunctionCallItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, message.name, message.arguments))
    if isinstance(message, FunctionOutputItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, "", ""), output=message.output)
    kind = KINDS[message.role]
    if any(content.type != kind for content in message.content):
        raise Unprocessable(f"a {message.role} item holds {kind} here", details={"param": "item.content"})
    text = "\n".join(content.text for content in message.content).strip()
    if not text:
        raise BadInput("the item has no text", code="empty_item")
    return Item(message.role, kind, text, item_id)
