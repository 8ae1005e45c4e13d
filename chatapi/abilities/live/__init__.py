"""Live conversation: a session for everybody who talks with the box as people talk with each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.abilities.answering import Answering
from chatapi.abilities.live.memory import Memory
from chatapi.abilities.live.options import Options, Origin
from chatapi.abilities.live.session import Session
from chatapi.abilities.speaking import Speaking
from chatapi.abilities.transcription import Transcription
from chatapi.errors import Busy, alone
from chatapi.events import Failed, LiveEvent
from chatapi.history import History, Recalled
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.workers import Engines, Worker

__all__ = ["Live", "Options", "Origin", "Session"]

AHEAD = 1000
"""Events a face may be behind."""


class Live:
    """The ability. `session` is its door."""

    def __init__(
        self,
        engines: Engines,
        transcription: Transcription,
        speaking: Speaking,
        answering: Answering,
        history: Worker[History],
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.engines = engines
        self.transcription = transcription
        self.speaking = speaking
        self.answering = answering
        self.history = history
        self.settings = settings
        self.metrics = metrics
        self.sessions = 0
        """Going on now."""

    def rouse(self) -> None:
        """Somebody speaks: what is needed once they stop begins to come back, where it was idle."""
        for worker in (self.engines.asr, self.engines.turn, self.engines.llm, self.engines.tts):
            worker.rouse()
        self.engines.asr.gate.expect()

    @asynccontextmanager
    async def session(
        self, options: Options | None = None, conversation: str | None = None, origin: Origin | None = None
    ) -> AsyncIterator[tuple[Session, MemoryObjectReceiveStream[LiveEvent]]]:
        """A session and its events; leaving the block ends it. Raises Busy (too_many_sessions), NotReady, Unknown."""
        most, origin = self.settings.live.sessions, origin or Origin()
        if self.sessions >= most:
            self.metrics.sessions_refused.inc()
            raise Busy(f"{self.sessions} live conversations are going on, which is all there may be",
                       code="too_many_sessions", retry_after=10)  # fmt: skip
        self.sessions += 1
        going_on = self.metrics.sessions.labels(origin.door)
        going_on.inc()
        try:
            await self.engines.turn.open()
            recalled = Recalled(History.new_id(), None, ())
            if conversation is not None:
                recalled = await self.history.call(lambda history: history.recall(conversation))
            send, receive = anyio.create_memory_object_stream[LiveEvent](AHEAD)

            async def tell(event: LiveEvent) -> None:
                if isinstance(event, Failed):
                    self.metrics.error(event.error)
                await send.send(event)

            async with send, receive, anyio.create_task_group() as group:
                memory = Memory(self.history, recalled)
                yield Session(self, group, memory, options or Options(), tell, origin), receive
                group.cancel_scope.cancel()
        except Exception as error:
            if (one := alone(error)) is not error:
                raise one from None
            raise
        finally:
            self.sessions -= 1
            going_on.dec()
