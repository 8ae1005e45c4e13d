"""Wyoming's framing, without input and output: bytes in, events out, and the other way round.

An event is a line of JSON (`type`, and what follows it: `data_length`, `payload_length`), then so many bytes of JSON,
then so many of anything. Everything that comes has a bound, and what goes over it is refused before it is read.
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
"""Of the protocol's library, as its events state it."""
HEADER = 64 << 10
"""Most bytes of a header; older peers put the data into it."""
TYPE = 100
"""Most characters of a type."""

MOST_VALUES = 10_000
"""Commas and brackets of an event's JSON."""
LARGE = 64 << 10
"""Bytes of data from which an event is read on a thread, so that no other connection waits for it."""

LEAST, SWELLING = 512, 8
"""Bytes of the smallest event in memory, and how much larger than its JSON one may get."""


@dataclass(frozen=True)
class WyomingEvent:
    """What two peers say to each other."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    weight: int = field(default=0, compare=False)
    """Of one that has come: bytes it holds, rather too many."""


@dataclass(frozen=True)
class Bounds:
    """Most bytes of an event's parts."""

    data: int
    payload: int


class Framing:
    """One direction of a connection. Once something was wrong nothing more can be understood of it."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._buffer = bytearray()
        self._searched = 0
        """Bytes without an end of line."""
        self._header: _Header | None = None

    @property
    def partial(self) -> bool:
        """Whether an event has begun and is not complete."""
        return bool(self._buffer) or self._header is not None

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return len(self._buffer)

    @property
    def heavy(self) -> bool:
        """Whether the next event takes long to read."""
        return self._header is not None and self._header.data_length > LARGE

    def feed(self, data: bytes) -> None:
        """The next bytes; take every event before more is fed, so that no more than one is ever held."""
        self._buffer += data

    def take(self) -> WyomingEvent | None:
        """The next event, None while there is no whole one. Raises BadInput (bad_event), TooLarge (event_too_large)."""
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
        return WyomingEvent(header.type, data, payload, header.weight + SWELLING * header.data_length + len(payload))

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._searched)
        if end > HEADER or (end < 0 and len(self._buffer) > HEADER):
            raise TooLarge(
                f"the header has more than {HEADER} bytes; an event is a line of JSON, and what is longer goes into "
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
            raise BadInput(f"an event's type is text of 1 to {TYPE} characters", code="bad_event")
        data = header.get("data")
        if data is not None and not isinstance(data, dict):
            raise BadInput(f"the data of {kind!r} is no JSON object", code="bad_event")
        return cls(
            kind,
            data or {},
            LEAST + SWELLING * len(line),
            _length(header, "data_length", bounds.data),
            _length(header, "payload_length", bounds.payload),
        )


def _length(header: Mapping[str, Any], name: str, most: int) -> int:
    length = header.get(name)
    if length is None:
        return 0
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise BadInput(f"{name} is no number of bytes", code="bad_event")
    if length > most:
        raise TooLarge(
            f"{name} is {length}; at most {most} bytes are taken", code="event_too_large", details={"limit_bytes": most}
        )
    return length


def _object(text: bytes, what: str) -> dict[str, Any]:
    check_values(text, MOST_VALUES, "event_too_large")
    try:
        found = json.loads(text.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, parse_int=whole_number)
    except (ValueError, RecursionError):
        raise BadInput(f"the {what} of the event is no JSON in UTF-8", code="bad_event") from None
    if not isinstance(found, dict):
        raise BadInput(f"the {what} of the event is no JSON object", code="bad_event")
    if too_deep(found):
        raise BadInput(f"the {what} of the event is nested more than {DEEPEST} levels deep", code="bad_event")
    return found


def _refuse(constant: str) -> None:
    """NaN and its like, which Python reads and JSON has not."""
    raise ValueError(constant)


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(text)
    return number


def encoded(event: WyomingEvent) -> bytes:
    """The event as it goes over the wire."""
    header: dict[str, Any] = {"type": event.type, "version": VERSION}
    data = json.dumps(event.data, allow_nan=False).encode() if event.data else b""
    if data:
        header["data_length"] = len(data)
    if event.payload:
        header["payload_length"] = len(event.payload)
    return b"".join((json.dumps(header).encode(), b"\n", data, event.payload))
