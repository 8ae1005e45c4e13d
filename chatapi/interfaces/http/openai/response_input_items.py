"""The items that a stored response answers, in OpenAI's format, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.services.turns.chat_completion import ChatMessage
from chatapi.services.turns.response_history import PREFIX, StoredResponse

Order = Literal["asc", "desc"]


class InputItems(BaseModel):
    """One page of items."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(chain: Sequence[StoredResponse], after: str | None, limit: int, order: Order) -> InputItems:
    """A page of what the last response of the chain was given: the input of the chain and the answers in between.

    Raises Unprocessable for an `after` that is none of the items.
    """
    items = [item for each in chain[:-1] for item in (*input_items(each), *each.document["output"])]
    return page_of([*items, *input_items(chain[-1])], after, limit, order)


def page_of(items: Sequence[dict[str, Any]], after: str | None, limit: int, order: Order) -> InputItems:
    """A page of items, which are sorted from the oldest. Raises Unprocessable for an `after` that is none of them."""
    items = list(items)
    if order == "desc":
        items.reverse()
    if after is not None:
        places = [at for at, item in enumerate(items) if item["id"] == after]
        if not places:
            raise invalid_parameter("after", f"after is {after[:100]!r}, which is none of the items", "invalid_value")
        items = items[places[0] + 1 :]
    shown = items[:limit]
    return InputItems(
        data=shown,
        first_id=shown[0]["id"] if shown else None,
        last_id=shown[-1]["id"] if shown else None,
        has_more=len(items) > limit,
    )


def input_items(response: StoredResponse) -> list[dict[str, Any]]:
    """The input of one response. An item's id contains that of its response, as those of the output do."""
    found: list[dict[str, Any]] = []
    for message in response.asked:
        for item in _items_of(message):
            kind = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}[item["type"]]
            name = f"{kind}_{response.id.removeprefix(PREFIX)}_input{len(found)}"
            found.append({"id": name, "status": "completed", **item})
    return found


def _items_of(message: ChatMessage) -> Iterator[dict[str, Any]]:
    texts = [part for part in message.parts if isinstance(part, str)]
    if message.role == "tool":
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": "".join(texts)}
        return
    kind = "output_text" if message.role == "assistant" else "input_text"
    if content := [{"type": kind, "text": text} for text in texts if text]:
        yield {"type": "message", "role": message.role, "content": content}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
