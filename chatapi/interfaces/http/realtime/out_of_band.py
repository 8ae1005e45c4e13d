"""Out-of-band responses: they are not part of the conversation, and live turns have priority."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from anyio.abc import TaskGroup, TaskStatus

from chatapi.errors import Busy, ChatapiError
from chatapi.events import Event, Speech, TextDelta, TextWithdrawn, ToolCalls, TurnEnded
from chatapi.interfaces.http.realtime import item_documents
from chatapi.interfaces.http.realtime.client_items import ItemReference, ResponseInput
from chatapi.interfaces.http.realtime.response import RealtimeResponse
from chatapi.interfaces.http.realtime.session_config import ResponseConfig
from chatapi.services.live import LiveSession, SessionOptions
from chatapi.services.live.conversation_item import Item
from chatapi.services.live.item_prompt import out_of_band_prompt
from chatapi.services.turns.chat_completion import ChatCompletions, ChatMessage, ChatTurn

MOST = 8
"""Most concurrent out-of-band responses of one connection."""


class OutOfBandResponses:
    """The out-of-band responses of one connection, each on a task of its own."""

    def __init__(self, chat: ChatCompletions, conversation: LiveSession, group: TaskGroup) -> None:
        self._chat = chat
        self._conversation = conversation
        self._group = group
        self._active: dict[str, tuple[RealtimeResponse, anyio.CancelScope]] = {}

    async def start(self, response: RealtimeResponse, request: ResponseConfig, options: SessionOptions) -> None:
        """Starts a response and waits until it has started. Raises its error, or Busy (too_many_responses)."""
        if len(self._active) >= MOST:
            raise Busy(f"{MOST} out-of-band responses are in progress, which is the limit",
                       code="too_many_responses", retry_after=1)  # fmt: skip
        turn = ChatTurn(
            tuple(self._messages(request, options)), options.speak, options.voice, max_tokens=options.max_tokens,
            temperature=options.temperature, sampling=options.sampling, speed=options.speed,
            reads_aloud=options.reads_aloud,
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
                elif isinstance(event, TextWithdrawn):
                    response.withdraw_text()
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
        items = None if request.input is None else [self._item(each) for each in request.input]
        return out_of_band_prompt(self._conversation, items, options.system, request.instructions)

    def _item(self, source: ResponseInput) -> Item:
        if isinstance(source, ItemReference):
            return self._conversation.items.find(source.id)
        return item_documents.parse(source)
