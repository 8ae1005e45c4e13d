"""Runs the turn of a response of `/v1/responses`, and keeps the response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace

from chatapi.appliance import Appliance
from chatapi.errors import EngineFailed, Unprocessable
from chatapi.events import ToolCall, Transcript, TurnEnded
from chatapi.interfaces.http.openai import response_request
from chatapi.interfaces.http.openai.parameter_parsing import renamed
from chatapi.interfaces.http.openai.response_document import ResponseDocument, StreamEvent
from chatapi.interfaces.http.openai.response_input_items import input_items
from chatapi.interfaces.http.openai.response_request import ParsedResponseRequest
from chatapi.services.turns.chat_completion import ChatMessage
from chatapi.services.turns.item_conversations import ItemConversations
from chatapi.services.turns.response_history import ResponseHistory, StoredResponse


class ResponseRun:
    """One response, as it is generated."""

    def __init__(self, appliance: Appliance, history: ResponseHistory, request: ParsedResponseRequest) -> None:
        self.growing = ResponseDocument(request)
        self.begun = False
        """Whether its first events were given out."""
        self._chat = appliance.chat
        self._conversations = ItemConversations(appliance.conversations)
        self._history = history
        self._request = request
        self._transcripts: list[str] = []

    async def run(self, emit: Callable[[Iterable[StreamEvent]], Awaitable[None]]) -> None:
        """Generates the response; `emit` gets the events of its stream, and must exhaust them."""
        with renamed({"messages": "input", "response_format": "text.format"}):
            async with AsyncExitStack() as stack:
                if self._request.conversation is not None:
                    await stack.enter_async_context(self._conversations.continued(self._request.conversation))
                async for event in await stack.enter_async_context(self._chat.run(self._request.turn)):
                    if isinstance(event, Transcript):
                        self._transcripts.append(event.text)
                        continue
                    if not self.begun:
                        self.begun = True
                        await emit(self.growing.begin())
                    await emit(self.growing.add(event))
                # Nothing is kept of a response that failed.
                await self._keep()
                await emit([self.growing.completed()])

    async def _keep(self) -> None:
        exchange = self.exchange
        if self._request.body.store:
            await self._history.add(exchange)
        if self._request.conversation is not None:
            items = [*input_items(exchange), *exchange.document["output"]]
            await self._conversations.append(self._request.conversation, items)

    @property
    def exchange(self) -> StoredResponse:
        """The response and what was asked, once it is complete."""
        document = self.growing.document
        calls = tuple(
            ToolCall(item["call_id"], item["name"], item["arguments"])
            for item in document["output"]
            if item["type"] == "function_call"
        )
        asked = response_request.with_transcripts(self._request.asked, self._transcripts)
        answered = (ChatMessage("assistant", (self.growing.text,), calls),)
        return StoredResponse(self.growing.id, self._request.body.previous_response_id, asked, answered, document)


async def prompt_tokens(appliance: Appliance, request: ParsedResponseRequest) -> int:
    """The tokens of the prompt of a request, as the model counts them, also of one that its context cannot hold.

    Runs the prompt with an answer of one token, so that the prompt cache has it for the response that follows.
    """
    turn = replace(request.turn, max_tokens=1)
    with renamed({"messages": "input", "response_format": "text.format"}):
        try:
            async with appliance.chat.run(turn) as events:
                async for event in events:
                    if isinstance(event, TurnEnded):
                        return event.prompt_tokens
        except Unprocessable as error:
            needed = error.details.get("needed_tokens")
            if error.code != "context_length_exceeded" or not isinstance(needed, int):
                raise
            return needed - 1
    raise EngineFailed("the language model did not count the tokens of the prompt")
