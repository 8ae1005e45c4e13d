"""Cheap clients: HTTP with keep-alive, WebSocket, Wyoming and raw bytes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fuzz.inputs import Input, wyoming

STALL = 30.0
"""Seconds without a byte after which a client counts as hung."""
MAX_BODY = 1 << 16
"""Bytes of an answer that are kept for the judge."""
HANDSHAKE = (
    b"GET /v1/realtime?model=default HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZnV6emZ1enpmdXp6ZnV6eg==\r\n\r\n"
)


@dataclass
class Outcome:
    """The result of sending an input."""

    end: str = "none"
    """whole, cut (truncated), none (closed without a byte), hang, disconnected (by the client)."""
    status: int = 0
    """The HTTP status; of a WebSocket, that of the handshake."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    close: int = 0
    """The close code of a WebSocket; 0 if it was not closed."""
    seconds: float = 0.0

    @property
    def code(self) -> str:
        """The stable code of an error; empty if there is none."""
        found = re.search(rb'"code": ?"([a-z0-9_]+)"', self.body)
        return found[1].decode() if found else ""


class ConnectionLost(Exception):
    """The connection ended."""


class Client:
    """A client that sends one input at a time."""

    def __init__(self, port: int, wyoming_port: int, stall: float = STALL) -> None:
        self._stall = stall
        self._port, self._wyoming = port, wyoming_port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.sending: Input | None = None
        self.since = time.monotonic()
        """When the last byte was received."""
        self._hung = False
        self._senders: dict[str, Callable[[Input], Awaitable[Outcome]]] = {
            "http": self._http,
            "bytes": self._bytes,
            "websocket": self._websocket,
            "wyoming": self._wyoming_events,
        }

    async def send(self, given: Input) -> Outcome:
        """Sends an input; returns the result."""
        self.sending, self.since, self._hung = given, time.monotonic(), False
        started = self.since
        try:
            outcome = await self._senders[given.kind](given)
        except (ConnectionLost, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            outcome = Outcome("none")
            self.close()
        if self._hung:
            outcome.end = "hang"
        outcome.seconds = time.monotonic() - started
        self.sending = None
        return outcome

    def check(self) -> None:
        """Closes the connection after a stall; called periodically."""
        if self.sending is not None and time.monotonic() - self.since > self._stall:
            self._hung = True
            self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    def set_ports(self, port: int, wyoming_port: int) -> None:
        """Sets the ports of a restarted server."""
        self._port, self._wyoming = port, wyoming_port

    async def _open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.close()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        return self._reader, self._writer

    # HTTP

    async def _http(self, given: Input) -> Outcome:
        fresh = self._writer is None or self._reader is None or self._reader.at_eof() or self._writer.is_closing()
        if fresh:
            await self._open(self._port)
        outcome = await self._exchange(given)
        if outcome.end == "none" and not fresh and not self._hung:
            # The server may close an idle connection at any time; a new one must be answered.
            await self._open(self._port)
            outcome = await self._exchange(given)
        return outcome

    async def _exchange(self, given: Input) -> Outcome:
        reader, writer = self._streams()
        # Does not drain: the answer may come before everything is sent.
        writer.write(given.frames[0])
        try:
            outcome = await self._head(reader)
        except (ConnectionLost, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.close()
            return Outcome("none")
        try:
            await self._body(reader, outcome, given)
        except (ConnectionLost, OSError, asyncio.IncompleteReadError, ValueError):
            outcome.end = "cut"
        if outcome.end != "whole" or outcome.headers.get("connection") == "close":
            self.close()
        return outcome

    def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            raise ConnectionLost
        return self._reader, self._writer

    async def _head(self, reader: asyncio.StreamReader) -> Outcome:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.since = time.monotonic()
        words = head[0].split(" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            raise ConnectionLost
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        return Outcome("cut", int(words[1]), headers)

    async def _body(self, reader: asyncio.StreamReader, outcome: Outcome, given: Input) -> None:
        if given.frames[0].startswith(b"HEAD ") or outcome.status in (204, 304):
            outcome.end = "whole"
        elif outcome.headers.get("transfer-encoding") == "chunked":
            await self._chunks(reader, outcome, given)
        elif "content-length" in outcome.headers:
            await self._read_bytes(reader, outcome, int(outcome.headers["content-length"]))
            outcome.end = "whole"
        else:
            while data := await reader.read(MAX_BODY):
                self._record(outcome, data)
            outcome.end = "whole"

    async def _chunks(self, reader: asyncio.StreamReader, outcome: Outcome, given: Input) -> None:
        received = 0
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await self._read_bytes(reader, outcome, size)
            await reader.readexactly(2)
            received += size
            if 0 <= given.take < received:
                outcome.end = "disconnected"
                return
        await reader.readexactly(2)
        outcome.end = "whole"

    async def _read_bytes(self, reader: asyncio.StreamReader, outcome: Outcome, size: int) -> None:
        while size > 0:
            data = await reader.read(min(size, MAX_BODY))
            if not data:
                raise ConnectionLost
            size -= len(data)
            self._record(outcome, data)

    def _record(self, outcome: Outcome, data: bytes) -> None:
        self.since = time.monotonic()
        if len(outcome.body) < MAX_BODY:
            outcome.body += data[: MAX_BODY - len(outcome.body)]

    # Raw bytes, on a new connection

    async def _bytes(self, given: Input) -> Outcome:
        """Sends the bytes, reads for a while, and disconnects."""
        reader, writer = await self._open(self._port)
        writer.write(given.frames[0])
        outcome = Outcome("none")
        try:
            async with _timeout(0.0 if given.take == 0 else 5.0 if given.whole else 0.25):
                outcome = await self._head(reader)
                await self._body(reader, outcome, given)
        except asyncio.TimeoutError:
            outcome.end = "disconnected"
        except (ConnectionLost, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            outcome.end = "cut" if outcome.status else "none"
        self.close()
        return outcome

    # Realtime

    async def _websocket(self, given: Input) -> Outcome:
        """Sends every event, then one whose answer shows that all events before it were processed."""
        reader, writer = await self._open(self._port)
        writer.write(HANDSHAKE)
        outcome = await self._head(reader)
        if outcome.status != 101:
            await self._body(reader, outcome, given)
            self.close()
            return outcome
        for each in given.frames:
            writer.write(frame(each))
        last = {"type": "conversation.item.retrieve", "event_id": "the-last", "item_id": "no-script-has-this"}
        writer.write(frame(json.dumps(last).encode()))
        try:
            while True:
                kind, data = await self._frame(reader)
                if kind == 8:
                    outcome.end, outcome.close = "whole", int.from_bytes(data[:2], "big") or 1005
                    break
                self._record_events(outcome, data)
                if b'"the-last"' in data:
                    outcome.end = "whole"
                    writer.write(frame(b"\x03\xe8", 8))
                    break
        except (ConnectionLost, OSError, asyncio.IncompleteReadError):
            outcome.end, outcome.close = "cut", 1006
        self.close()
        return outcome

    def _record_events(self, outcome: Outcome, data: bytes) -> None:
        self.since = time.monotonic()
        if b'"error"' in data[:60] or b'"response.done"' in data[:60]:
            self._record(outcome, data + b"\n")

    async def _frame(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        first, size = await reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await reader.readexactly(8), "big")
        return first & 15, await reader.readexactly(size)

    # Wyoming

    async def _wyoming_events(self, given: Input) -> Outcome:
        """Sends every event, then `describe`: its answer, or an error, shows that all events were processed."""
        reader, writer = await self._open(self._wyoming)
        for each in given.frames:
            writer.write(each)
        writer.write(wyoming("describe"))
        outcome = Outcome("none")
        try:
            async with _timeout(2 * self._stall if given.whole else 0.25):
                while line := await reader.readline():
                    self._record(outcome, line)
                    header = json.loads(line)
                    rest = header.get("data_length", 0) + header.get("payload_length", 0)
                    outcome.body += (await reader.readexactly(rest))[:MAX_BODY] if header["type"] == "error" else b""
                    if header["type"] != "error":
                        await self._skip(reader, rest)
                    if header["type"] in ("info", "error"):
                        outcome.end = "whole"
                        break
        except asyncio.TimeoutError:
            outcome.end = "hang" if given.whole else "disconnected"
        except (ConnectionLost, OSError, asyncio.IncompleteReadError, ValueError):
            outcome.end = "cut"
        self.close()
        return outcome

    async def _skip(self, reader: asyncio.StreamReader, size: int) -> None:
        while size > 0:
            data = await reader.read(min(size, MAX_BODY))
            if not data:
                raise ConnectionLost
            size -= len(data)
            self.since = time.monotonic()


class _timeout:  # noqa: N801 - used as a statement
    """`asyncio.timeout`, which Python 3.10 does not have."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def expire() -> None:
            self._expired = True
            task.cancel()

        self._handle = asyncio.get_running_loop().call_later(self._seconds, expire)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handle.cancel()
        if self._expired and kind is asyncio.CancelledError:
            raise asyncio.TimeoutError


def frame(data: bytes, kind: int = 1) -> bytes:
    """A frame as clients send it. The mask is zero, so that it costs nothing."""
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | kind]) + length + bytes(4) + data
