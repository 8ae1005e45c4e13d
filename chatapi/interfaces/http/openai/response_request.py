"""Parses a request for a response into a `ChatTurn`, with the messages of the responses that it continues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request

from chatapi.appliance import Appliance
from chatapi.engines import Sampling, Tool
from chatapi.errors import NotFound, Unprocessable
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openai import conversation_items, response_items, response_parameters
from chatapi.interfaces.http.openai.chat_parameters import JsonFormat, only_allowed
from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.interfaces.http.openai.response_input_items import input_items
from chatapi.interfaces.http.openai.response_items import InputMessage, InputReference, Item
from chatapi.interfaces.http.openai.response_parameters import AllowedTools, FlatSchemaFormat, ResponsesRequest
from chatapi.interfaces.http.spooling import Spool
from chatapi.services.turns.chat_completion import ChatMessage, ChatTurn
from chatapi.services.turns.item_conversations import ItemConversation, ItemConversations
from chatapi.services.turns.response_history import PREFIX, ResponseHistory, StoredResponse

LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True)
class ParsedResponseRequest:
    """A parsed request."""

    body: ResponsesRequest
    turn: ChatTurn
    asked: tuple[ChatMessage, ...]
    """The messages of this request alone."""
    before: tuple[ChatMessage, ...]
    """The messages of the responses or of the conversation that it continues."""
    conversation: ItemConversation | None = None
    """The conversation that it continues, as it was read."""

    @property
    def logprobs(self) -> bool:
        """Whether the tokens' log-probabilities are wanted."""
        return self.turn.sampling.logprobs is not None


async def read(
    request: Request, appliance: Appliance, history: ResponseHistory, traceparent: str
) -> ParsedResponseRequest:
    """Parses a request. Raises CallerError with the invalid `param` in its details."""
    ignored = IgnoredParameters.of(request)
    body = await json_body(request, "input", partial(parse, ignored))
    return await complete(body, ignored, Spool.of(request), appliance, history, traceparent)


async def complete(
    body: ResponsesRequest,
    ignored: IgnoredParameters,
    spool: Spool,
    appliance: Appliance,
    history: ResponseHistory,
    traceparent: str,
) -> ParsedResponseRequest:
    """Adds what the parameters refer to. Raises CallerError with the invalid `param` in its details."""
    openai_aliases.model(appliance, "llm", body.model)
    conversation = await _conversation(body, appliance)
    items = await _resolved(_items(body), history, conversation)
    asked = response_items.messages(items, spool)
    if not asked and not (body.previous_response_id or body.conversation):
        raise invalid_parameter(
            "input", "input is missing; send a text or a list of items", "missing_required_parameter"
        )
    if conversation is not None:
        texts = [part for message in asked for part in message.parts if isinstance(part, str)]
        conversation.require_room(len(items), sum(map(len, texts)))
        before = response_items.messages(conversation_items.parsed(conversation.items), spool)
    else:
        before = await _before(body.previous_response_id, history)
    system = [ChatMessage("system", (body.instructions,))] if body.instructions else []
    sampling, dropped = appliance.chat.supported(_sampling(body))
    for name in dropped:
        ignored.add(name)
    schema = _schema_format(body)
    turn = ChatTurn(
        messages=(*system, *before, *asked),
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        sampling=sampling,
        fills_context=True,
        has_default_system=True,
        schema_description=schema.description or "" if schema is not None else "",
        traceparent=traceparent,
    )
    return ParsedResponseRequest(body, turn, tuple(asked), tuple(before), conversation)


def parse(ignored: IgnoredParameters, values: dict[str, object]) -> ResponsesRequest:
    """The parameters of a request; adds the names of those without an effect to `ignored`. Raises CallerError."""
    check_plain(values)
    body = response_parameters.parse_body(values, ignored)
    for name in body.include or ():
        if name != LOGPROBS:
            ignored.add(f"include.{name}")
    return body


def _items(body: ResponsesRequest) -> list[Item]:
    if isinstance(body.input, str):
        return [InputMessage(role="user", content=body.input)] if body.input else []
    return body.input


async def _conversation(body: ResponsesRequest, appliance: Appliance) -> ItemConversation | None:
    """The conversation that a request continues. Raises NotFound (conversation_not_found)."""
    if body.conversation_id is None:
        return None
    return await ItemConversations(appliance.conversations).get(body.conversation_id)


async def _before(previous: str | None, history: ResponseHistory) -> list[ChatMessage]:
    """The messages of the responses before."""
    if previous is None:
        return []
    try:
        chain = await history.chain(previous)
    except NotFound as error:
        param = "previous_response_id"
        raise Unprocessable(error.message, code="previous_response_not_found", details={"param": param}) from None
    if (conversation := chain[-1].document.get("conversation")) is not None:
        message = f"{previous} belongs to the conversation {conversation['id']}; send that as conversation"
        raise invalid_parameter("previous_response_id", message, "invalid_value")
    return [message for each in chain for message in (*each.asked, *each.answered)]


async def _resolved(items: list[Item], history: ResponseHistory, conversation: ItemConversation | None) -> list[Item]:
    """The items, with references replaced by what they refer to. Raises Unprocessable (item_not_found)."""
    known: dict[str, StoredResponse] = {}
    ids = {item["id"] for item in conversation.items} if conversation is not None else set()
    # What is in the conversation already is sent to the model once.
    found = [item for item in items if not (isinstance(item, InputReference) and item.id in ids)]
    for at, item in enumerate(found):
        if isinstance(item, InputReference):
            # The id of an item contains that of its response: msg_ID_NUMBER.
            response = PREFIX + "".join(item.id.split("_")[1:2])
            try:
                known[response] = known[response] if response in known else await history.get(response)
                found[at] = _stored_item(known[response], item.id)
            except (NotFound, LookupError):
                message = f"input[{at}] refers to the item {item.id!r}, which is not stored; send the item itself"
                raise invalid_parameter(f"input[{at}].id", message, "item_not_found") from None
    return found


def _stored_item(response: StoredResponse, item_id: str) -> Item:
    """The item of the response's input or output. Raises LookupError."""
    item = {item["id"]: item for item in (*input_items(response), *response.document["output"])}[item_id]
    return conversation_items.parsed([item])[0]


def _sampling(body: ResponsesRequest) -> Sampling:
    schema = _schema_format(body)
    form = body.text.format if body.text is not None else None
    wanted = LOGPROBS in (body.include or ()) or body.top_logprobs
    tools, choice = _tools(body)
    return Sampling(
        top_p=None if body.top_p == 1 else body.top_p,
        logprobs=(body.top_logprobs or 0) if wanted else None,
        schema=schema.schema_ if schema is not None else {"type": "object"} if isinstance(form, JsonFormat) else None,
        strict=schema is not None and bool(schema.strict),
        tools=tools,
        tool_choice=choice,
        parallel=body.parallel_tool_calls,
    )


def _schema_format(body: ResponsesRequest) -> FlatSchemaFormat | None:
    form = body.text.format if body.text is not None else None
    return form if isinstance(form, FlatSchemaFormat) else None


def _tools(body: ResponsesRequest) -> tuple[tuple[Tool, ...], str]:
    """The tools that the model may call, and the choice among them."""
    tools, choice = tuple(each.tool for each in body.tools or ()), body.tool_choice
    if isinstance(choice, AllowedTools):
        return only_allowed(tools, [each.name for each in choice.tools]), choice.mode
    if choice is None or isinstance(choice, str):
        return tools, choice or ("auto" if tools else "none")
    return tools, f":{choice.name}"


def with_transcripts(messages: tuple[ChatMessage, ...], transcripts: list[str]) -> tuple[ChatMessage, ...]:
    """The messages, with each audio file replaced by its transcript, in order."""
    left = iter(transcripts)
    return tuple(
        replace(each, parts=tuple(part if isinstance(part, str) else next(left, "") for part in each.parts))
        for each in messages
    )
