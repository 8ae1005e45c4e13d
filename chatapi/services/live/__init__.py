"""Live conversation: full-duplex voice sessions with turn detection and barge-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.errors import Busy, collapse_exception_group
from chatapi.events import Failed, LiveEvent
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission
from chatapi.runtime.workers import Engines
from chatapi.services.live.answer import Send
from chatapi.services.live.command_listener import LiveCommands
from chatapi.services.live.context import ConversationContext
from chatapi.services.live.options import SessionOptions, SessionOrigin
from chatapi.services.live.session import LiveSession
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns.conversations import Conversations
from chatapi.services.turns.generation import Generator
from chatapi.services.wake_word import WakeWordGate
from chatapi.settings import Settings
from chatapi.storage.history import ConversationHistory, ConversationState

__all__ = ["LiveConversations", "LiveSession", "SessionOptions", "SessionOrigin"]

MAX_QUEUED_EVENTS = 1000
"""Events that an interface may be behind before the session waits."""


class LiveConversations:
    """Opens live sessions and limits their number."""

    def __init__(
        self,
        engines: Engines,
        transcription: FileTranscriber,
        synthesis: SpeechSynthesis,
        generator: Generator,
        conversations: Conversations,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.engines = engines
        self.transcription = transcription
        self.synthesis = synthesis
        self.generator = generator
        self.conversations = conversations
        self.admission = admission
        self.settings = settings
        self.metrics = metrics
        self.commands: LiveCommands | None = None
        """Set before the first session that listens for commands."""
        self.sessions = 0
        """Number of open sessions."""

    def preload(self, answer: bool = True) -> None:
        """Starts to load the engines of the next turn that were unloaded while idle; `answer`: of its answer too."""
        answering = (self.engines.llm, self.engines.tts) if answer else ()
        for worker in (self.engines.asr, self.engines.turn_detection, *answering):
            worker.preload()
        self.engines.asr.expect_live()

    @asynccontextmanager
    async def session(
        self,
        options: SessionOptions | None = None,
        conversation: str | None = None,
        origin: SessionOrigin | None = None,
        awake_seconds: float | None = None,
    ) -> AsyncIterator[tuple[LiveSession, MemoryObjectReceiveStream[LiveEvent]]]:
        """Opens a session with its events; leaving the block closes it.

        `awake_seconds`: time after an answer or the wake word in which a turn starts without the wake word, in seconds;
        None: no wake word is needed. Raises Busy (too_many_sessions), NotReady and NotFound.
        """
        limit, origin = self.settings.live.sessions, origin or SessionOrigin()
        if self.sessions >= limit:
            self.metrics.sessions_refused.inc()
            raise Busy(f"{self.sessions} live sessions are open; the limit is {limit} (live.sessions)",
                       code="too_many_sessions", retry_after=10)  # fmt: skip
        self.sessions += 1
        open_sessions = self.metrics.sessions.labels(origin.interface)
        open_sessions.inc()
        try:
            await self.engines.turn_detection.open()
            gate = None if awake_seconds is None else await self._wake_word_gate(awake_seconds)
            conversation_state = ConversationState(ConversationHistory.new_id(), None, ())
            if conversation is not None:
                conversation_state = await self.conversations.recall(conversation)
            events, receive = anyio.create_memory_object_stream[LiveEvent](MAX_QUEUED_EVENTS)
            async with events, receive, anyio.create_task_group() as group:
                context = ConversationContext(self.conversations, conversation_state)
                send = self._sender(events)
                with self.conversations.followed(conversation_state.id, context):
                    yield LiveSession(self, group, context, options or SessionOptions(), send, origin, gate), receive
                group.cancel_scope.cancel()
        except Exception as error:
            if (single := collapse_exception_group(error)) is not error:
                raise single from None
            raise
        finally:
            self.sessions -= 1
            open_sessions.dec()

    async def _wake_word_gate(self, awake_seconds: float) -> WakeWordGate:
        await self.engines.wake_word.open()
        return WakeWordGate(self.engines, awake_seconds, self.settings.vad.threshold)

    def _sender(self, events: MemoryObjectSendStream[LiveEvent]) -> Send:
        """Returns the function that sends an event of a session, and counts the errors."""

        async def send(event: LiveEvent) -> None:
            if isinstance(event, Failed):
                self.metrics.error(event.error)
            await events.send(event)

        return send
