"""Out-of-band responses: they are not part of the conversation, and live turns have priority."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup, TaskStatus

from chatapi.errors import BadInput, Busy, ChatapiError
from chatapi.events import Event, Speech, TextDelta, ToolCalls, TurnEnded
from chatapi.interfaces.http.realtime.client_events import ItemReference, ResponseConfig, ResponseInput
from chatapi.interfaces.http.realtime.items import CallItem, ConversationItems, Item, item_from
from chatapi.interfaces.http.realtime.response import RealtimeResponse
from chatapi.services.live import LiveSession, SessionOptions
from chatapi.services.turns.chat_completion import ChatCompletions, ChatMessage, ChatTurn

MOST = 8
"""Most concurrent out-of-band responses of one connection."""


class OutOfBandResponses:
    """The out-of-band responses of one connection, each on a task of its own."""

    def __init__(
        self, chat: ChatCompletions, conversation: LiveSession, items: ConversationItems, group: TaskGroup
    ) -> None:
        self._chat = chat
        self._conversation = conversation
        self._items = items
        self._group = group
        self._active: dict[str, tuple[RealtimeResponse, anyio.CancelScope]] = {}

    async def start(self, response: RealtimeResponse, request: ResponseConfig, options: SessionOptions) -> None:
        """Starts a response and waits until it has started. Raises its error, or Busy (too_many_responses)."""
        if len(self._active) >= MOST:
            raise Busy(f"{MOST} out-of-band responses are in progress, which is the limit",
                       code="too_many_responses", retry_after=1)  # fmt: skip
        turn = ChatTurn(
            tuple(self._messages(request, options)), options.speak, options.voice, max_tokens=options.max_tokens,
            sampling=options.sampling, speed=options.speed,
        )  # fmt: skip
        try:
            await self._group.start(self._run, response, turn)
        except ChatapiError as error:
            if str(error.details.get("param", "")).startswith("messages"):
                error.details["param"] = "response.input"
            raise

    def cancel(self, response_id: str) -> bool:
        """Cancels a response; returns whether it was in progress."""
        if response_id not in self._active:
            return False
        response, scope = self._active[response_id]
        response.reason = "client_cancelled"
        scope.cancel()
        return True

    async def _run(self, response: RealtimeResponse, turn: ChatTurn, *, task_status: TaskStatus[None]) -> None:
        with anyio.CancelScope() as scope:
            async with self._chat.run(turn) as events:
                self._active[response.id] = (response, scope)
                try:
                    await response.start(None)
                    task_status.started()
                    await self._handle_events(response, events)
                finally:
                    del self._active[response.id]
        if scope.cancelled_caught:
            await response.finish_cancelled()

    async def _handle_events(self, response: RealtimeResponse, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                if isinstance(event, TextDelta):
                    await response.add_text(event)
                elif isinstance(event, Speech):
                    await response.add_speech(event)
                elif isinstance(event, ToolCalls):
                    response.add_tool_calls(event)
                elif isinstance(event, TurnEnded):
                    await response.finish(event)
        except ChatapiError as error:
            response.error = error
            await response.finish(TurnEnded("", "failed"))

    def _messages(self, request: ResponseConfig, options: SessionOptions) -> list[ChatMessage]:
        """The prompt: its input, or the conversation. Raises BadInput, NotFound, Unprocessable."""
        history = self._conversation.prompt_messages()
        default_instructions = "".join(message.text for message in history if message.role == "system")
        items = [self._item(each) for each in request.input or ()]
        if request.input is not None:
            messages = _merged(self._message(item) for item in items if item.role != "system")
        else:
            messages = [
                ChatMessage(each.role, (each.text,), each.calls, each.call) for each in history if each.role != "system"
            ]
        if messages and messages[-1].role in ("user", "tool"):
            instructions = default_instructions if options.system is None else options.system
        elif request.instructions:
            # A model follows the last message.
            instructions = default_instructions
            messages.append(ChatMessage("user", (request.instructions,)))
        else:
            raise BadInput(
                "there is nothing to respond to; send `instructions` or `input`",
                code="nothing_to_answer",
                details={"param": "response.instructions"},
            )
        # In one message: some chat templates (Mistral's) reject a second system message.
        system = "\n\n".join(filter(None, [instructions, *(item.text for item in items if item.role == "system")]))
        return [ChatMessage("system", (system,)), *messages] if system else messages

    def _item(self, source: ResponseInput) -> Item:
        return self._items.find(source.id) if isinstance(source, ItemReference) else item_from(source)

    def _message(self, item: Item) -> ChatMessage:
        if not isinstance(item, CallItem):
            return ChatMessage(item.role, (item.text or "",))
        if item.output is None:
            return ChatMessage("assistant", (), (item.call,))
        return ChatMessage("tool", (item.output,), tool_call_id=item.call.id)


def _merged(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """Merges tool calls into the preceding assistant message, as models were trained."""
    merged: list[ChatMessage] = []
    for message in messages:
        if message.tool_calls and merged and merged[-1].role == "assistant":
            before = merged.pop()
            merged.append(replace(before, tool_calls=before.tool_calls + message.tool_calls))
        else:
            merged.append(message)
    return merged
