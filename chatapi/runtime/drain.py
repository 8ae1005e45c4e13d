"""Graceful shutdown: work in progress may finish for a while, and then ends with an error that says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from chatapi.errors import NotReady

FINISH_SECONDS = 4.0
"""Time in which answers in progress may finish at a shutdown, in seconds."""
ERROR_SECONDS = 1.0
"""Time for the errors of those that have not finished to be sent, in seconds."""


def shutting_down() -> NotReady:
    """The error for what a shutdown interrupts."""
    return NotReady("chatapi is shutting down; send the request again when it runs", code="shutting_down")


class Drain:
    """Ends the work of interfaces at a shutdown. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._lasting: set[anyio.CancelScope] = set()
        self._finishing: set[anyio.CancelScope] = set()
        self._begun = self._ended = False
        self._open = 0
        self._closed = anyio.Event()
        """Set when the last counted connection has ended."""

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Work that does not end by itself, such as a session: it ends when the shutdown begins.

        Raises NotReady (shutting_down) then.
        """
        with self._until(self._lasting, self._begun):
            yield

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Work that ends by itself, such as an answer: it has FINISH_SECONDS at a shutdown.

        Raises NotReady (shutting_down) when these have passed.
        """
        with self._until(self._finishing, self._ended):
            yield

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Inside the context the shutdown waits, until its time has passed, so that an error can be sent."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._closed.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside the context the server shuts down."""
        self._begun = True
        _cancel(self._lasting)
        timer = asyncio.get_running_loop().call_later(FINISH_SECONDS, self._end)
        try:
            yield
        finally:
            timer.cancel()
            self._end()

    async def until_closed(self) -> None:
        """Wait until no connection is counted."""
        self._closed = anyio.Event()
        if self._open:
            await self._closed.wait()

    def _end(self) -> None:
        self._ended = True
        _cancel(self._finishing)

    @contextmanager
    def _until(self, scopes: set[anyio.CancelScope], over: bool) -> Iterator[None]:
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            if over:
                scope.cancel()
            try:
                yield
            finally:
                scopes.discard(scope)
        if scope.cancelled_caught:
            raise shutting_down()


def _cancel(scopes: set[anyio.CancelScope]) -> None:
    for scope in tuple(scopes):
        scope.cancel()
