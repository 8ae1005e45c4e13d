"""Translates the events of a live session into server events of OpenAI's Realtime API."""

from __future__ import annotations

from typing import Any

from chatapi.errors import ChatapiError
from chatapi.events import (
    CommandDetection,
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
    TextWithdrawn,
    ToolCalls,
    Transcript,
    TurnEnded,
)
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime.item_documents import document
from chatapi.interfaces.http.realtime.response import RealtimeResponse, SendEvent
from chatapi.interfaces.http.realtime.session_config import LOGPROBS, ResponseConfig, SessionConfig, effective
from chatapi.services.live import LiveSession as Conversation
from chatapi.services.live.conversation_item import Item, new_id


class InputAudioState:
    """One user utterance, from its speech onset to its item."""

    def __init__(self, send_event: SendEvent) -> None:
        self.item = Item("user", "input_audio")
        self.announced = False
        """Whether `speech_started` was sent."""
        self.fault: ChatapiError | None = None
        self._send_event = send_event
        self._sent_text = ""
        """Text sent as deltas, which cannot be withdrawn."""
        self._last_partial: list[str] = []

    async def partial(self, text: str) -> None:
        """Sends the words on which two consecutive partial transcripts agree."""
        words, before = text.split(), self._last_partial
        agreed = next((n for n, pair in enumerate(zip(words, before, strict=False)) if pair[0] != pair[1]),
                      min(len(words), len(before)))  # fmt: skip
        self._last_partial = words
        await self._delta(" ".join(words[:agreed]))

    async def final(self, transcript: Transcript, logprobs: bool) -> None:
        """Sends the final transcript; `logprobs`: with its tokens."""
        await self._delta(transcript.text)
        usage = {"type": "duration", "seconds": round(max(0.0, transcript.end - transcript.start), 3)}
        tokens = [{"token": each.text, "logprob": each.logprob, "bytes": list(each.raw)} for each in transcript.tokens]
        more = {"logprobs": tokens} if logprobs else {}
        await self._send_transcription_event("completed", transcript=transcript.text, usage=usage, **more)

    async def segment(self, transcript: Transcript) -> None:
        """Sends who spoke, in the form of OpenAI's diarized transcripts."""
        await self._send_transcription_event(
            "segment", id=new_id("seg"), text=transcript.text, speaker=transcript.speaker,
            start=round(transcript.start, 3), end=round(transcript.end, 3),
        )  # fmt: skip

    async def failed(self, error: ChatapiError) -> None:
        await self._send_transcription_event("failed", error=fault(error))

    async def _delta(self, text: str) -> None:
        if text.startswith(self._sent_text) and len(text) > len(self._sent_text):
            await self._send_transcription_event("delta", delta=text[len(self._sent_text) :])
            self._sent_text = text

    async def _send_transcription_event(self, what: str, **fields: Any) -> None:
        name = f"conversation.item.input_audio_transcription.{what}"
        await self._send_event(name, item_id=self.item.id, content_index=0, **fields)


class ServerEventWriter:
    """Translates the events of one session, in order."""

    def __init__(self, send_event: SendEvent, conversation: Conversation, config: SessionConfig) -> None:
        self.config = config
        self.response: RealtimeResponse | None = None
        """The response in progress."""
        self.last: RealtimeResponse | None = None
        self.requested: ResponseConfig | None = None
        """Options of a `response.create` whose response has not started yet."""
        self._send_event = send_event
        self._conversation = conversation
        self._items = conversation.items
        self._input = InputAudioState(send_event)
        self._deferred_start: SpeechStarted | None = None
        """Speech during playback that is not announced to a pausing client until it is a barge-in."""
        self._handlers = {
            SpeechStarted: self._speech_started,
            SpeechStopped: self._speech_stopped,
            IdleTimeoutReached: self._idle,
            Transcript: self._transcript,
            Resumed: self._resumed,
            ResponseStarted: self._response_started,
            TextDelta: self._text,
            TextWithdrawn: self._text_withdrawn,
            ToolCalls: self._tool_calls,
            Speech: self._speech,
            Interrupted: self._interrupted,
            CommandDetection: self._command,
            Failed: self._failed,
            TurnEnded: self._turn_ended,
        }

    async def handle(self, event: LiveEvent) -> None:
        """Sends the server events for a live event."""
        if (handler := self._handlers.get(type(event))) is not None:
            await handler(event)  # type: ignore[operator]

    async def input_cleared(self) -> None:
        """Resets the utterance after the input audio was cleared."""
        self._input = InputAudioState(self._send_event)
        if self._deferred_start is not None:
            await self._resumed(Resumed())

    @property
    def _pausing(self) -> bool:
        return self.config.chatapi is not None and self.config.chatapi.pausing

    # Input

    async def _speech_started(self, event: SpeechStarted) -> None:
        if event.during_answer and self._pausing:
            self._deferred_start = event
            await self._send_event("chatapi.output_audio.paused")
            return
        await self._announce_speech(event)
        vad = self.config.audio.input.turn_detection
        if event.during_answer or (self.response is not None and not self._pausing and vad and vad.interrupt_response):
            # Such a client has just dropped the response's audio: nothing can be resumed. Only the announced response
            # is cancelled, because a response to the new utterance may have started already.
            await self.cancel_response("interrupted")

    async def cancel_response(self, kind: str = "cancelled") -> bool:
        """Cancels the last announced response, if it is still the current one; returns whether it was."""
        answer = self.last.answer if self.last is not None else None
        return answer is not None and await self._conversation.cancel(answer, kind)

    async def _announce_speech(self, event: SpeechStarted) -> None:
        self._input.announced = True
        await self._send_event(
            "input_audio_buffer.speech_started", audio_start_ms=round(event.at * 1000), item_id=self._input.item.id
        )

    async def _speech_stopped(self, event: SpeechStopped) -> None:
        utterance = self._input
        if utterance.announced:
            await self._send_event(
                "input_audio_buffer.speech_stopped", audio_end_ms=round(event.at * 1000), item_id=utterance.item.id
            )
        manual = self.config.audio.input.turn_detection is None
        if event.answered or utterance.fault is not None or manual:
            await self._committed(utterance.item)
        elif utterance.announced:
            await self._send_event("input_audio_buffer.cleared")
        if event.answered:
            return
        if utterance.fault is not None:
            await utterance.failed(utterance.fault)
        elif manual:
            await self._transcript(Transcript(""))
        self._input = InputAudioState(self._send_event)

    async def _idle(self, event: IdleTimeoutReached) -> None:
        item, self._input = self._input.item, InputAudioState(self._send_event)
        item.text = ""
        start, end = round(event.start * 1000), round(event.end * 1000)
        await self._send_event(
            "input_audio_buffer.timeout_triggered", audio_start_ms=start, audio_end_ms=end, item_id=item.id
        )
        await self._committed(item)

    async def _committed(self, item: Item) -> None:
        before = self._items.add(item)
        await self._send_event("input_audio_buffer.committed", previous_item_id=before, item_id=item.id)
        await self._send_event("conversation.item.added", previous_item_id=before, item=document(item))
        await self._send_event("conversation.item.done", previous_item_id=before, item=document(item))

    async def _transcript(self, event: Transcript) -> None:
        utterance, transcribed = self._input, self.config.audio.input.transcription is not None
        if not event.final:
            if self._pausing:
                await self._send_event("chatapi.transcript.partial", text=event.text)
            if transcribed:
                await utterance.partial(event.text)
            return
        utterance.item.text = event.text
        if transcribed:
            await utterance.final(event, LOGPROBS in (self.config.include or ()))
            if event.speaker:
                await utterance.segment(event)
        self._input = InputAudioState(self._send_event)

    async def _resumed(self, _: Resumed) -> None:
        if self._deferred_start is not None:
            self._deferred_start = None
            await self._send_event("chatapi.output_audio.resumed")

    # Responses

    async def _response_started(self, event: ResponseStarted) -> None:
        if self.response is not None:
            await self.response.finish_cancelled()
        answer = self._conversation.find_answer(event.response)
        for item in self._items.unanswered():
            item.answer = answer
        request, self.requested = self.requested, None
        config, metadata = (effective(self.config, request), request.metadata) if request else (self.config, None)
        self.response = self.last = RealtimeResponse(
            self._send_event, self._items, config, answer, metadata, event.response
        )
        await self.response.start(self._conversation.conversation_state.id)

    async def _text(self, event: TextDelta) -> None:
        if self.response is not None and self.response.id == event.response:
            await self.response.add_text(event)

    async def _text_withdrawn(self, event: TextWithdrawn) -> None:
        if self.response is not None and self.response.id == event.response:
            self.response.withdraw_text()

    async def _tool_calls(self, event: ToolCalls) -> None:
        if self.response is not None and self.response.id == event.response:
            self.response.add_tool_calls(event)

    async def _speech(self, event: Speech) -> None:
        if self.response is not None and self.response.id == event.response:
            await self.response.add_speech(event)

    async def _turn_ended(self, event: TurnEnded) -> None:
        if self.response is not None and self.response.id == event.response:
            response, self.response = self.response, None
            await response.finish(event)

    async def _interrupted(self, event: Interrupted) -> None:
        if self._deferred_start is not None:
            deferred, self._deferred_start = self._deferred_start, None
            await self._announce_speech(deferred)
        if self.last is None or self.last.id != event.response:
            return
        response, self.response = self.response, None
        if response is not None:
            await response.finish_cancelled()
        if event.retracted:
            await self._delete_items(self.last)
        elif self.config.chatapi is not None:
            await self._send_event("chatapi.interrupted", response_id=self.last.id, text=event.text)

    async def _delete_items(self, response: RealtimeResponse) -> None:
        """Deletes the items of a turn that the user continues; the next utterance will contain its text too."""
        for item in (*response.output, self._items.spoken_item(response.answer)):
            if item is not None:
                self._items.remove(item)
                await self._send_event("conversation.item.deleted", item_id=item.id)

    async def _command(self, event: CommandDetection) -> None:
        start, end = round(event.start * 1000), round(event.end * 1000)
        await self._send_event("chatapi.command", label=event.label, probability=round(event.probability, 4),
                               audio_start_ms=start, audio_end_ms=end)  # fmt: skip

    async def _failed(self, event: Failed) -> None:
        if self.response is not None and not event.during_transcription:
            self.response.error = event.error
        else:
            self._input.fault = event.error
