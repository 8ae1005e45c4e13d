"""One Realtime connection: reads client events and writes server events, each on a task of its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.websockets import WebSocket

from chatapi.appliance import Appliance
from chatapi.audio import RATE
from chatapi.engines import Sampling, Tool
from chatapi.errors import BadInput, Busy, ChatapiError, TooLarge, TooSlow, Unprocessable
from chatapi.events import LiveEvent
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.json_body import LARGE
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime import client_events, item_documents
from chatapi.interfaces.http.realtime.audio_format import InputAudioStream
from chatapi.interfaces.http.realtime.out_of_band import OutOfBandResponses
from chatapi.interfaces.http.realtime.response import RealtimeResponse
from chatapi.interfaces.http.realtime.server_events import ServerEventWriter, effective
from chatapi.services.live import LiveSession as Conversation
from chatapi.services.live import SessionOptions
from chatapi.services.live.items import new_id

MAX_QUEUED_EVENTS = 500
"""Most events that wait to be sent to a slow client; then their producer waits."""
STEP = RATE // 2
"""Samples processed at a time, so that one large event does not block other sessions."""
ENDPOINTING_FACTORS = {"low": 2.0, "medium": 1.0, "auto": 1.0, "high": 0.5}
"""Eagerness -> factor on the endpointing delay."""


MAX_UNSENT_UPDATES = 8
"""Most `session.updated` events that wait to be sent to a client: each is a large document."""

A = TypeVar("A")
T = TypeVar("T")


class RealtimeClosed(Exception):
    """The client stalled or disconnected."""


def options(config: client_events.SessionConfig, appliance: Appliance) -> SessionOptions:
    """The options of the live session. Raises Unprocessable that names the field."""
    vad, transcription = config.audio.input.turn_detection, config.audio.input.transcription
    session_options = SessionOptions(
        detect=vad is not None,
        semantic=isinstance(vad, client_events.SemanticVad),
        answer=vad is not None and vad.create_response,
        interrupt=vad is not None and vad.interrupt_response,
        speak=config.output_modalities == ["audio"],
        partials=transcription is not None,
        system=config.instructions,
        voice=openai_aliases.voice(appliance, config.audio.output.voice),
        speed=config.audio.output.speed,
        sampling=_sampling(config),
        language=_language(transcription, appliance),
        max_tokens=None if config.max_output_tokens == "inf" else config.max_output_tokens,
    )
    if isinstance(vad, client_events.ServerVad):
        idle = None if vad.idle_timeout_ms is None else vad.idle_timeout_ms / 1000
        return replace(session_options, threshold=vad.threshold, silence_ms=vad.silence_duration_ms, idle_seconds=idle)
    if vad is None:
        return session_options
    return replace(session_options, delay_factor=ENDPOINTING_FACTORS[vad.eagerness])


def _sampling(config: client_events.SessionConfig) -> Sampling:
    tools = tuple(Tool(each.name, each.description, each.parameters) for each in config.tools)
    choice = config.tool_choice if isinstance(config.tool_choice, str) else f":{config.tool_choice.name}"
    return Sampling(tools=tools, tool_choice=choice, parallel=config.parallel_tool_calls is not False)


def _language(transcription: client_events.InputTranscription | None, appliance: Appliance) -> str | None:
    language, known = transcription.language if transcription else None, appliance.engines.asr.engine.languages
    if language and language not in known:
        raise Unprocessable(
            f"language {language!r} is not supported; supported are: {', '.join(known)}", code="unknown_language",
            details={"param": "session.audio.input.transcription.language"},
        )  # fmt: skip
    return language or None


class RealtimeConnection:
    """One client's connection; `run` serves it until the client disconnects."""

    def __init__(
        self,
        websocket: WebSocket,
        appliance: Appliance,
        conversation: Conversation,
        events: MemoryObjectReceiveStream[LiveEvent],
        config: client_events.SessionConfig,
    ) -> None:
        self._websocket = websocket
        self._appliance = appliance
        self._conversation = conversation
        self._events = events
        self._config = config
        self._id = new_id("sess")
        self._items = conversation.items
        self._group = anyio.create_task_group()
        self._out_of_band = OutOfBandResponses(appliance.chat, conversation, self._group)
        self._sending, self._to_send = anyio.create_memory_object_stream[dict[str, Any]](MAX_QUEUED_EVENTS)
        self._writer = ServerEventWriter(self.send_event, conversation, config)
        self._incoming = InputAudioStream(config.audio.input.format.type)
        self._uncommitted = 0
        """Samples at 16 kHz since the last turn, when the client ends turns."""
        self._updates = 0
        """`session.updated` events that are not sent yet."""
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "output_audio_buffer.clear": self._clear_output,
            "conversation.item.create": self._create,
            "conversation.item.delete": self._delete,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.truncate": self._truncate,
            "response.create": self._respond,
            "response.cancel": self._cancel,
            "chatapi.played": self._played,
        }

    async def run(self) -> None:
        """Serves the connection. Raises TooSlow when the client is idle for too long, RealtimeClosed."""
        async with self._sending, self._to_send, self._group as group:
            group.start_soon(self._write)
            extension = {"chatapi": {"conversation": self._conversation.conversation_state.id}}
            await self.send_event("session.created", session={**self._document(), **extension})
            group.start_soon(self._handle_live_events)
            await self._read()
            group.cancel_scope.cancel()

    async def send_event(self, kind: str, /, **fields: Any) -> None:
        """Queues a server event."""
        await self._sending.send({"type": kind, "event_id": new_id("event"), **fields})

    async def _write(self) -> None:
        async for event in self._to_send:
            await send(self._websocket, event, self._appliance.settings.server.send_seconds)
            self._updates -= event["type"] == "session.updated"

    async def _handle_live_events(self) -> None:
        async for event in self._events:
            try:
                await self._writer.handle(event)
            except ChatapiError as error:
                await self._send_error(error)

    async def _read(self) -> None:
        idle = self._appliance.settings.live.idle_seconds
        while True:
            message = None
            with anyio.move_on_after(idle):
                message = await self._websocket.receive()
            if message is None:
                raise TooSlow(f"the session was idle for {idle:g} seconds and is closed", code="session_idle")
            if message["type"] == "websocket.disconnect":
                return
            await self._handle(message.get("text"))

    async def _handle(self, text: str | None) -> None:
        event_id: str | None = None
        try:
            if text is None:
                raise BadInput(
                    "events must be text frames; send audio with input_audio_buffer.append", code="binary_frame"
                )
            document = await _on_thread(len(text), client_events.parse_json, text)
            if isinstance(client_id := document.get("event_id"), str):
                event_id = client_id[:512]
            event = await _on_thread(len(text), client_events.parse_event, document)
            await self._handlers[event.type](event)
        except ChatapiError as error:
            await self._send_error(error, event_id)

    async def _send_error(self, error: ChatapiError, event_id: str | None = None) -> None:
        self._appliance.metrics.errors.labels(error.code).inc()
        await self.send_event("error", error={**fault(error), "event_id": event_id})

    # The session

    async def _update(self, event: client_events.SessionUpdate) -> None:
        if self._updates >= MAX_UNSENT_UPDATES:
            raise Busy("earlier session.updated events are not read yet; read them first", code="updates_waiting")
        # The model of a session cannot change.
        config = self._config.updated({**event.session, "model": self._config.model})
        detected = self._conversation.options.detect
        self._conversation.change(options(config, self._appliance))
        if self._conversation.options.detect and not detected:
            # Audio buffered for a commit must not start a turn.
            await self._clear_input()
        if config.audio.input.format != self._config.audio.input.format:
            self._incoming = InputAudioStream(config.audio.input.format.type)
        self._config = self._writer.config = config
        self._updates += 1
        await self.send_event("session.updated", session=self._document())

    def _document(self) -> dict[str, Any]:
        config = self._config
        document = config.model_dump(exclude={"audio": {"input": {"format"}, "output": {"format"}}})
        document["audio"]["input"]["format"] = config.audio.input.format.document()
        document["audio"]["output"]["format"] = config.audio.output.format.document()
        if config.instructions is None:
            document["instructions"] = self._appliance.settings.llm.system_prompt
        if config.chatapi is None:
            del document["chatapi"]
        return {"object": "realtime.session", "id": self._id, **document}

    # Audio

    async def _append(self, event: client_events.AudioAppend) -> None:
        samples = await _on_thread(len(event.audio), self._incoming.feed, event.audio)
        if self._config.audio.input.turn_detection is None:
            limit = self._appliance.settings.limits.audio_seconds
            if self._uncommitted + len(samples) > limit * RATE:
                raise TooLarge(
                    f"the buffer has {limit:g} seconds of audio already; commit or clear it",
                    code="input_audio_buffer_full",
                )
            self._uncommitted += len(samples)
        for start in range(0, len(samples), STEP):
            await self._conversation.feed(samples[start : start + STEP])
            await anyio.lowlevel.checkpoint()

    async def _commit(self, _: client_events.ClientEvent) -> None:
        self._uncommitted = 0
        if not await self._conversation.commit():
            raise BadInput("there is no audio to commit", code="input_audio_buffer_commit_empty")

    async def _clear(self, _: client_events.ClientEvent) -> None:
        await self._clear_input()
        await self.send_event("input_audio_buffer.cleared")

    async def _clear_input(self) -> None:
        self._uncommitted = 0
        self._conversation.clear()
        await self._writer.input_cleared()

    async def _clear_output(self, _: client_events.ClientEvent) -> None:
        self._mark_client_cancelled()
        await self._writer.cancel_response()
        last = self._writer.last
        await self.send_event("output_audio_buffer.cleared", response_id=last.id if last is not None else "")

    async def _played(self, event: client_events.Played) -> None:
        last = self._writer.last
        if event.response_id is None or (last is not None and last.id == event.response_id):
            self._conversation.report_playback(event.audio_end_ms / 1000)

    # Items

    async def _create(self, event: client_events.ItemCreate) -> None:
        item = item_documents.parse(event.item)
        before = await self._items.create(item, event.previous_item_id)
        await self.send_event("conversation.item.added", previous_item_id=before, item=item_documents.document(item))
        await self.send_event("conversation.item.done", previous_item_id=before, item=item_documents.document(item))

    async def _delete(self, event: client_events.ItemEvent) -> None:
        await self._items.delete(event.item_id)
        await self.send_event("conversation.item.deleted", item_id=event.item_id)

    async def _retrieve(self, event: client_events.ItemEvent) -> None:
        await self.send_event(
            "conversation.item.retrieved", item=item_documents.document(self._items.find(event.item_id))
        )

    async def _truncate(self, event: client_events.ItemTruncate) -> None:
        self._mark_client_cancelled()
        await self._items.truncate(event.item_id, event.audio_end_ms / 1000)
        await self.send_event(
            "conversation.item.truncated", item_id=event.item_id, content_index=0, audio_end_ms=event.audio_end_ms
        )

    # Responses

    async def _respond(self, event: client_events.ResponseCreate) -> None:
        writer, config = self._writer, effective(self._config, event.response)
        response_options = options(config, self._appliance)
        if event.response.conversation == "none":
            response = RealtimeResponse(self.send_event, None, config, None, event.response.metadata)
            await self._out_of_band.start(response, event.response, response_options)
            return
        if writer.response is not None or writer.requested is not None:
            raise BadInput(
                "a response is in progress; cancel it first", code="conversation_already_has_active_response"
            )
        writer.requested = event.response
        try:
            await self._conversation.respond(options=response_options)
        except ChatapiError:
            writer.requested = None
            raise

    async def _cancel(self, event: client_events.ResponseCancel) -> None:
        if event.response_id is not None and self._out_of_band.cancel(event.response_id):
            return
        response = self._writer.response
        if response is None or event.response_id not in (None, response.id):
            raise BadInput("no such response is in progress", code="response_cancel_not_active")
        self._mark_client_cancelled()
        await self._writer.cancel_response()

    def _mark_client_cancelled(self) -> None:
        if self._writer.response is not None:
            self._writer.response.reason = "client_cancelled"


async def _on_thread(size: int, function: Callable[[A], T], argument: A) -> T:
    """The result of the function, which runs on a thread when `size` characters are many."""
    if size < LARGE:
        return function(argument)
    return await anyio.to_thread.run_sync(function, argument)


async def send(websocket: WebSocket, event: dict[str, Any], seconds: float) -> None:
    """Sends an event. Raises RealtimeClosed when the client does not receive it in time."""
    with anyio.move_on_after(seconds):
        await websocket.send({"type": "websocket.send", "text": json.dumps(event)})
        return
    raise RealtimeClosed
