"""An answer's events, out of bytes as they come."""

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
    refused,
    stranger,
    text_of,
    understood,
)

LONGEST = 8 << 20
"""Bytes of one event; a sentence's sound takes about a tenth."""

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


class Events:
    """Takes bytes in whatever pieces they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._held = 0
        self.whole = False
        """Whether the last event has come."""

    def feed(self, piece: bytes) -> Iterator[Event]:
        """What is complete now. Raises ClientError: what the box says went wrong, or not_chatapi."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            event = self._take(understood(line.rstrip(b"\r").decode))
            if event is not None:
                self.whole = self.whole or isinstance(event, EndEvent)
                yield event
        if len(self._rest) + self._held > LONGEST:
            raise stranger(f"an event of more than {LONGEST} bytes")

    def close(self) -> None:
        """Nothing more comes. Raises ClientError (broken_off) where something is missing."""
        if not self.whole:
            raise broken_off("the answer ended before it was whole")

    def _take(self, line: str) -> Event | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
                self._held += len(value)
                if self._held > LONGEST:
                    raise stranger(f"an event of more than {LONGEST} bytes")
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data, self._held = "", [], 0
        if name == "error":
            raise refused(*understood(lambda: _failure(data)))
        # What a newer box may tell beside it is for newer clients.
        return understood(lambda: READERS[name](json.loads(data))) if name in READERS else None


def _failure(data: str) -> tuple[int, Mapping[str, str], bytes]:
    return int(json.loads(data)["status"]), {}, data.encode()
