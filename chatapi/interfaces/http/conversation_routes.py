"""The routes of stored conversations: the list, their messages, their titles, and their deletion."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from chatapi.appliance import Appliance
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.json_body import json_body
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.interfaces.http.validation import validated

LARGEST_NUMBER = 2**63 - 1
"""Largest exchange number that SQLite can hold."""


class ConversationMessage(ResponseModel):
    """A message of a stored conversation."""

    role: Literal["user", "assistant"]
    text: str


class ConversationModel(ResponseModel):
    """A stored conversation; turns without text, such as tool calls, are left out."""

    id: str
    messages: list[ConversationMessage]


class ConversationSummaryModel(ResponseModel):
    """A conversation in the list."""

    id: str
    title: str
    """As a user named it, else the start of its first message."""
    used: float
    """Last use, in seconds since 1970."""
    exchanges: int
    """Number of requests with their answers."""


class ConversationListModel(ResponseModel):
    """The conversations, the one used last at the start."""

    conversations: list[ConversationSummaryModel]
    next: int | None
    """Value of `before` for the next page; null: there is none."""


class ConversationTitleModel(BaseModel):
    """The title of a conversation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    title: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
    """What lists show; empty: the start of the first message."""


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_list(routes, appliance)
    _add_conversation(routes, appliance)
    return routes


def _add_list(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/conversations",
        summary="The stored conversations, the one used last at the start; a key lists those that it began",
        response_model=ConversationListModel,
        responses=problems(422, 503, 507),
    )
    async def conversations(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        search: Annotated[
            str, Query(max_length=200, description="Text in the title or in a message; case does not matter.")
        ] = "",
        before: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="`next` of the page before.")] = 0,
    ) -> dict[str, Any]:
        found = await appliance.conversations.listed(search.strip(), before, limit + 1)
        shown = [
            {"id": each.id, "title": each.title, "used": each.used, "exchanges": each.exchanges}
            for each in found[:limit]
        ]
        return {"conversations": shown, "next": found[limit - 1].latest if len(found) > limit else None}


def _add_conversation(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/conversations/{conversation}",
        summary="Messages of a conversation",
        response_model=ConversationModel,
        responses=problems(404, 503, 507),
    )
    async def conversation(conversation: str) -> dict[str, Any]:
        conversation_state = await appliance.conversations.recall(conversation, everything=True)
        messages = []
        for exchange in conversation_state.exchanges:
            messages += [{"role": "user", "text": exchange.asked}, {"role": "assistant", "text": exchange.answered}]
        # A turn with a tool call may have no text.
        return {"id": conversation_state.id, "messages": [message for message in messages if message["text"]]}

    @routes.patch(
        "/conversations/{conversation}",
        summary="Rename a conversation",
        status_code=204,
        responses=problems(400, 404, 408, 413, 415, 422, 503, 507),
        openapi_extra=openapi.json_body(ConversationTitleModel),
    )
    async def rename(request: Request, conversation: str) -> None:
        wanted = await json_body(request, "a title", partial(validated, ConversationTitleModel))
        await appliance.conversations.rename(conversation, wanted.title.strip())

    @routes.delete(
        "/conversations/{conversation}",
        summary="Delete a conversation",
        status_code=204,
        responses=problems(404, 503, 507),
    )
    async def forget(conversation: str) -> None:
        await appliance.conversations.remove(conversation)
