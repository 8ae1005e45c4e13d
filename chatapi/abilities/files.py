"""Recordings written down and texts read aloud: let in by the gate, bounded in time, told as they are done."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Generic, Literal, TypeVar

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.abilities.speaking import Speaking
from chatapi.abilities.transcription import Options, Passage, Transcription, too_long
from chatapi.audio import Audio, Source, duration
from chatapi.errors import Busy, ChatapiError, Deadline, TooLarge, alone
from chatapi.events import Ledger, TurnOver
from chatapi.gate import Gate, Priority
from chatapi.metrics import Metrics
from chatapi.settings import Settings

T = TypeVar("T")
By = Literal["text", "voice"]
Tell = Callable[[T, float], Awaitable[None]]
"""Hand out an item, and say how many seconds of sound the work has done by then."""

AHEAD = 16
"""Items the work may be ahead of its caller."""
WAIT_SECONDS = 600
"""How long a long recording may wait for others to be done: as long as OpenAI's clients wait for an answer."""
SMALL = 256 << 10
"""Bytes of a file that is taken to be short without looking: of 64 s at 32 kbit/s."""


class Files:
    """The ability. `heard` and `read` are its doors."""

    def __init__(
        self, transcription: Transcription, speaking: Speaking, gate: Gate, settings: Settings, metrics: Metrics
    ) -> None:
        self.transcription = transcription
        self.speaking = speaking
        self.gate = gate
        self.limits = settings.limits
        self.metrics = metrics
        # Taken before the turns' gate: long recordings shall not hold all of its slots for minutes.
        self.long = Gate("queue of long recordings", max(1, self.limits.concurrent // 2), self.limits.queue)

    def check_room(self) -> None:
        """Raises Busy where a request that came now would be refused: nobody needs to send a file for that."""
        try:
            self.gate.check()
        except Busy:
            self.metrics.refused.inc()
            raise

    @asynccontextmanager
    async def heard(self, source: Source, options: Options) -> AsyncIterator[AsyncIterator[Passage]]:
        """The passages of a recording as they are understood, the last one with all of it done; leaving stops it.

        Raises on entering what is wrong with the file from its start and with what is asked; the rest is raised by the
        passages. The work may take as long as a turn, and a second more for each second of sound that is done.
        """
        longest = self.limits.file_seconds if options.longest is None else options.longest
        options = replace(options, longest=longest)
        self.transcription.check(options)
        stated = await anyio.to_thread.run_sync(_stated, source)
        if stated > longest:
            raise too_long(longest)
        bulk = stated > self.limits.audio_seconds
        priority = Priority.BULK if bulk else Priority.REQUEST

        async def work(tell: Tell[Passage]) -> None:
            await self.transcription.work_through(
                source, options, lambda passage: tell(passage, passage.done), priority
            )

        async with self._working(work, priority, "voice", "text") as passages:
            yield passages

    @asynccontextmanager
    async def read(
        self, text: str, voice: str | None = None, speed: float = 1.0
    ) -> AsyncIterator[AsyncIterator[Audio]]:
        """A text spoken, a piece at a time, each as soon as it is; leaving stops it.

        Raises on entering TooLarge (prompt_too_long) and Unprocessable (empty_text, unknown_voice); what fails later
        is raised by the pieces.
        """
        if len(text) > (most := self.limits.prompt_chars):
            raise TooLarge(
                f"the text has {len(text)} characters; at most {most} are taken",
                code="prompt_too_long",
                details={"limit_chars": most, "param": "input"},
            )
        self.speaking.cut(text, self.speaking.voice(voice))

        async def work(tell: Tell[Audio]) -> None:
            seconds = 0.0
            async with aclosing(self.speaking.say(text, voice, speed)) as said:
                async for audio in said:
                    seconds += audio.seconds
                    await tell(audio, seconds)

        async with self._working(work, Priority.REQUEST, "text", "voice") as pieces:
            yield pieces

    @asynccontextmanager
    async def _working(
        self, work: Callable[[Tell[T]], Awaitable[None]], priority: Priority, heard: By, reply: By
    ) -> AsyncIterator[AsyncIterator[T]]:
        send, receive = anyio.create_memory_object_stream[T](AHEAD)
        run = _Run(self, work, priority, send)

        async def produce() -> None:
            result, since = "left", time.monotonic()
            try:
                result = await run.produce()
            finally:
                self.metrics.turn(TurnOver("file", heard, reply, result, since, Ledger()))

        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(produce)
                try:
                    yield run.items(receive)
                finally:
                    group.cancel_scope.cancel()
        except Exception as error:
            if (one := alone(error)) is not error:
                raise one from None
            raise


class _Run(Generic[T]):
    """One piece of work."""

    def __init__(
        self,
        ability: Files,
        work: Callable[[Tell[T]], Awaitable[None]],
        priority: Priority,
        send: MemoryObjectSendStream[T],
    ) -> None:
        self._ability = ability
        self._work = work
        self._priority = priority
        self._send = send
        self._error: Exception | None = None

    async def items(self, receive: MemoryObjectReceiveStream[T]) -> AsyncIterator[T]:
        async for item in receive:
            yield item
        if self._error is not None:
            raise self._error

    async def produce(self) -> str:
        """All of it; what fails is kept for whoever reads the items. What came of it, in a word."""
        limit = self._ability.limits.turn_seconds
        async with self._send:
            try:
                with anyio.fail_after(WAIT_SECONDS if self._priority is Priority.BULK else limit) as patience:
                    await self._admitted(patience)
            except TimeoutError:
                self._error = Deadline(f"the work took longer than {limit:g} seconds and the length of its sound")
            except Exception as error:
                self._error = one if isinstance(one := alone(error), Exception) else error
        if self._error is None:
            return "ok"
        return self._error.code if isinstance(self._error, ChatapiError) else "internal_error"

    async def _admitted(self, patience: anyio.CancelScope) -> None:
        ability = self._ability
        async with AsyncExitStack() as slots:
            try:
                if self._priority is Priority.BULK:
                    await slots.enter_async_context(ability.long.admitted(self._priority))
                await slots.enter_async_context(ability.gate.admitted(self._priority))
            except Busy:
                ability.metrics.refused.inc()
                raise
            with ability.metrics.active.track_inprogress():
                if self._priority is Priority.BULK:
                    patience.deadline = anyio.current_time() + ability.limits.turn_seconds
                first = patience.deadline

                async def tell(item: T, seconds: float) -> None:
                    patience.deadline = first + seconds
                    await self._send.send(item)

                await self._work(tell)


def _stated(source: Source) -> float:
    """Seconds that a file states, 0 where it states none or is small. Raises BadInput (bad_audio)."""
    if not isinstance(source, bytes):
        return duration(source)
    return duration(source) if len(source) > SMALL else 0.0
