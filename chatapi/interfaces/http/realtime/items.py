"""Conversation items of a Realtime session, and how changes of them change the conversation history."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chatapi.errors import BadInput, NotFound, TooLarge, Unprocessable
from chatapi.events import ToolCall
from chatapi.interfaces.http.realtime.client_events import FunctionCallItem, FunctionOutputItem, ItemCreate, MessageItem
from chatapi.services.live import LiveSession
from chatapi.services.live.answer import Answer
from chatapi.services.live.playback import PlaybackPosition

MOST = 1000
"""Most items that a client may refer to; older ones are still part of the conversation."""
MOST_CHARS = 1_000_000
"""Most characters of all items and pending messages: more fits no model's context, and all are kept in memory."""
SLACK = 0.1
"""Tolerance for a client's playback position beyond the sent audio, in seconds: clients round, and play blocks."""
KINDS = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


def new_id(kind: str) -> str:
    """A new id in OpenAI's format."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(eq=False)
class Item:
    """An item of the conversation: a message, or as a CallItem a tool call."""

    role: str
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

    @property
    def part(self) -> dict[str, Any]:
        """Its content part. Audio is not kept."""
        return {"type": self.kind, "transcript" if self.kind.endswith("audio") else "text": self.text}

    def document(self, empty: bool = False) -> dict[str, Any]:
        """The JSON object that is sent; `empty`: before it has content."""
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
    """A tool call, or with `output` its result."""

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
        """User items without a response."""
        return (item for item in self._items.values() if item.role == "user" and item.exchange is None
                and item.answer is None)  # fmt: skip

    def spoken_item(self, answer: Answer | None) -> Item | None:
        """The last spoken user item that the answer responds to."""
        spoken = (i for i in reversed(self._items.values()) if i.kind == "input_audio" and i.answer is answer)
        return next(spoken, None) if answer is not None else None

    @property
    def system(self) -> list[str]:
        """Texts of the system items."""
        return [item.text or "" for item in self._items.values() if item.role == "system"]

    async def create(self, event: ItemCreate) -> tuple[Item, str | None]:
        """Creates an item; returns it and the id of the previous one. Raises Unprocessable."""
        item, last = item_from(event.item), next(reversed(self._items), "root")
        if item.id in self._items:
            raise Unprocessable(f"item {item.id!r} exists already", details={"param": "item.id"})
        if event.previous_item_id not in (None, last):
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
            item.number = await self._session.context.add(self._session.options.system, prompt, item.text or "")
            self._session.pending.clear()
            for other in pending_items:
                other.number = item.number
        return item, self.add(item)

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


def item_from(message: MessageItem | FunctionCallItem | FunctionOutputItem) -> Item:
    """The item for a client's description. Raises BadInput, Unprocessable."""
    item_id = message.id or new_id("item")
    if isinstance(message, FunctionCallItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, message.name, message.arguments))
    if isinstance(message, FunctionOutputItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, "", ""), output=message.output)
    kind = KINDS[message.role]
    if any(content.type != kind for content in message.content):
        raise Unprocessable(f"the content of a {message.role} item must be {kind}", details={"param": "item.content"})
    text = "\n".join(content.text for content in message.content).strip()
    if not text:
        raise BadInput("the item has no text", code="empty_item")
    return Item(message.role, kind, text, item_id)
