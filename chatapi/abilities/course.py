"""A turn's course: let in by the gate, bounded in time, its stages noted and its end counted, told in events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.engines import Usage
from chatapi.errors import Busy, ChatapiError, Deadline, alone
from chatapi.events import Event, Ledger, TurnOver
from chatapi.gate import Gate, Priority
from chatapi.metrics import Metrics

AHEAD = 16
"""Events a turn may be ahead of its caller."""

Send = Callable[[Event], Awaitable[None]]


class Course:
    """One turn; `heard` and `speaks`: whether it is asked and answered by voice."""

    def __init__(
        self, gate: Gate, metrics: Metrics, seconds: float, heard: bool, speaks: bool, traceparent: str = ""
    ) -> None:
        """`traceparent`: the caller's trace, as W3C Trace Context writes it."""
        self.ledger = Ledger()
        self._gate = gate
        self._metrics = metrics
        self._seconds = seconds
        self._heard, self._speaks = heard, speaks
        self._begun = time.monotonic()
        self._usage = Usage()
        self._traceparent = traceparent
        self._error: Exception | None = None

    @asynccontextmanager
    async def taken(
        self, work: Callable[[Send], Awaitable[None]], priority: Priority
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events that `work`, once it is let in, sends; leaving the block stops it. They raise what it raised."""
        send, receive = anyio.create_memory_object_stream[Event](AHEAD)
        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(self._run, work, priority, send)
                try:
                    yield self._events(receive)
                finally:
                    group.cancel_scope.cancel()
        except Exception as error:
            if (one := alone(error)) is not error:
                raise one from None
            raise

    def mark(self, stage: str) -> None:
        """Note when a stage was first reached."""
        if getattr(self.ledger, stage) is None:
            self.ledger = replace(self.ledger, **{stage: time.monotonic() - self._begun})

    def count(self, usage: Usage) -> None:
        """The tokens of an answer that has ended."""
        self._usage = usage

    async def _events(self, receive: MemoryObjectReceiveStream[Event]) -> AsyncIterator[Event]:
        async for event in receive:
            yield event
        if self._error is not None:
            raise self._error

    async def _run(
        self, work: Callable[[Send], Awaitable[None]], priority: Priority, send: MemoryObjectSendStream[Event]
    ) -> None:
        """The whole turn; what fails is kept for whoever reads the events."""
        result = "left"
        async with send:
            try:
                with anyio.fail_after(self._seconds):
                    await self._admitted(work, priority, send.send)
                result = "ok"
            except TimeoutError:
                self._error = Deadline(f"the answer took longer than the {self._seconds:g} seconds a turn may take")
                result = self._error.code
            except Exception as error:
                self._error = one if isinstance(one := alone(error), Exception) else error
                result = self._error.code if isinstance(self._error, ChatapiError) else "internal_error"
            finally:
                self._metrics.turn(self._over(result))

    def _over(self, result: str) -> TurnOver:
        return TurnOver(
            kind="request",
            heard="voice" if self._heard else "text",
            reply="voice" if self._speaks else "text",
            result=result,
            since=self._begun,
            ledger=self.ledger,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            cached_tokens=self._usage.cached_tokens,
            traceparent=self._traceparent,
        )

    async def _admitted(self, work: Callable[[Send], Awaitable[None]], priority: Priority, send: Send) -> None:
        try:
            async with self._gate.admitted(priority):
                with self._metrics.active.track_inprogress():
                    self.mark("admitted")
                    await work(send)
        except Busy:
            self._metrics.refused.inc()
            raise
