"""Wyoming's framing without I/O: bytes to events, and events to bytes.

An event is a line of JSON (`type`, and the lengths of what follows: `data_length`, `payload_length`), then JSON data,
then a payload. Every part has a size limit and is rejected before it is read when it is larger.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatapi.errors import BadInput, TooLarge
from chatapi.interfaces.json_bounds import DEEPEST, check_values, too_deep, whole_number

VERSION = "1.10.2"
"""Version of the protocol's library, as it stands in events."""
HEADER = 64 << 10
"""Largest header, in bytes; older peers put the data into it."""
TYPE = 100
"""Longest event type, in characters."""

MOST_VALUES = 10_000
"""Most commas and brackets in an event's JSON."""
LARGE = 64 << 10
"""Data size in bytes from which an event is parsed on a thread, so that other connections do not wait."""

LEAST, MEMORY_RATIO = 512, 8
"""Memory of the smallest event, in bytes, and the largest ratio of memory to JSON size."""


@dataclass(frozen=True)
class WyomingEvent:
    """One event of the protocol."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    weight: int = field(default=0, compare=False)
    """Memory of a received event, in bytes, rounded up."""


@dataclass(frozen=True)
class Bounds:
    """Largest data and payload of an event, in bytes."""

    data: int
    payload: int


class Framing:
    """The parser of one direction of a connection. After an error the rest of the stream cannot be parsed."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._buffer = bytearray()
        self._searched = 0
        """Bytes that were searched for an end of line."""
        self._header: _Header | None = None

    @property
    def partial(self) -> bool:
        """Whether the buffer has an incomplete event."""
        return bool(self._buffer) or self._header is not None

    @property
    def size(self) -> int:
        """Size of the buffer, in bytes."""
        return len(self._buffer)

    @property
    def heavy(self) -> bool:
        """Whether parsing the next event takes long."""
        return self._header is not None and self._header.data_length > LARGE

    def feed(self, data: bytes) -> None:
        """Adds received bytes. Take every event before more bytes, so that at most one event is buffered."""
        self._buffer += data

    def take(self) -> WyomingEvent | None:
        """The next event; None while it is incomplete. Raises BadInput (bad_event), TooLarge (event_too_large)."""
        if self._header is None:
            line = self._line()
            if line is None:
                return None
            self._header = _Header.of(line, self._bounds)
        header = self._header
        if len(self._buffer) < header.data_length + header.payload_length:
            return None
        data = dict(header.data)
        if header.data_length:
            data.update(_object(bytes(self._buffer[: header.data_length]), "data"))
        end = header.data_length + header.payload_length
        payload = bytes(self._buffer[header.data_length : end])
        del self._buffer[:end]
        self._header = None
        return WyomingEvent(
            header.type, data, payload, header.weight + MEMORY_RATIO * header.data_length + len(payload)
        )

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._searched)
        if end > HEADER or (end < 0 and len(self._buffer) > HEADER):
            raise TooLarge(
                f"the header has more than {HEADER} bytes; an event is a line of JSON; longer content belongs in "
                "its data or payload",
                code="event_too_large",
                details={"limit_bytes": HEADER},
            )
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


@dataclass(frozen=True)
class _Header:
    type: str
    data: Mapping[str, Any]
    weight: int
    data_length: int
    payload_length: int

    @classmethod
    def of(cls, line: bytes, bounds: Bounds) -> _Header:
        header = _object(line, "header")
        kind = header.get("type")
        if not isinstance(kind, str) or not 0 < len(kind) <= TYPE:
            raise BadInput(f"an event's type must be text of 1 to {TYPE} characters", code="bad_event")
        data = header.get("data")
        if data is not None and not isinstance(data, dict):
            raise BadInput(f"the data of {kind!r} is not a JSON object", code="bad_event")
        return cls(
            kind,
            data or {},
            LEAST + MEMORY_RATIO * len(line),
            _length(header, "data_length", bounds.data),
            _length(header, "payload_length", bounds.payload),
        )


def _length(header: Mapping[str, Any], name: str, most: int) -> int:
    length = header.get(name)
    if length is None:
        return 0
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise BadInput(f"{name} is not a number of bytes", code="bad_event")
    if length > most:
        raise TooLarge(
            f"{name} is {length}; at most {most} bytes are allowed",
            code="event_too_large",
            details={"limit_bytes": most},
        )
    return length


def _object(text: bytes, what: str) -> dict[str, Any]:
    check_values(text, MOST_VALUES, "event_too_large")
    try:
        found = json.loads(
            text.decode("utf-8"), parse_constant=_reject_constant, parse_float=_finite, parse_int=whole_number
        )
    except (ValueError, RecursionError):
        raise BadInput(f"the {what} of the event is not JSON in UTF-8", code="bad_event") from None
    if not isinstance(found, dict):
        raise BadInput(f"the {what} of the event is not a JSON object", code="bad_event")
    if too_deep(found):
        raise BadInput(f"the {what} of the event is nested more than {DEEPEST} levels deep", code="bad_event")
    return found


def _reject_constant(constant: str) -> None:
    """Rejects NaN and infinities, which Python parses but JSON does not have."""
    raise ValueError(constant)


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(text)
    return number


def encoded(event: WyomingEvent) -> bytes:
    """The event as bytes for the wire."""
    header: dict[str, Any] = {"type": event.type, "version": VERSION}
    data = json.dumps(event.data, allow_nan=False).encode() if event.data else b""
    if data:
        header["data_length"] = len(data)
    if event.payload:
        header["payload_length"] = len(event.payload)
    return b"".join((json.dumps(header).encode(), b"\n", data, event.payload))
