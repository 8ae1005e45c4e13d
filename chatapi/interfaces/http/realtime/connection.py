"""One client's connection: its events in, ours out, each on a task of its own."""

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
from chatapi.interfaces.http.realtime import client_events
from chatapi.interfaces.http.realtime.audio_format import Incoming
from chatapi.interfaces.http.realtime.items import ConversationItems, new_id
from chatapi.interfaces.http.realtime.out_of_band import OutOfBandResponses
from chatapi.interfaces.http.realtime.response import RealtimeResponse
from chatapi.interfaces.http.realtime.server_events import ServerEventWriter, effective
from chatapi.services.live import LiveSession as Conversation
from chatapi.services.live import SessionOptions

AHEAD = 500
"""Events a client may be behind before what makes them waits."""
STEP = RATE // 2
"""Samples heard at a time, so that one large event does not hold up other sessions."""
DELAY_FACTOR = {"low": 2.0, "medium": 1.0, "auto": 1.0, "high": 0.5}
"""Eagerness -> factor on the endpointing delays."""


UPDATES = 8
"""Sessions that may wait to be sent to a client that changes them: each is a large document."""

A = TypeVar("A")
T = TypeVar("T")


class RealtimeClosed(Exception):
    """The client took nothing for too long, or is not there any more."""


def options(config: client_events.SessionConfig, appliance: Appliance, system: list[str]) -> SessionOptions:
    """What the ability is told. `system`: texts of system items. Raises Unprocessable naming the field."""
    vad, transcription = config.audio.input.turn_detection, config.audio.input.transcription
    instructions = config.instructions
    if system:
        instructions = "\n\n".join([appliance.settings.llm.system if instructions is None else instructions, *system])
    found = SessionOptions(
        detect=vad is not None,
        semantic=isinstance(vad, client_events.SemanticVad),
        answer=vad is not None and vad.create_response,
        interrupt=vad is not None and vad.interrupt_response,
        speak=config.output_modalities == ["audio"],
        partials=transcription is not None,
        system=instructions,
        voice=openai_aliases.voice(appliance, config.audio.output.voice),
        speed=config.audio.output.speed,
        sampling=_sampling(config),
        language=_language(transcription, appliance),
        max_tokens=None if config.max_output_tokens == "inf" else config.max_output_tokens,
    )
    if isinstance(vad, client_events.ServerVad):
        idle = None if vad.idle_timeout_ms is None else vad.idle_timeout_ms / 1000
        return replace(found, threshold=vad.threshold, silence_ms=vad.silence_duration_ms, idle_seconds=idle)
    return replace(found, delay_factor=DELAY_FACTOR[vad.eagerness]) if vad is not None else found


def _sampling(config: client_events.SessionConfig) -> Sampling:
    tools = tuple(Tool(each.name, each.description, each.parameters) for each in config.tools)
    choice = config.tool_choice if isinstance(config.tool_choice, str) else f":{config.tool_choice.name}"
    return Sampling(tools=tools, tool_choice=choice, parallel=config.parallel_tool_calls is not False)


def _language(transcription: client_events.InputTranscription | None, appliance: Appliance) -> str | None:
    language, known = transcription.language if transcription else None, appliance.engines.asr.engine.languages
    if language and language not in known:
        raise Unprocessable(
            f"language {language!r} is not understood; these are: {', '.join(known)}", code="unknown_language",
            details={"param": "session.audio.input.transcription.language"},
        )  # fmt: skip
    return language or None


class RealtimeConnection:
    """`run` serves it until the client leaves."""

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
        self._dialogue = ConversationItems(conversation)
        self._group = anyio.create_task_group()
        self._asides = OutOfBandResponses(appliance.chat, conversation, self._dialogue, self._group)
        self._sending, self._to_send = anyio.create_memory_object_stream[dict[str, Any]](AHEAD)
        self._translation = ServerEventWriter(self.tell, conversation, self._dialogue, config)
        self._incoming = Incoming(config.audio.input.format.type)
        self._uncommitted = 0
        """Samples since the last turn, where the client ends turns."""
        self._updates = 0
        """Documents of the session that are not sent yet."""
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "output_audio_buffer.clear": self._silence,
            "conversation.item.create": self._create,
            "conversation.item.delete": self._delete,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.truncate": self._truncate,
            "response.create": self._respond,
            "response.cancel": self._cancel,
            "chatapi.played": self._played,
        }

    async def run(self) -> None:
        """Raises TooSlow when nobody sends anything for too long, and Gone."""
        async with self._sending, self._to_send, self._group as group:
            group.start_soon(self._write)
            known_as = {"chatapi": {"conversation": self._conversation.conversation_state.id}}
            await self.tell("session.created", session={**self._document(), **known_as})
            group.start_soon(self._follow)
            await self._read()
            group.cancel_scope.cancel()

    async def tell(self, kind: str, /, **fields: Any) -> None:
        """Send an event, after those before it."""
        await self._sending.send({"type": kind, "event_id": new_id("event"), **fields})

    async def _write(self) -> None:
        async for event in self._to_send:
            await send(self._websocket, event, self._appliance.settings.server.send_seconds)
            self._updates -= event["type"] == "session.updated"

    async def _follow(self) -> None:
        async for event in self._events:
            try:
                await self._translation.take(event)
            except ChatapiError as error:
                await self._fault(error)

    async def _read(self) -> None:
        idle = self._appliance.settings.live.idle_seconds
        while True:
            message = None
            with anyio.move_on_after(idle):
                message = await self._websocket.receive()
            if message is None:
                raise TooSlow(f"nothing was sent for {idle:g} seconds, so the session is over", code="session_idle")
            if message["type"] == "websocket.disconnect":
                return
            await self._take(message.get("text"))

    async def _take(self, text: str | None) -> None:
        event_id: str | None = None
        try:
            if text is None:
                raise BadInput("events are text frames; sound goes into input_audio_buffer.append", code="binary_frame")
            document = await _threaded(len(text), client_events.parsed, text)
            if isinstance(given := document.get("event_id"), str):
                event_id = given[:512]
            event = await _threaded(len(text), client_events.event, document)
            await self._handlers[event.type](event)
        except ChatapiError as error:
            await self._fault(error, event_id)

    async def _fault(self, error: ChatapiError, event_id: str | None = None) -> None:
        self._appliance.metrics.errors.labels(error.code).inc()
        await self.tell("error", error={**fault(error), "event_id": event_id})

    # The session

    async def _update(self, event: client_events.SessionUpdate) -> None:
        if self._updates >= UPDATES:
            raise Busy("earlier updates are not sent to you yet; take them first", code="updates_waiting")
        # The model of a session cannot change.
        config = self._config.updated({**event.session, "model": self._config.model})
        detected = self._conversation.options.detect
        self._conversation.change(options(config, self._appliance, self._dialogue.system))
        if self._conversation.options.detect and not detected:
            # What was gathered for a commit is no beginning of a turn.
            await self._forget_sound()
        if config.audio.input.format != self._config.audio.input.format:
            self._incoming = Incoming(config.audio.input.format.type)
        self._config = self._translation.config = config
        self._updates += 1
        await self.tell("session.updated", session=self._document())

    def _document(self) -> dict[str, Any]:
        config = self._config
        document = config.model_dump(exclude={"audio": {"input": {"format"}, "output": {"format"}}})
        document["audio"]["input"]["format"] = config.audio.input.format.document()
        document["audio"]["output"]["format"] = config.audio.output.format.document()
        if config.instructions is None:
            document["instructions"] = self._appliance.settings.llm.system
        if config.chatapi is None:
            del document["chatapi"]
        return {"object": "realtime.session", "id": self._id, **document}

    # Sound

    async def _append(self, event: client_events.Append) -> None:
        samples = await _threaded(len(event.audio), self._incoming.feed, event.audio)
        if self._config.audio.input.turn_detection is None:
            limit = self._appliance.settings.limits.audio_seconds
            if self._uncommitted + len(samples) > limit * RATE:
                raise TooLarge(
                    f"there are {limit:g} seconds of sound already; commit or clear them",
                    code="input_audio_buffer_full",
                )
            self._uncommitted += len(samples)
        for start in range(0, len(samples), STEP):
            await self._conversation.feed(samples[start : start + STEP])
            await anyio.lowlevel.checkpoint()

    async def _commit(self, _: client_events.ClientEvent) -> None:
        self._uncommitted = 0
        if not await self._conversation.commit():
            raise BadInput("there is no sound to commit", code="input_audio_buffer_commit_empty")

    async def _clear(self, _: client_events.ClientEvent) -> None:
        await self._forget_sound()
        await self.tell("input_audio_buffer.cleared")

    async def _forget_sound(self) -> None:
        self._uncommitted = 0
        self._conversation.clear()
        await self._translation.cleared()

    async def _silence(self, _: client_events.ClientEvent) -> None:
        self._by_client()
        await self._translation.give_up()
        last = self._translation.last
        await self.tell("output_audio_buffer.cleared", response_id=last.id if last is not None else "")

    async def _played(self, event: client_events.Played) -> None:
        last = self._translation.last
        if event.response_id is None or (last is not None and last.id == event.response_id):
            self._conversation.report_playback(event.audio_end_ms / 1000)

    # Items

    async def _create(self, event: client_events.Create) -> None:
        item, before = await self._dialogue.create(event)
        if item.role == "system":
            self._conversation.change(options(self._config, self._appliance, self._dialogue.system))
        await self.tell("conversation.item.added", previous_item_id=before, item=item.document())
        await self.tell("conversation.item.done", previous_item_id=before, item=item.document())

    async def _delete(self, event: client_events.Named) -> None:
        await self._dialogue.delete(event.item_id)
        self._conversation.change(options(self._config, self._appliance, self._dialogue.system))
        await self.tell("conversation.item.deleted", item_id=event.item_id)

    async def _retrieve(self, event: client_events.Named) -> None:
        await self.tell("conversation.item.retrieved", item=self._dialogue.find(event.item_id).document())

    async def _truncate(self, event: client_events.Truncate) -> None:
        self._by_client()
        await self._dialogue.truncate(event.item_id, event.audio_end_ms / 1000)
        await self.tell(
            "conversation.item.truncated", item_id=event.item_id, content_index=0, audio_end_ms=event.audio_end_ms
        )

    # Responses

    async def _respond(self, event: client_events.ResponseCreate) -> None:
        translation, config = self._translation, effective(self._config, event.response)
        once = options(config, self._appliance, self._dialogue.system)
        if event.response.conversation == "none":
            reply = RealtimeResponse(self.tell, None, config, None, event.response.metadata)
            await self._asides.begin(reply, event.response, once)
            return
        if translation.reply is not None or translation.wanted is not None:
            raise BadInput("a response is going on; cancel it first", code="conversation_already_has_active_response")
        translation.wanted = event.response
        try:
            await self._conversation.respond(options=once)
        except ChatapiError:
            translation.wanted = None
            raise

    async def _cancel(self, event: client_events.ResponseCancel) -> None:
        if event.response_id is not None and self._asides.cancel(event.response_id):
            return
        reply = self._translation.reply
        if reply is None or event.response_id not in (None, reply.id):
            raise BadInput("no such response is going on", code="response_cancel_not_active")
        self._by_client()
        await self._translation.give_up()

    def _by_client(self) -> None:
        if self._translation.reply is not None:
            self._translation.reply.reason = "client_cancelled"


async def _threaded(size: int, function: Callable[[A], T], argument: A) -> T:
    """What the function makes of so many characters, on a thread where they are many."""
    if size < LARGE:
        return function(argument)
    return await anyio.to_thread.run_sync(function, argument)


async def send(websocket: WebSocket, event: dict[str, Any], seconds: float) -> None:
    """Raises Gone when the client does not take it in time."""
    with anyio.move_on_after(seconds):
        await websocket.send({"type": "websocket.send", "text": json.dumps(event)})
        return
    raise RealtimeClosed
