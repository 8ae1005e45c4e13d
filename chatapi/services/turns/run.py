"""The run of one turn: admission, deadline, timings, metrics, and a bounded stream of what the turn emits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.engines import TokenUsage
from chatapi.errors import Busy, ChatapiError, DeadlineExceeded, collapse_exception_group
from chatapi.events import Event, TurnRecord, TurnTimings
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority

AHEAD = 16
"""Items that a turn may emit before its caller reads them."""

T = TypeVar("T")
Emit = Callable[[T], Awaitable[None]]
Work = Callable[[Emit[T]], Awaitable[None]]
"""What a turn does once it is admitted; it calls `emit` with each item."""
Send = Emit[Event]


class ClientDisconnected(Exception):
    """Raised by a turn's input, audio or text, when its client disconnects; ends the turn as abandoned."""


@contextmanager
def limit_duration(seconds: float) -> Iterator[None]:
    """Cancel the block after so many seconds. Raises DeadlineExceeded."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise turn_timed_out(seconds)


def turn_timed_out(seconds: float) -> DeadlineExceeded:
    """The error of a turn that took longer than its limit in seconds."""
    return DeadlineExceeded(f"the turn took longer than its limit of {seconds:g} seconds")


def check_admission(admission: Admission, metrics: Metrics) -> None:
    """Raises Busy where a new request would be rejected, so that a client need not upload its body first."""
    try:
        admission.check()
    except Busy:
        metrics.refused.inc()
        raise


@dataclass(frozen=True)
class TurnLimits:
    """What is known of a turn before its admission."""

    seconds: float
    """Longest duration of the turn, in seconds, time in the queue included."""
    voice_input: bool
    """Whether the input is audio."""
    voice_reply: bool
    """Whether the reply is spoken."""
    traceparent: str = ""
    """The caller's trace, in the format of W3C Trace Context."""
    kind: Literal["request", "file"] = "request"
    first_admission: Admission | None = None
    """An admission to pass before the one of all turns; `seconds` then count from the moment both are passed."""
    wait_seconds: float = 0
    """Longest wait for both admissions, in seconds; only with `first_admission`."""


class TurnItems(AsyncIterator[T], Generic[T]):
    """What a turn emits, in order. After the last item, reading raises the error that ended the turn."""

    def __init__(self, receive: MemoryObjectReceiveStream[T], error: Callable[[], Exception | None]) -> None:
        """`error`: of the turn, once it has ended."""
        self._receive, self._error = receive, error

    @property
    def pending(self) -> bool:
        """Whether the next item can be read without waiting."""
        return self._receive.statistics().current_buffer_used > 0

    async def __anext__(self) -> T:
        try:
            # Items that have arrived cost no iteration of the event loop.
            return self._receive.receive_nowait()
        except (anyio.WouldBlock, anyio.EndOfStream):
            pass
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            raise self._error() or StopAsyncIteration from None


def _emitting(send: MemoryObjectSendStream[T]) -> Emit[T]:
    """Emits items; waits only while AHEAD of them are not read yet."""

    async def emit(item: T) -> None:
        try:
            send.send_nowait(item)
        except anyio.WouldBlock:
            await send.send(item)

    return emit


class TurnRun:
    """Runs one turn and records how it ended."""

    def __init__(self, admission: Admission, metrics: Metrics, limits: TurnLimits) -> None:
        self.timings = TurnTimings()
        self._admission = admission
        self._metrics = metrics
        self._limits = limits
        self._started = time.monotonic()
        self._scope = anyio.CancelScope()
        self._base_deadline = 0.0
        """The deadline without any audio, on the event loop's clock, in seconds."""
        self._usage = TokenUsage()
        self._error: Exception | None = None

    @asynccontextmanager
    async def stream(self, work: Work[T], priority: Priority) -> AsyncIterator[TurnItems[T]]:
        """The items that `work` emits once it is admitted.

        Leaving the block cancels the work. Reading raises the error that the work raised.
        """
        send, receive = anyio.create_memory_object_stream[T](AHEAD)
        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(self._run, work, priority, send)
                try:
                    yield TurnItems(receive, lambda: self._error)
                finally:
                    group.cancel_scope.cancel()
        except Exception as error:
            if (single := collapse_exception_group(error)) is not error:
                raise single from None
            raise

    def mark(self, stage: str) -> None:
        """Record the time at which a stage is first reached."""
        if getattr(self.timings, stage) is None:
            self.timings = replace(self.timings, **{stage: time.monotonic() - self._started})

    def count(self, usage: TokenUsage) -> None:
        """Record the tokens of a finished answer."""
        self._usage = usage

    def extend_deadline(self, audio_seconds: float) -> None:
        """Extend the deadline by the length of the audio received or synthesized so far, in seconds."""
        self._scope.deadline = self._base_deadline + audio_seconds

    async def _run(self, work: Work[T], priority: Priority, send: MemoryObjectSendStream[T]) -> None:
        """The whole turn; an error is kept for the reader of the items."""
        result, limits = "disconnected", self._limits
        async with send:
            try:
                with self._scope:
                    self._set_deadline(limits.seconds if limits.first_admission is None else limits.wait_seconds)
                    await self._admit(work, priority, _emitting(send))
                    result = "ok"
                if self._scope.cancelled_caught:
                    self._error = self._deadline_error()
                    result = self._error.code
            except ClientDisconnected as error:
                self._error = error
            except Exception as error:
                single = collapse_exception_group(error)
                self._error = single if isinstance(single, Exception) else error
                result = self._error.code if isinstance(self._error, ChatapiError) else "internal_error"
            finally:
                self._metrics.turn(self._record(result))

    def _set_deadline(self, seconds: float) -> None:
        self._base_deadline = self._scope.deadline = anyio.current_time() + seconds

    def _deadline_error(self) -> DeadlineExceeded:
        limits = self._limits
        if self.timings.admitted is None and limits.first_admission is not None:
            message = f"no slot became free within {limits.wait_seconds:g} seconds; retry later"
            return DeadlineExceeded(message)
        if limits.kind == "file":
            return DeadlineExceeded(
                f"the request took longer than {limits.seconds:g} seconds plus the length of its audio"
            )
        return turn_timed_out(limits.seconds)

    def _record(self, result: str) -> TurnRecord:
        limits = self._limits
        return TurnRecord(
            kind=limits.kind,
            input="voice" if limits.voice_input else "text",
            reply="voice" if limits.voice_reply else "text",
            result=result,
            since=self._started,
            timings=self.timings,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            cached_tokens=self._usage.cached_tokens,
            traceparent=limits.traceparent,
        )

    async def _admit(self, work: Work[T], priority: Priority, emit: Emit[T]) -> None:
        """Wait for a slot, then do the work."""
        async with AsyncExitStack() as slots:
            try:
                if self._limits.first_admission is not None:
                    await slots.enter_async_context(self._limits.first_admission.admitted(priority))
                await slots.enter_async_context(self._admission.admitted(priority))
            except Busy:
                # A Busy after admission (a conversation that still answers) is no rejection by the queue.
                self._metrics.refused.inc()
                raise
            with self._metrics.active.track_inprogress():
                if self._limits.first_admission is not None:
                    self._set_deadline(self._limits.seconds)
                self.mark("admitted")
                await work(emit)
