"""One Realtime connection: reads client events and writes server events, each on a task of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.auth import KeyHolder
from chatapi.errors import BadInput, Busy, ChatapiError, TooLarge, TooSlow
from chatapi.events import Interrupted, LiveEvent
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import LARGE
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime import client_events, item_documents, session_documents
from chatapi.interfaces.http.realtime.audio_format import InputAudioStream
from chatapi.interfaces.http.realtime.client_items import ResponseInput
from chatapi.interfaces.http.realtime.event_channel import EventChannel, RealtimeClosed
from chatapi.interfaces.http.realtime.item_audio import transcribe_parts
from chatapi.interfaces.http.realtime.out_of_band import OutOfBandResponses
from chatapi.interfaces.http.realtime.response import RealtimeResponse
from chatapi.interfaces.http.realtime.server_events import ServerEventWriter
from chatapi.interfaces.http.realtime.session_config import SessionConfig, effective, with_pcm_output
from chatapi.interfaces.http.realtime.session_extension import SessionExtension
from chatapi.interfaces.http.realtime.session_options import options
from chatapi.services.live import LiveSession as Conversation
from chatapi.services.live.conversation_item import new_id

log = logging.getLogger(__name__)

MAX_QUEUED_EVENTS = 500
"""Most events that wait to be sent to a slow client; then their producer waits."""
STEP = RATE // 2
"""Samples processed at a time, so that one large event does not block other sessions."""
MAX_UNSENT_UPDATES = 8
"""Most `session.updated` events that wait to be sent to a client: each is a large document."""

A = TypeVar("A")
T = TypeVar("T")


class OutputAudio(Protocol):
    """Plays the audio of responses, where it does not leave as events."""

    async def play(self, response_id: str, audio: str) -> None:
        """Queues base64 audio, PCM at 24 kHz, for a response."""

    def clear(self, response_id: str | None) -> str | None:
        """Stops the playback, drops what is queued and further audio of this response; returns the id of the response
        that was being played."""

    async def response_done(self, response_id: str) -> None:
        """No further audio of this response follows."""


class RealtimeConnection:
    """One client's connection; `run` serves it until the client disconnects."""

    def __init__(
        self,
        channel: EventChannel,
        appliance: Appliance,
        conversation: Conversation,
        events: MemoryObjectReceiveStream[LiveEvent],
        config: SessionConfig,
        output: OutputAudio | None = None,
        holder: KeyHolder | None = None,
    ) -> None:
        """`output` plays the audio of responses; None: it is sent as events. `holder`: the client, who may push
        captions; None: nobody may."""
        self._channel = channel
        self._output = output
        self._appliance = appliance
        self._conversation = conversation
        self._events = events
        self._config = config = self._usable(config)
        self._extension = SessionExtension(appliance, holder)
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
        self._ignored = IgnoredParameters()
        """Fields of the event that is handled which have no effect."""
        self._handlers = self._event_handlers()

    def _event_handlers(self) -> dict[str, Callable[[Any], Awaitable[None]]]:
        return {
            "session.update": self._update,
            "transcription_session.update": self._update,
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

    async def run(self, idle_seconds: float | None) -> None:
        """Serves the connection until the client disconnects.

        Raises TooSlow when there is no event for `idle_seconds` unless that is None, and RealtimeClosed when the client
        stalls.
        """
        async with self._sending, self._to_send, self._group as group:
            group.start_soon(self._write)
            extension = {"chatapi": {"conversation": self._conversation.conversation_state.id}}
            await self.send_event("session.created", session={**self._document(), **extension})
            group.start_soon(self._handle_live_events)
            try:
                await self._read(idle_seconds)
            finally:
                self._extension.close()
            group.cancel_scope.cancel()

    async def send_event(self, kind: str, /, **fields: Any) -> None:
        """Queues a server event."""
        if self._output is not None and kind == "response.output_audio.delta":
            await self._output.play(fields["response_id"], fields["delta"])
            return
        await self._sending.send({"type": kind, "event_id": new_id("event"), **fields})
        if self._output is not None and kind == "response.done":
            await self._output.response_done(fields["response"]["id"])

    async def feed(self, samples: Samples) -> None:
        """Processes input audio that does not come as events, 16 kHz mono."""
        await self._conversation.feed(samples)

    async def _write(self) -> None:
        async for event in self._to_send:
            await self._channel.send(json.dumps(event))
            self._updates -= event["type"] == "session.updated"

    async def _handle_live_events(self) -> None:
        async for event in self._events:
            try:
                self._extension.follow(event)
                await self._writer.handle(event)
                if isinstance(event, Interrupted) and (cleared := self._stop_output(event.response)) is not None:
                    await self.send_event("output_audio_buffer.cleared", response_id=cleared)
            except ChatapiError as error:
                await self._send_error(error)

    async def _read(self, idle_seconds: float | None) -> None:
        while True:
            with anyio.move_on_after(idle_seconds) as waiting:
                try:
                    text = await self._channel.receive()
                except RealtimeClosed:
                    return
            if waiting.cancelled_caught:
                raise TooSlow(
                    f"the session was idle for {idle_seconds or 0:g} seconds and is closed", code="session_idle"
                )
            await self._handle(text)

    async def _handle(self, text: str | None) -> None:
        event_id: str | None = None
        self._ignored = IgnoredParameters()
        try:
            if text is None:
                raise BadInput(
                    "events must be text frames; send audio with input_audio_buffer.append", code="binary_frame"
                )
            document = await _on_thread(len(text), client_events.parse_json, text)
            if isinstance(client_id := document.get("event_id"), str):
                event_id = client_id[:512]
            parse = partial(client_events.parse_event, ignored=self._ignored)
            event = await _on_thread(len(text), parse, document)
            await self._handlers[event.type](event)
        except ChatapiError as error:
            await self._send_error(error, event_id)
        if names := self._ignored.text:
            log.info("ignored parameters: %s", names)

    async def _send_error(self, error: ChatapiError, event_id: str | None = None) -> None:
        self._appliance.metrics.errors.labels(error.code).inc()
        await self.send_event("error", error={**fault(error), "event_id": event_id})

    # The session

    async def _update(self, event: client_events.SessionUpdate) -> None:
        if self._updates >= MAX_UNSENT_UPDATES:
            raise Busy("earlier session.updated events are not read yet; read them first", code="updates_waiting")
        kind = {"type": "transcription"} if event.type.startswith("transcription") else {}
        # The model of a session cannot change.
        change = {**event.session, **kind, "model": self._config.model}
        config = self._usable(self._config.updated(change, self._ignored))
        detected = self._conversation.options.detect
        live_options = options(config, self._appliance, before=self._config)
        await self._extension.apply(config.chatapi)
        self._conversation.change(replace(live_options, known_speakers=self._extension.known))
        if self._conversation.options.detect and not detected:
            # Audio buffered for a commit must not start a turn.
            await self._clear_input()
        if config.audio.input.format != self._config.audio.input.format:
            self._incoming = InputAudioStream(config.audio.input.format.type)
        self._config = self._writer.config = config
        document = self._document()
        if names := self._ignored.text:
            document["chatapi"] = {**document.get("chatapi", {}), "ignored": names}
        self._updates += 1
        await self.send_event("session.updated", session=document)

    def _usable(self, config: SessionConfig) -> SessionConfig:
        """The configuration; audio that is played here has one format, whichever the client wants."""
        return config if self._output is None else with_pcm_output(config)

    def _document(self) -> dict[str, Any]:
        return {"id": self._id, **session_documents.document(self._config, self._appliance)}

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
        self._incoming.drop_half()
        if not await self._conversation.commit():
            raise BadInput("there is no audio to commit", code="input_audio_buffer_commit_empty")

    async def _clear(self, _: client_events.ClientEvent) -> None:
        await self._clear_input()
        await self.send_event("input_audio_buffer.cleared")

    async def _clear_input(self) -> None:
        self._uncommitted = 0
        self._incoming.drop_half()
        self._conversation.clear()
        await self._writer.input_cleared()

    async def _clear_output(self, _: client_events.ClientEvent) -> None:
        self._mark_client_cancelled()
        last = self._writer.last
        response_id = last.id if last is not None else ""
        cleared = self._stop_output(response_id)
        await self._writer.cancel_response()
        await self.send_event("output_audio_buffer.cleared", response_id=cleared or response_id)

    def _stop_output(self, response_id: str) -> str | None:
        """Stops the playback here; returns the id of the response that was being played."""
        return self._output.clear(response_id) if self._output is not None else None

    async def _played(self, event: client_events.Played) -> None:
        last = self._writer.last
        if event.response_id is None or (last is not None and last.id == event.response_id):
            self._conversation.report_playback(event.audio_end_ms / 1000)

    # Items

    async def _create(self, event: client_events.ItemCreate) -> None:
        self._require_conversation("items")
        await self._transcribe([event.item])
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
        self._require_conversation("responses")
        writer, config = self._writer, self._usable(effective(self._config, event.response))
        tools_follow = event.response.tool_choice is None
        response_options = options(config, self._appliance, tools_follow, before=self._config)
        await self._transcribe(event.response.input or ())
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

    def _require_conversation(self, what: str) -> None:
        """Raises BadInput in a session that only transcribes."""
        if self._config.transcribes_only:
            raise BadInput(
                f"a transcription session has no {what}; connect without intent=transcription", code="invalid_event"
            )

    async def _transcribe(self, items: Iterable[ResponseInput]) -> None:
        """Transcribes the audio of items."""
        found, form = self._conversation.options, self._config.audio.input.format.type
        await transcribe_parts(self._appliance, items, form, found.language, found.transcription)

    def _mark_client_cancelled(self) -> None:
        if self._writer.response is not None:
            self._writer.response.reason = "client_cancelled"


async def _on_thread(size: int, function: Callable[[A], T], argument: A) -> T:
    """The result of the function, which runs on a thread when `size` characters are many."""
    if size < LARGE:
        return function(argument)
    return await anyio.to_thread.run_sync(function, argument)
