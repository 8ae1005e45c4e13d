"""`/v1/conversations`: conversations of items, which responses continue; OpenAI's agents keep their sessions there."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from chatapi.appliance import Appliance
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openai import conversation_items, response_input_items
from chatapi.interfaces.http.openai.chat_parameters import reject_unsupported_parts
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import M, RequestObject, parse_object
from chatapi.interfaces.http.openai.parameter_table import CONVERSATIONS
from chatapi.interfaces.http.openai.response_input_items import InputItems, Order
from chatapi.interfaces.http.openai.response_items import Item
from chatapi.interfaces.http.openai_aliases import Metadata
from chatapi.services.turns.item_conversations import ItemConversation, ItemConversations

Items = Annotated[list[Item], Field(max_length=1000)]
JSON_ERRORS = error_responses(400, 404, 408, 413, 415, 503)


def _without_further(schema: dict[str, Any]) -> None:
    schema.pop("additionalProperties", None)


class ConversationRequest(RequestObject):
    """A new conversation."""

    items: Items = Field(default_factory=list)
    """Its first items: messages, function calls and their results."""
    metadata: Metadata = Field(default_factory=dict)
    """Labels, which are returned with the conversation."""


class LabelRequest(RequestObject):
    """Changes of a conversation."""

    metadata: Metadata
    """The labels that replace its present ones."""


class ItemsRequest(RequestObject):
    """Items for a conversation."""

    items: Items
    """The items, which are added at its end."""


class ConversationObject(BaseModel):
    """A conversation in OpenAI's format."""

    id: str
    object: str = "conversation"
    created_at: int
    """Creation time, in seconds since 1970."""
    metadata: dict[str, str]

    @classmethod
    def of(cls, found: ItemConversation) -> ConversationObject:
        return cls(id=found.id, created_at=found.created_at, metadata=dict(found.metadata))


class ConversationItem(BaseModel):
    """An item of a conversation, with the members of its type."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_without_further)

    id: str
    type: str
    """message, function_call, function_call_output or reasoning."""


class DeletedConversation(BaseModel):
    """The confirmation that a conversation was deleted."""

    id: str
    object: str = "conversation.deleted"
    deleted: bool = True


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes, conversations = APIRouter(prefix="/v1/conversations"), ItemConversations(appliance.conversations)

    @routes.post(
        "",
        summary="Create a conversation that responses continue",
        responses=JSON_ERRORS,
        openapi_extra=openapi.json_body(ConversationRequest),
    )
    async def create(request: Request) -> ConversationObject:
        body = await _read(request, ConversationRequest, "metadata or items")
        name = conversations.new_id()
        items = conversation_items.documents(body.items, ())
        return ConversationObject.of(await conversations.create(name, body.metadata, items))

    @routes.get("/{conversation}", summary="A conversation of responses", responses=error_responses(404, 503))
    async def retrieve(conversation: str) -> ConversationObject:
        return ConversationObject.of(await conversations.get(conversation))

    @routes.post(
        "/{conversation}",
        summary="Label a conversation",
        responses=JSON_ERRORS,
        openapi_extra=openapi.json_body(LabelRequest),
    )
    async def update(request: Request, conversation: str) -> ConversationObject:
        body = await _read(request, LabelRequest, "metadata")
        return ConversationObject.of(await conversations.label(conversation, body.metadata))

    @routes.delete("/{conversation}", summary="Delete a conversation of responses", responses=error_responses(404, 503))
    async def delete(conversation: str) -> DeletedConversation:
        await conversations.remove(conversation)
        return DeletedConversation(id=conversation)

    _add_item_routes(routes, conversations)
    return routes


def _add_item_routes(routes: APIRouter, conversations: ItemConversations) -> None:
    @routes.post(
        "/{conversation}/items",
        summary="Add items to a conversation",
        responses=JSON_ERRORS,
        openapi_extra=openapi.json_body(ItemsRequest),
    )
    async def add(request: Request, conversation: str) -> InputItems:
        body = await _read(request, ItemsRequest, "items")
        known = {item["id"] for item in (await conversations.get(conversation)).items}
        items = conversation_items.documents(body.items, known)
        await conversations.add(conversation, items)
        return response_input_items.page_of(items, None, len(items), "asc")

    @routes.get("/{conversation}/items", summary="Items of a conversation", responses=error_responses(400, 404, 503))
    async def items(
        conversation: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Order = "desc",
    ) -> InputItems:
        return response_input_items.page_of((await conversations.get(conversation)).items, after, limit, order)

    @routes.get(
        "/{conversation}/items/{item}", summary="An item of a conversation", responses=error_responses(404, 503)
    )
    async def item(conversation: str, item: str) -> ConversationItem:
        return ConversationItem(**(await conversations.get(conversation)).find(item))

    @routes.delete(
        "/{conversation}/items/{item}", summary="Delete an item of a conversation", responses=error_responses(404, 503)
    )
    async def remove(conversation: str, item: str) -> ConversationObject:
        return ConversationObject.of(await conversations.remove_item(conversation, item))


async def _read(request: Request, kind: type[M], expected: str) -> M:
    """The body of a request. Raises CallerError with the invalid `param` in its details."""
    return await json_body(request, expected, partial(_parse, kind, IgnoredParameters.of(request)))


def _parse(kind: type[M], ignored: IgnoredParameters, values: dict[str, Any]) -> M:
    check_plain(values)
    reject_unsupported_parts(values.get("items"), "items")
    return parse_object(kind, values, CONVERSATIONS, ignored)
