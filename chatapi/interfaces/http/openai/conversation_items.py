"""The items of a conversation of `/v1/conversations`: as clients send them, as they are kept, and parsed again."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter

from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.interfaces.http.openai.response_items import InputMessage, InputReference, Item

KINDS = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
"""Type of an item -> start of its id."""
ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Ids of clients that are kept."""
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


def parsed(documents: Iterable[Mapping[str, Any]]) -> list[Item]:
    """The items of documents that were kept."""
    return _ITEMS.validate_python(list(documents))


def documents(items: Sequence[Item], known: Collection[str]) -> list[dict[str, Any]]:
    """What is kept of items, in OpenAI's format. `known`: ids that are in use.

    Raises Unprocessable for items that cannot be kept.
    """
    ids, found = set(known), []
    for at, item in enumerate(items):
        if isinstance(item, InputReference):
            message = f"items[{at}] is a reference; send the item itself"
            raise invalid_parameter(f"items[{at}].type", message, "unsupported_value")
        document = _plain(item)
        kind = document["type"]
        sent = item.id if isinstance(item.id, str) and ID.fullmatch(item.id) else ""
        name = f"{KINDS[kind]}_{secrets.token_hex(16)}" if not sent or sent in ids else sent
        if isinstance(item, InputMessage):
            document["content"] = _content(item, f"items[{at}]")
        if kind != "reasoning":
            document["status"] = document.get("status") or "completed"
        ids.add(name)
        found.append({**document, "id": name})
    return found


def _content(message: InputMessage, place: str) -> list[dict[str, Any]]:
    """The parts of a message. Raises Unprocessable for audio, which has no transcript yet."""
    kind = "output_text" if message.role == "assistant" else "input_text"
    if message.content is None or isinstance(message.content, str):
        return [{"type": kind, "text": message.content, **_marks(kind)}] if message.content else []
    parts = []
    for at, part in enumerate(message.content):
        plain = _plain(part)
        if plain["type"] == "input_audio":
            text = f"{place}.content[{at}] is audio, which responses transcribe; send it as input of /v1/responses"
            raise invalid_parameter(f"{place}.content[{at}].type", text, "unsupported_value")
        if "text" in plain:
            plain = {"type": kind, "text": plain["text"], **_marks(kind)}
        parts.append(plain)
    return parts


def _marks(kind: str) -> dict[str, Any]:
    """Members that clients expect beside the text of an answer."""
    return {"annotations": [], "logprobs": []} if kind == "output_text" else {}


def _plain(value: BaseModel) -> dict[str, Any]:
    """The known members of an item or a part that have a value."""
    known = set(type(value).model_fields)
    found = value.model_dump(include=known, exclude_none=True)
    found.setdefault("type", "message")
    if isinstance(output := found.get("output"), list):
        found["output"] = output
    return found
