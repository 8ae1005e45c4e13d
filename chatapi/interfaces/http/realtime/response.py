"""One response of the Realtime API, from `response.created` to `response.done`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from chatapi.errors import ChatapiError
from chatapi.events import Speech, TextDelta, ToolCall, ToolCalls, TurnEnded, TurnTimings
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime.audio_format import OutputAudioStream
from chatapi.interfaces.http.realtime.item_documents import document
from chatapi.interfaces.http.realtime.session_config import SessionConfig
from chatapi.services.live.answer import Answer
from chatapi.services.live.conversation_item import CallItem, Item, new_id
from chatapi.services.live.items import ConversationItems

STATUS = {"stop": "completed", "length": "incomplete", "failed": "failed"}
"""Finish reason of the turn -> status of the response."""


class SendEvent(Protocol):
    """Sends a server event to the client."""

    async def __call__(self, kind: str, /, **fields: Any) -> None: ...


class RealtimeResponse:
    """A response: a message with one content part, at index 0, and tool calls."""

    def __init__(
        self,
        send_event: SendEvent,
        items: ConversationItems | None,
        config: SessionConfig,
        answer: Answer | None,
        metadata: dict[str, str] | None,
        response_id: str = "",
    ) -> None:
        """`items` is None for an out-of-band response. `response_id`: that of the events; empty: a new one."""
        self.id = response_id or new_id("resp")
        self.reason = "turn_detected"
        """Reason for a cancellation."""
        self.error: ChatapiError | None = None
        self.answer = answer
        self.output: list[Item] = []
        """Its items that the client knows."""
        self._send_event = send_event
        self._items = items
        self._config = config
        self._metadata = metadata
        self._conversation: str | None = None
        self._fallback_text = ""
        self._spoken = config.output_modalities == ["audio"]
        self._output = OutputAudioStream(config.audio.output.format.type)
        kind = "output_audio" if self._spoken else "output_text"
        self._message = Item("assistant", kind, "", status="in_progress", answer=answer)
        self._calls: list[ToolCall] = []

    async def start(self, conversation: str | None) -> None:
        self._conversation = conversation
        await self._send_event("response.created", response=self._document("in_progress"))
        if not self._config.tools or self._config.tool_choice == "none":
            await self._open_message()

    async def add_text(self, delta: TextDelta) -> None:
        await self._open_message()
        self._message.text = (self._message.text or "") + delta.text
        name = "output_audio_transcript" if self._spoken else "output_text"
        await self._send_event(f"response.{name}.delta", **self._part_fields(delta=delta.text))

    def withdraw_text(self) -> None:
        """Removes the text so far from the response; its deltas were sent."""
        self._message.text = ""
        self._message.playback.withdraw()

    async def add_speech(self, speech: Speech) -> None:
        await self._open_message()
        start = self._message.playback.seconds
        self._message.playback.add(speech, 0)
        if self.error is not None and speech.text != self._fallback_text:
            # The text of a fallback phrase is not from the model; the client receives it too.
            self._fallback_text = speech.text
            await self.add_text(TextDelta(f" {speech.text}" if self._message.text else speech.text))
        if self._spoken:
            if self._config.chatapi is not None:
                end = self._message.playback.seconds
                span = {"audio_start_ms": round(start * 1000), "audio_end_ms": round(end * 1000)}
                await self._send_event("chatapi.speech", **self._part_fields(text=speech.text, **span))
            for delta in self._output.feed(speech.audio):
                await self._send_event("response.output_audio.delta", **self._part_fields(delta=delta))

    def add_tool_calls(self, event: ToolCalls) -> None:
        """Adds tool calls, which are sent at the end because the speech before them is still synthesized."""
        self._calls += event.calls

    async def finish(self, turn: TurnEnded) -> None:
        """Completes the response, which succeeded or failed."""
        status = STATUS.get(turn.finish_reason, "completed")
        details: dict[str, Any] = {"type": status}
        if status == "incomplete":
            details["reason"] = "max_output_tokens"
        elif status == "failed" and self.error is not None:
            details["error"] = fault(self.error)
        if self._spoken and self.output:
            for delta in self._output.finish():
                await self._send_event("response.output_audio.delta", **self._part_fields(delta=delta))
        await self._close_message(status)
        for call in self._calls:
            await self._send_call(call, status)
        await self._send_done(status, details, _usage(turn), turn.timings)

    async def finish_cancelled(self) -> None:
        """Completes a cancelled response."""
        details = {"type": "cancelled", "reason": self.reason}
        timings = self.answer.timings if self.answer is not None else TurnTimings()
        await self._close_message("cancelled")
        await self._send_done("cancelled", details, _usage(None), timings)

    async def _open_message(self) -> None:
        """Starts the message; with tools only at its first text, because the response may be only a tool call."""
        if not self.output:
            await self._add_item(self._message)
            await self._send_event("response.content_part.added", **self._part_fields(part=self._part()))

    async def _close_message(self, status: str) -> None:
        """Ends the message."""
        message = self._message
        if not self.output:
            return
        message.status = "completed" if status == "completed" else "incomplete"
        if self._spoken:
            await self._send_event("response.output_audio.done", **self._part_fields())
            await self._send_event(
                "response.output_audio_transcript.done", **self._part_fields(transcript=message.text)
            )
        else:
            await self._send_event("response.output_text.done", **self._part_fields(text=message.text))
        await self._send_event("response.content_part.done", **self._part_fields(part=self._part()))
        await self._end_item(message)

    async def _send_call(self, call: ToolCall, status: str) -> None:
        item = CallItem("", "function_call", status="in_progress", answer=self.answer, call=call)
        await self._add_item(item)
        fields = self._item_fields(item_id=item.id, call_id=call.id)
        await self._send_event("response.function_call_arguments.delta", **fields, delta=call.arguments)
        await self._send_event(
            "response.function_call_arguments.done", **fields, name=call.name, arguments=call.arguments
        )
        item.status = "completed" if status == "completed" else "incomplete"
        await self._end_item(item)

    async def _add_item(self, item: Item) -> None:
        self.output.append(item)
        await self._send_event("response.output_item.added", **self._item_fields(item=document(item, empty=True)))
        if self._items is not None:
            before = self._items.add(item)
            await self._send_event("conversation.item.added", previous_item_id=before, item=document(item, empty=True))

    async def _end_item(self, item: Item) -> None:
        await self._send_event("response.output_item.done", **self._item_fields(item=document(item)))
        if self._items is not None:
            await self._send_event("conversation.item.done", item=document(item))

    async def _send_done(
        self, status: str, details: dict[str, Any], usage: dict[str, Any], timings: TurnTimings
    ) -> None:
        output = [document(item) for item in self.output]
        done = self._document(status, status_details=details, output=output, usage=usage)
        await self._send_event("response.done", response=done)
        if self._config.chatapi is not None:
            await self._send_event("chatapi.timings", response_id=self.id, timings=asdict(timings))

    def _document(self, status: str, **more: Any) -> dict[str, Any]:
        output = self._config.audio.output
        voice = output.voice if isinstance(output.voice, str) else output.voice.id
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": None,
            "output": [],
            "conversation_id": self._conversation,
            "output_modalities": self._config.output_modalities,
            "max_output_tokens": self._config.max_output_tokens,
            "audio": {"output": {"format": output.format.document(), "voice": voice}},
            "usage": None,
            "metadata": self._metadata,
            **more,
        }

    def _part(self) -> dict[str, Any]:
        return (
            {"type": "audio", "transcript": self._message.text}
            if self._spoken
            else {"type": "text", "text": self._message.text}
        )

    def _item_fields(self, **more: Any) -> dict[str, Any]:
        """The fields that locate the last item."""
        return {"response_id": self.id, "output_index": len(self.output) - 1, **more}

    def _part_fields(self, **more: Any) -> dict[str, Any]:
        return {**self._item_fields(), "item_id": self._message.id, "content_index": 0, **more}


def _usage(turn: TurnEnded | None) -> dict[str, Any]:
    """Token usage; 0 for a cancelled response, whose usage is unknown."""
    prompt, cached, completion = (turn.prompt_tokens, turn.cached_tokens, turn.completion_tokens) if turn else (0, 0, 0)
    return {
        "total_tokens": prompt + completion,
        "input_tokens": prompt,
        "output_tokens": completion,
        "input_token_details": {"text_tokens": prompt, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": cached},
        "output_token_details": {"text_tokens": completion, "audio_tokens": 0},
    }
