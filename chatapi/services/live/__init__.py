"""Live conversation: a session for everybody who talks with the box as people talk with each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.errors import Busy, collapse_exception_group
from chatapi.events import Failed, LiveEvent
from chatapi.observability.metrics import Metrics
from chatapi.runtime.workers import Engines, Worker
from chatapi.services.live.context import ConversationContext
from chatapi.services.live.options import SessionOptions, SessionOrigin
from chatapi.services.live.session import LiveSession
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns.generation import Generator
from chatapi.settings import Settings
from chatapi.storage.history import ConversationHistory, ConversationState

__all__ = ["LiveConversations", "LiveSession", "SessionOptions", "SessionOrigin"]

AHEAD = 1000
"""Events a face may be behind."""


class LiveConversations:
    """The ability. `session` is its door."""

    def __init__(
        self,
        engines: Engines,
        transcription: FileTranscriber,
        synthesis: SpeechSynthesis,
        generator: Generator,
        history: Worker[ConversationHistory],
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.engines = engines
        self.transcription = transcription
        self.synthesis = synthesis
        self.generator = generator
        self.history = history
        self.settings = settings
        self.metrics = metrics
        self.sessions = 0
        """Going on now."""

    def preload(self) -> None:
        """Somebody speaks: what is needed once they stop begins to come back, where it was idle."""
        for worker in (self.engines.asr, self.engines.turn_detection, self.engines.llm, self.engines.tts):
            worker.preload()
        self.engines.asr.admission.reserve_live()

    @asynccontextmanager
    async def session(
        self,
        options: SessionOptions | None = None,
        conversation: str | None = None,
        origin: SessionOrigin | None = None,
    ) -> AsyncIterator[tuple[LiveSession, MemoryObjectReceiveStream[LiveEvent]]]:
        """A session and its events; leaving the block ends it. Raises Busy (too_many_sessions), NotReady, NotFound."""
        most, origin = self.settings.live.sessions, origin or SessionOrigin()
        if self.sessions >= most:
            self.metrics.sessions_refused.inc()
            raise Busy(f"{self.sessions} live conversations are going on, which is all there may be",
                       code="too_many_sessions", retry_after=10)  # fmt: skip
        self.sessions += 1
        going_on = self.metrics.sessions.labels(origin.door)
        going_on.inc()
        try:
            await self.engines.turn_detection.open()
            conversation_state = ConversationState(ConversationHistory.new_id(), None, ())
            if conversation is not None:
                conversation_state = await self.history.call(lambda history: history.recall(conversation))
            send, receive = anyio.create_memory_object_stream[LiveEvent](AHEAD)

            async def tell(event: LiveEvent) -> None:
                if isinstance(event, Failed):
                    self.metrics.error(event.error)
                await send.send(event)

            async with send, receive, anyio.create_task_group() as group:
                memory = ConversationContext(self.history, conversation_state)
                yield LiveSession(self, group, memory, options or SessionOptions(), tell, origin), receive
                group.cancel_scope.cancel()
        except Exception as error:
            if (one := collapse_exception_group(error)) is not error:
                raise one from None
            raise
        finally:
            self.sessions -= 1
            going_on.dec()
