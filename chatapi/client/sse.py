"""A parser of server-sent events: an answer's events from chunks of bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chatapi.client.wire import (
    DeltaEvent,
    EndEvent,
    Event,
    SpeechEvent,
    StartEvent,
    TranscriptEvent,
    TranscriptionProgress,
    broken_off,
    completion_of,
    error_response,
    not_chatapi,
    parsed,
    text_of,
)

LONGEST = 8 << 20
"""Largest size of an event, in bytes; the audio of a sentence takes about a tenth."""

READERS: dict[str, Callable[[Mapping[str, Any]], Event]] = {
    "start": lambda data: StartEvent(text_of(data["conversation"])),
    "transcript": lambda data: TranscriptEvent(
        text_of(data["text"]), bool(data["final"]), float(data["start"]), float(data["end"]), text_of(data["language"])
    ),
    "delta": lambda data: DeltaEvent(text_of(data["text"])),
    "speech": lambda data: SpeechEvent(
        base64.b64decode(data["audio"], validate=True), int(data["rate"]), text_of(data["text"])
    ),
    "progress": lambda data: TranscriptionProgress(float(data["done"]), float(data["total"])),
    "end": lambda data: EndEvent(completion_of(data)),
}


class EventParser:
    """Parses events from chunks of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._held = 0
        self.complete = False
        """Whether the last event has arrived."""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that are complete now. Raises ClientError: the server's error, or not_chatapi."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._parse_line(parsed(line.rstrip(b"\r").decode))
            if event is not None:
                self.complete = self.complete or isinstance(event, EndEvent)
                yield event
        if len(self._rest) + self._held > LONGEST:
            raise not_chatapi(f"an event of more than {LONGEST} bytes")

    def close(self) -> None:
        """End the stream. Raises ClientError (broken_off) when it is not complete."""
        if not self.complete:
            raise broken_off("the answer ended before it was complete")

    def _parse_line(self, line: str) -> Event | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
                self._held += len(value)
                if self._held > LONGEST:
                    raise not_chatapi(f"an event of more than {LONGEST} bytes")
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data, self._held = "", [], 0
        if name == "error":
            raise error_response(*parsed(lambda: _error(data)))
        # Events of newer servers are ignored.
        return parsed(lambda: READERS[name](json.loads(data))) if name in READERS else None


def _error(data: str) -> tuple[int, Mapping[str, str], bytes]:
    return int(json.loads(data)["status"]), {}, data.encode()
