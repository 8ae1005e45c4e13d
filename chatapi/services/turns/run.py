"""A turn's course: let in by the gate, bounded in time, its stages noted and its end counted, told as it goes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.engines import TokenUsage
from chatapi.errors import Busy, ChatapiError, DeadlineExceeded, collapse_exception_group
from chatapi.events import Event, TurnRecord, TurnTimings
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority

AHEAD = 16
"""What a turn may have told before its caller reads it, in items."""

T = TypeVar("T")
Tell = Callable[[T], Awaitable[None]]
Send = Tell[Event]


class ClientDisconnected(Exception):
    """Raised by what a caller gives a turn while it lasts, its sound or its text: nobody wants the turn any more."""


@dataclass(frozen=True)
class TurnLimits:
    """What is known of a turn before it is let in."""

    seconds: float
    """How long it may take, its waiting included."""
    voice_input: bool
    """Whether it is asked by voice."""
    speaks: bool
    """Whether it is answered by voice."""
    traceparent: str = ""
    """The caller's trace, as W3C Trace Context writes it."""
    kind: Literal["request", "file"] = "request"
    before: Admission | None = None
    """A gate to be passed before that of all turns; `seconds` then count from when both let it in."""
    patience: float = 0
    """How long it may wait for both, where there is one."""


class TurnRun:
    """One turn."""

    def __init__(self, admission: Admission, metrics: Metrics, turn_limits: TurnLimits) -> None:
        self.timings = TurnTimings()
        self._gate = admission
        self._metrics = metrics
        self._terms = turn_limits
        self._begun = time.monotonic()
        self._limit = anyio.CancelScope()
        self._due = 0.0
        """When it must be over, were there no sound in it, on the event loop's clock."""
        self._usage = TokenUsage()
        self._error: Exception | None = None

    @asynccontextmanager
    async def taken(
        self, work: Callable[[Tell[T]], Awaitable[None]], priority: Priority
    ) -> AsyncIterator[AsyncIterator[T]]:
        """What `work`, once it is let in, tells; leaving the block stops it. Reading raises what it raised."""
        send, receive = anyio.create_memory_object_stream[T](AHEAD)
        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(self._run, work, priority, send)
                try:
                    yield self._told(receive)
                finally:
                    group.cancel_scope.cancel()
        except Exception as error:
            if (one := collapse_exception_group(error)) is not error:
                raise one from None
            raise

    def mark(self, stage: str) -> None:
        """Note when a stage was first reached."""
        if getattr(self.timings, stage) is None:
            self.timings = replace(self.timings, **{stage: time.monotonic() - self._begun})

    def count(self, usage: TokenUsage) -> None:
        """The tokens of an answer that has ended."""
        self._usage = usage

    def sounded(self, seconds: float) -> None:
        """So many seconds of sound came or were made so far, and it may take as much longer."""
        self._limit.deadline = self._due + seconds

    async def _told(self, receive: MemoryObjectReceiveStream[T]) -> AsyncIterator[T]:
        async for each in receive:
            yield each
        if self._error is not None:
            raise self._error

    async def _run(
        self, work: Callable[[Tell[T]], Awaitable[None]], priority: Priority, send: MemoryObjectSendStream[T]
    ) -> None:
        """The whole turn; what fails is kept for whoever reads what it tells."""
        result, turn_limits = "left", self._terms
        async with send:
            try:
                with self._limit:
                    self._due_in(turn_limits.seconds if turn_limits.before is None else turn_limits.patience)
                    await self._admitted(work, priority, send.send)
                    result = "ok"
                if self._limit.cancelled_caught:
                    self._error = self._late()
                    result = self._error.code
            except ClientDisconnected as error:
                self._error = error
            except Exception as error:
                self._error = one if isinstance(one := collapse_exception_group(error), Exception) else error
                result = self._error.code if isinstance(self._error, ChatapiError) else "internal_error"
            finally:
                self._metrics.turn(self._over(result))

    def _due_in(self, seconds: float) -> None:
        self._due = self._limit.deadline = anyio.current_time() + seconds

    def _late(self) -> DeadlineExceeded:
        turn_limits = self._terms
        if self.timings.admitted is None and turn_limits.before is not None:
            return DeadlineExceeded(f"others were not done after {turn_limits.patience:g} seconds; ask again later")
        if turn_limits.kind == "file":
            return DeadlineExceeded(
                f"the work took longer than {turn_limits.seconds:g} seconds and the length of its sound"
            )
        return DeadlineExceeded(f"the answer took longer than the {turn_limits.seconds:g} seconds a turn may take")

    def _over(self, result: str) -> TurnRecord:
        turn_limits = self._terms
        return TurnRecord(
            kind=turn_limits.kind,
            input="voice" if turn_limits.voice_input else "text",
            reply="voice" if turn_limits.speaks else "text",
            result=result,
            since=self._begun,
            timings=self.timings,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            cached_tokens=self._usage.cached_tokens,
            traceparent=turn_limits.traceparent,
        )

    async def _admitted(self, work: Callable[[Tell[T]], Awaitable[None]], priority: Priority, tell: Tell[T]) -> None:
        async with AsyncExitStack() as slots:
            try:
                if self._terms.before is not None:
                    await slots.enter_async_context(self._terms.before.admitted(priority))
                await slots.enter_async_context(self._gate.admitted(priority))
            except Busy:
                # What is busy once it was let in (a conversation that still answers) was not refused by the queue.
                self._metrics.refused.inc()
                raise
            with self._metrics.active.track_inprogress():
                if self._terms.before is not None:
                    self._due_in(self._terms.seconds)
                self.mark("admitted")
                await work(tell)
