"""Server events as OpenAI's beta of the Realtime API names and shapes them, for clients that ask for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.websockets import WebSocket

from chatapi.interfaces.http.realtime.event_channel import EventChannel
from chatapi.interfaces.http.realtime.field_aliases import PLACES

HEADER, VALUE = "openai-beta", "realtime=v1"
"""Header by which a client asks for the beta."""
SUBPROTOCOL = "openai-beta.realtime-v1"
"""Subprotocol by which a browser asks for it."""
KINDS = {
    "conversation.item.added": "conversation.item.created",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
}
"""Type of an event now -> its type in the beta; the others had the same."""
NEW = frozenset(["conversation.item.done"])
"""Types of events that the beta did not have."""
PARTS = {"output_text": "text", "output_audio": "audio"}
"""Type of a part of an answer now -> its type in the beta."""
FORMAT_NAMES = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
"""Name of a format now -> its name in the beta."""
MODALITIES = {"audio": ["audio", "text"], "text": ["text"]}
"""Output now -> the modalities of the beta."""
MOVED = frozenset(["type", *(path[0] for path in PLACES.values())])
"""Fields of a session now that the beta has elsewhere, or not at all."""
IN_TRANSCRIPTION = ("input_audio_", "turn_detection")
"""Beginnings of the fields that the audio of a session without answers has."""


def wanted(websocket: WebSocket) -> bool:
    """Whether the client asks for the events of the beta."""
    return VALUE in websocket.headers.get(HEADER, "") or SUBPROTOCOL in websocket.scope["subprotocols"]


class BetaChannel:
    """Carries events to and from a client of the beta, whose own events are accepted from every client."""

    def __init__(self, channel: EventChannel) -> None:
        self._channel = channel

    async def receive(self) -> str | None:
        return await self._channel.receive()

    async def send(self, text: str) -> None:
        event = translated(json.loads(text))
        if event is not None:
            await self._channel.send(json.dumps(event))


def translated(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """A server event in the beta's form; None: the beta has no such event."""
    kind = event["type"]
    if kind in NEW:
        return None
    found = {name: INSIDE[name](value) if name in INSIDE else value for name, value in event.items()}
    found["type"] = KINDS.get(kind, kind)
    if kind in ("session.created", "session.updated") and event["session"].get("type") == "transcription":
        found["type"] = f"transcription_{kind}"
    return found


def session(document: Mapping[str, Any]) -> dict[str, Any]:
    """A session in the beta's form."""
    fields = {name: value for name, value in document.items() if name not in MOVED}
    transcribes = document.get("type") == "transcription"
    for name, path in PLACES.items():
        value: Any = document
        for step in path:
            value = value.get(step, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT and (not transcribes or name.startswith(IN_TRANSCRIPTION)):
            fields[name] = _in_beta(name, value)
    return fields


_ABSENT = object()


def _in_beta(name: str, value: Any) -> Any:
    if name.endswith("audio_format"):
        return FORMAT_NAMES[value["type"]]
    if name == "modalities":
        return MODALITIES[value[0]]
    return value["id"] if name == "voice" and isinstance(value, Mapping) else value


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(content := item.get("content"), list):
        return dict(item)
    return {**item, "content": [_part(part) for part in content]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    return {**part, "type": PARTS.get(part["type"], part["type"])}


def _response(response: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in response.items() if name not in ("audio", "output_modalities")}
    output = response["audio"]["output"]
    return {
        **fields,
        "output": [_item(item) for item in response["output"]],
        "modalities": MODALITIES[response["output_modalities"][0]],
        "voice": output["voice"],
        "output_audio_format": FORMAT_NAMES[output["format"]["type"]],
    }


INSIDE: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "session": session, "item": _item, "part": _part, "response": _response,
}  # fmt: skip
"""Field of an event -> what puts it into the beta's form."""
