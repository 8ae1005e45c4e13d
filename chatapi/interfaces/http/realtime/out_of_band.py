"""Responses outside of the conversation: nothing of them is remembered, and whoever speaks meanwhile goes first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup, TaskStatus

from chatapi.errors import BadInput, Busy, ChatapiError
from chatapi.events import Event, Speech, TextDelta, ToolCalls, TurnEnded
from chatapi.interfaces.http.realtime.client_events import Given, Reference, ResponseConfig
from chatapi.interfaces.http.realtime.items import CallItem, ConversationItems, Item, made
from chatapi.interfaces.http.realtime.response import RealtimeResponse
from chatapi.services.live import LiveSession, SessionOptions
from chatapi.services.turns.chat_completion import ChatCompletions, ChatMessage, ChatTurn

MOST = 8
"""Of one connection at once."""


class OutOfBandResponses:
    """Those of one connection, each on a task of its own."""

    def __init__(
        self, chat: ChatCompletions, conversation: LiveSession, dialogue: ConversationItems, group: TaskGroup
    ) -> None:
        self._chat = chat
        self._conversation = conversation
        self._dialogue = dialogue
        self._group = group
        self._going: dict[str, tuple[RealtimeResponse, anyio.CancelScope]] = {}

    async def begin(self, reply: RealtimeResponse, wanted: ResponseConfig, options: SessionOptions) -> None:
        """Until it has begun. Raises what is wrong with it, and Busy (too_many_responses)."""
        if len(self._going) >= MOST:
            raise Busy(f"{MOST} responses outside of the conversation are going on, which is all there may be",
                       code="too_many_responses", retry_after=1)  # fmt: skip
        turn = ChatTurn(
            tuple(self._messages(wanted, options)), options.speak, options.voice, max_tokens=options.max_tokens,
            sampling=options.sampling, speed=options.speed,
        )  # fmt: skip
        try:
            await self._group.start(self._run, reply, turn)
        except ChatapiError as error:
            if str(error.details.get("param", "")).startswith("messages"):
                error.details["param"] = "response.input"
            raise

    def cancel(self, response_id: str) -> bool:
        """Whether it was going on."""
        if response_id not in self._going:
            return False
        reply, scope = self._going[response_id]
        reply.reason = "client_cancelled"
        scope.cancel()
        return True

    async def _run(self, reply: RealtimeResponse, turn: ChatTurn, *, task_status: TaskStatus[None]) -> None:
        with anyio.CancelScope() as scope:
            async with self._chat.take(turn) as events:
                self._going[reply.id] = (reply, scope)
                try:
                    await reply.begin(None)
                    task_status.started()
                    await self._follow(reply, events)
                finally:
                    del self._going[reply.id]
        if scope.cancelled_caught:
            await reply.cancelled()

    async def _follow(self, reply: RealtimeResponse, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                if isinstance(event, TextDelta):
                    await reply.text(event)
                elif isinstance(event, Speech):
                    await reply.speech(event)
                elif isinstance(event, ToolCalls):
                    reply.called(event)
                elif isinstance(event, TurnEnded):
                    await reply.ended(event)
        except ChatapiError as error:
            reply.error = error
            await reply.ended(TurnEnded("", "failed"))

    def _messages(self, wanted: ResponseConfig, options: SessionOptions) -> list[ChatMessage]:
        """What it answers: what was given, or the conversation as it is. Raises BadInput, NotFound, Unprocessable."""
        told = self._conversation.prompt_messages()
        usual = "".join(message.text for message in told if message.role == "system")
        items = [self._item(given) for given in wanted.input or ()]
        if wanted.input is not None:
            said = _merged(self._said(item) for item in items if item.role != "system")
        else:
            said = [
                ChatMessage(each.role, (each.text,), each.calls, each.call) for each in told if each.role != "system"
            ]
        if said and said[-1].role in ("user", "tool"):
            instructions = usual if options.system is None else options.system
        elif wanted.instructions:
            # A model goes by what comes last.
            instructions = usual
            said.append(ChatMessage("user", (wanted.instructions,)))
        else:
            raise BadInput(
                "nothing waits for an answer; say in `instructions` or `input` what is wanted",
                code="nothing_to_answer",
                details={"param": "response.instructions"},
            )
        # In one: templates (Mistral's) refuse a second one.
        system = "\n\n".join(filter(None, [instructions, *(item.text for item in items if item.role == "system")]))
        return [ChatMessage("system", (system,)), *said] if system else said

    def _item(self, given: Given) -> Item:
        return self._dialogue.find(given.id) if isinstance(given, Reference) else made(given)

    def _said(self, item: Item) -> ChatMessage:
        if not isinstance(item, CallItem):
            return ChatMessage(item.role, (item.text or "",))
        if item.output is None:
            return ChatMessage("assistant", (), (item.call,))
        return ChatMessage("tool", (item.output,), call=item.call.id)


def _merged(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """Calls stand in one message with what was said before them, as models were taught."""
    found: list[ChatMessage] = []
    for message in messages:
        if message.calls and found and found[-1].role == "assistant":
            before = found.pop()
            found.append(replace(before, calls=before.calls + message.calls))
        else:
            found.append(message)
    return found
