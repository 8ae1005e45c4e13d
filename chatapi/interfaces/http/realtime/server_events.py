"""What happens in a live conversation, in the words of OpenAI's Realtime API."""

from __future__ import annotations

from typing import Any

from chatapi.errors import ChatapiError
from chatapi.events import (
    Failed,
    IdleTimeoutReached,
    Interrupted,
    LiveEvent,
    ResponseStarted,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    ToolCalls,
    Transcript,
    TurnEnded,
)
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime.client_events import ResponseConfig, SessionConfig
from chatapi.interfaces.http.realtime.items import ConversationItems, Item
from chatapi.interfaces.http.realtime.response import RealtimeResponse, Tell
from chatapi.services.live import LiveSession as Conversation

TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


class InputAudioState:
    """One utterance on its way from sound to an item."""

    def __init__(self, tell: Tell) -> None:
        self.item = Item("user", "input_audio")
        self.announced = False
        """The client was told that somebody speaks."""
        self.fault: ChatapiError | None = None
        self._tell = tell
        self._told = ""
        """Words sent as deltas: they cannot be taken back."""
        self._guess: list[str] = []

    async def partial(self, text: str) -> None:
        """Send the words of which two guesses in a row agree."""
        words, before = text.split(), self._guess
        agreed = next((n for n, pair in enumerate(zip(words, before, strict=False)) if pair[0] != pair[1]),
                      min(len(words), len(before)))  # fmt: skip
        self._guess = words
        await self._delta(" ".join(words[:agreed]))

    async def final(self, heard: Transcript) -> None:
        """All that was said."""
        await self._delta(heard.text)
        usage = {"type": "duration", "seconds": round(max(0.0, heard.end - heard.start), 3)}
        await self._about("completed", transcript=heard.text, usage=usage)

    async def failed(self, error: ChatapiError) -> None:
        await self._about("failed", error=fault(error))

    async def _delta(self, text: str) -> None:
        if text.startswith(self._told) and len(text) > len(self._told):
            await self._about("delta", delta=text[len(self._told) :])
            self._told = text

    async def _about(self, what: str, **fields: Any) -> None:
        name = f"conversation.item.input_audio_transcription.{what}"
        await self._tell(name, item_id=self.item.id, content_index=0, **fields)


class ServerEventWriter:
    """Follows one session's events, in order."""

    def __init__(
        self, tell: Tell, conversation: Conversation, dialogue: ConversationItems, config: SessionConfig
    ) -> None:
        self.config = config
        self.reply: RealtimeResponse | None = None
        """The response that goes on."""
        self.last: RealtimeResponse | None = None
        self.wanted: ResponseConfig | None = None
        """What the client asked for with a `response.create` whose answer has not begun yet."""
        self._tell = tell
        self._conversation = conversation
        self._dialogue = dialogue
        self._hearing = InputAudioState(tell)
        self._held: SpeechStarted | None = None
        """Speech against an answer, of which a client that pauses is told once it matters."""
        self._takers = {
            SpeechStarted: self._speech_started,
            SpeechStopped: self._speech_stopped,
            IdleTimeoutReached: self._idle,
            Transcript: self._transcript,
            Resumed: self._resumed,
            ResponseStarted: self._answer_started,
            TextDelta: self._text,
            ToolCalls: self._called,
            Speech: self._speech,
            Interrupted: self._interrupted,
            Failed: self._failed,
            TurnEnded: self._turn_ended,
        }

    async def take(self, event: LiveEvent) -> None:
        """Tell the client of it."""
        if (taker := self._takers.get(type(event))) is not None:
            await taker(event)  # type: ignore[operator]

    async def cleared(self) -> None:
        """The client threw away what was heard."""
        self._hearing = InputAudioState(self._tell)
        if self._held is not None:
            await self._resumed(Resumed())

    @property
    def _pausing(self) -> bool:
        return self.config.chatapi is not None and self.config.chatapi.pausing

    # What is heard

    async def _speech_started(self, event: SpeechStarted) -> None:
        if event.during_answer and self._pausing:
            self._held = event
            await self._tell("chatapi.output_audio.paused")
            return
        await self._announced(event)
        vad = self.config.audio.input.turn_detection
        if event.during_answer or (self.reply is not None and not self._pausing and vad and vad.interrupt_response):
            # Such a client has just thrown away what it had of the answer: nothing can be resumed. Not any answer: by
            # now what was said may be answered.
            await self.give_up("interrupted")

    async def give_up(self, kind: str = "cancelled") -> bool:
        """The last answer that the client was told of, if it is still the conversation's."""
        answer = self.last.answer if self.last is not None else None
        return answer is not None and await self._conversation.cancel(answer, kind)

    async def _announced(self, event: SpeechStarted) -> None:
        self._hearing.announced = True
        await self._tell(
            "input_audio_buffer.speech_started", audio_start_ms=round(event.at * 1000), item_id=self._hearing.item.id
        )

    async def _speech_stopped(self, event: SpeechStopped) -> None:
        hearing = self._hearing
        if hearing.announced:
            await self._tell(
                "input_audio_buffer.speech_stopped", audio_end_ms=round(event.at * 1000), item_id=hearing.item.id
            )
        by_hand = self.config.audio.input.turn_detection is None
        if event.answered or hearing.fault is not None or by_hand:
            await self._committed(hearing.item)
        elif hearing.announced:
            await self._tell("input_audio_buffer.cleared")
        if event.answered:
            return
        if hearing.fault is not None:
            await hearing.failed(hearing.fault)
        elif by_hand:
            await self._transcript(Transcript(""))
        self._hearing = InputAudioState(self._tell)

    async def _idle(self, event: IdleTimeoutReached) -> None:
        item, self._hearing = self._hearing.item, InputAudioState(self._tell)
        item.text = ""
        start, end = round(event.start * 1000), round(event.end * 1000)
        await self._tell(
            "input_audio_buffer.timeout_triggered", audio_start_ms=start, audio_end_ms=end, item_id=item.id
        )
        await self._committed(item)

    async def _committed(self, item: Item) -> None:
        before = self._dialogue.add(item)
        await self._tell("input_audio_buffer.committed", previous_item_id=before, item_id=item.id)
        await self._tell("conversation.item.added", previous_item_id=before, item=item.document())
        await self._tell("conversation.item.done", previous_item_id=before, item=item.document())

    async def _transcript(self, event: Transcript) -> None:
        hearing, wanted = self._hearing, self.config.audio.input.transcription is not None
        if not event.final:
            if self._pausing:
                await self._tell("chatapi.transcript.partial", text=event.text)
            if wanted:
                await hearing.partial(event.text)
            return
        hearing.item.text = event.text
        if wanted:
            await hearing.final(event)
        self._hearing = InputAudioState(self._tell)

    async def _resumed(self, _: Resumed) -> None:
        if self._held is not None:
            self._held = None
            await self._tell("chatapi.output_audio.resumed")

    # What is answered

    async def _answer_started(self, event: ResponseStarted) -> None:
        if self.reply is not None:
            await self.reply.cancelled()
        answer = self._conversation.answer
        if answer is not None and answer.asked != event.user_text:
            # It has been replaced since; what is told of the old one ends with its Interrupted.
            answer = None
        for item in self._dialogue.unanswered():
            item.answer = answer
        wanted, self.wanted = self.wanted, None
        config, metadata = (effective(self.config, wanted), wanted.metadata) if wanted else (self.config, None)
        self.reply = self.last = RealtimeResponse(self._tell, self._dialogue, config, answer, metadata)
        await self.reply.begin(self._conversation.conversation_state.id)

    async def _text(self, event: TextDelta) -> None:
        if self.reply is not None:
            await self.reply.text(event)

    async def _called(self, event: ToolCalls) -> None:
        if self.reply is not None:
            self.reply.called(event)

    async def _speech(self, event: Speech) -> None:
        if self.reply is not None:
            await self.reply.speech(event)

    async def _turn_ended(self, event: TurnEnded) -> None:
        if self.reply is not None:
            reply, self.reply = self.reply, None
            await reply.ended(event)

    async def _interrupted(self, event: Interrupted) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            await self._announced(held)
        reply, self.reply = self.reply, None
        if reply is not None:
            await reply.cancelled()
        if self.last is None:
            return
        if event.retracted:
            await self._forget(self.last)
        elif self.config.chatapi is not None:
            await self._tell("chatapi.interrupted", response_id=self.last.id, text=event.text)

    async def _forget(self, reply: RealtimeResponse) -> None:
        """The turn goes on in the utterance that follows, which will hold its words as well."""
        for item in (*reply.items, self._dialogue.answered(reply.answer)):
            if item is not None:
                self._dialogue.drop(item)
                await self._tell("conversation.item.deleted", item_id=item.id)

    async def _failed(self, event: Failed) -> None:
        if self.reply is not None and not event.during_transcription:
            self.reply.error = event.error
        else:
            self._hearing.fault = event.error


def effective(config: SessionConfig, wanted: ResponseConfig) -> SessionConfig:
    """The session's configuration with what one response changes of it."""
    output = config.audio.output.model_copy()
    if wanted.audio.output.format is not None:
        output.format = wanted.audio.output.format
    if wanted.audio.output.voice is not None:
        output.voice = wanted.audio.output.voice
    changed: dict[str, Any] = {"audio": config.audio.model_copy(update={"output": output})}
    for name in ("instructions", "max_output_tokens", "output_modalities", *TOOLS):
        if (value := getattr(wanted, name)) is not None:
            changed[name] = value
    return config.model_copy(update=changed)
