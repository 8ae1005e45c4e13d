"""A request to an upstream server that can be cancelled while the server is silent, and its response as server-sent
events."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from chatapi.engines import Stop
from chatapi.errors import EngineFailed

POLL_SECONDS = 0.1
"""Seconds between polls of `stop` while the server is silent."""
EVENT_BYTES = 1 << 20
"""Most bytes of an event."""
LONGEST_PAUSE = 3600.0
"""Most seconds of a Retry-After header that are passed on."""
BODY_BYTES = 1 << 20
"""Most bytes that are read of a response that is not a stream."""


@dataclass(frozen=True)
class ResponseHead:
    """Status and headers of a response."""

    status: int
    kind: str
    """Its media type."""
    retry_after: float | None

    @classmethod
    def of(cls, response: httpx.Response) -> ResponseHead:
        stated = response.headers.get("retry-after", "")
        return cls(response.status_code, response.headers.get("content-type", ""), _seconds(stated))


class UpstreamRequest:
    """One request and its response, read on its own thread so that it can be cancelled while the server is silent."""

    def __init__(self, client: httpx.Client, request: httpx.Request, name: str) -> None:
        """`name`: the name of the thread."""
        self._blocks: queue.Queue[ResponseHead | bytes | Exception | None] = queue.Queue(64)
        self._ended = False
        self._socket: socket.socket | None = None
        self._cancelled = threading.Event()
        self._timeout = float(request.extensions["timeout"]["read"])
        self._last_event = time.monotonic()
        request.extensions["trace"] = self._trace
        self._thread = threading.Thread(target=self._read, args=(client, request), name=name, daemon=True)
        self._thread.start()

    def blocks(self, stop: Stop) -> Iterator[ResponseHead | bytes]:
        """The head, then the body as it arrives; ends early once `stop` is true. Raises what reading raised."""
        while not self._ended:
            try:
                item = self._blocks.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if stop():
                    return
                item = b""
            if item is None:
                self._ended = True
            elif isinstance(item, httpx.HTTPError):
                raise item
            elif isinstance(item, Exception):
                raise EngineFailed("the request could not be sent; the log says why") from item
            # Comments keep the connection open and are no events.
            elif time.monotonic() - self._last_event > self._timeout:
                raise httpx.ReadTimeout("no events")
            elif item:
                yield item

    def restart_timeout(self) -> None:
        """Restarts the read timeout after an event."""
        self._last_event = time.monotonic()

    def cancel(self) -> None:
        """Closes the connection, which tells the server to stop, and waits for the thread."""
        self._cancelled.set()
        self._shut_down()
        while not self._ended:
            self._ended = self._blocks.get() is None
        self._thread.join()

    def _shut_down(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                """The socket was closed already."""

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Keeps the socket as soon as it is open: closing a response does not wake the thread that reads it."""
        if name in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._cancelled.is_set():
                self._shut_down()

    def _read(self, client: httpx.Client, request: httpx.Request) -> None:
        try:
            response = client.send(request, stream=True)
            try:
                self._blocks.put(ResponseHead.of(response))
                for block in response.iter_bytes():
                    self._blocks.put(block)
            finally:
                response.close()
        except Exception as error:
            self._blocks.put(error)
        finally:
            self._blocks.put(None)


def events(blocks: Iterator[ResponseHead | bytes]) -> Iterator[str]:
    """The data of server-sent events. Only line feeds end a line: JSON may contain other separators."""
    data: list[str] = []
    for line in _lines(blocks):
        field, _, value = line.partition(":")
        if field in ("data", "error"):
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _lines(blocks: Iterator[ResponseHead | bytes]) -> Iterator[str]:
    rest = b""
    for block in blocks:
        if isinstance(block, bytes):
            *whole, rest = (rest + block).split(b"\n")
            if len(rest) > EVENT_BYTES:
                raise EngineFailed(f"the chat server sent an event longer than {EVENT_BYTES} bytes")
            for line in whole:
                yield line.removesuffix(b"\r").decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def beginning(blocks: Iterator[ResponseHead | bytes]) -> str:
    """The beginning of a body that is not a stream."""
    body = b""
    for block in blocks:
        if isinstance(block, bytes) and len(body) < BODY_BYTES:
            body += block
    return body.decode(errors="replace")


def _seconds(retry_after: str) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None: it has no plausible value."""
    if retry_after.isdecimal():
        return min(float(retry_after), LONGEST_PAUSE)
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    # A date is useless on a machine whose clock was never set, or is ahead.
    return max(0.0, seconds) if seconds <= LONGEST_PAUSE else None
