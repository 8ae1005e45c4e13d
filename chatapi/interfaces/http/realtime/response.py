"""One response, from `response.created` to `response.done`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from chatapi.errors import ChatapiError
from chatapi.events import Speech, TextDelta, ToolCall, ToolCalls, TurnEnded, TurnTimings
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime.audio_format import Outgoing
from chatapi.interfaces.http.realtime.client_events import SessionConfig
from chatapi.interfaces.http.realtime.items import CallItem, ConversationItems, Item, new_id
from chatapi.services.live.answer import Answer

STATUS = {"stop": "completed", "length": "incomplete", "failed": "failed"}
"""How an answer ended -> what its response is then."""


class Tell(Protocol):
    """Sends the client an event."""

    async def __call__(self, kind: str, /, **fields: Any) -> None: ...


class RealtimeResponse:
    """What a client sees of an answer: a message with one part, at index 0, and functions that are to be called."""

    def __init__(
        self,
        tell: Tell,
        dialogue: ConversationItems | None,
        config: SessionConfig,
        answer: Answer | None,
        metadata: dict[str, str] | None,
    ) -> None:
        """`dialogue` None: it belongs to none."""
        self.id = new_id("resp")
        self.reason = "turn_detected"
        """Why it is cancelled, when it is."""
        self.error: ChatapiError | None = None
        self.answer = answer
        self.items: list[Item] = []
        """Those of it that the client was told of."""
        self._tell = tell
        self._dialogue = dialogue
        self._config = config
        self._metadata = metadata
        self._conversation: str | None = None
        self._excuse = ""
        self._spoken = config.output_modalities == ["audio"]
        self._out = Outgoing(config.audio.output.format.type)
        kind = "output_audio" if self._spoken else "output_text"
        self._message = Item("assistant", kind, "", status="in_progress", answer=answer)
        self._calls: list[ToolCall] = []

    async def begin(self, conversation: str | None) -> None:
        self._conversation = conversation
        await self._tell("response.created", response=self._document("in_progress"))
        if not self._config.tools or self._config.tool_choice == "none":
            await self._open()

    async def text(self, delta: TextDelta) -> None:
        await self._open()
        self._message.text = (self._message.text or "") + delta.text
        name = "output_audio_transcript" if self._spoken else "output_text"
        await self._tell(f"response.{name}.delta", **self._at(delta=delta.text))

    async def speech(self, speech: Speech) -> None:
        await self._open()
        start = self._message.playback.seconds
        self._message.playback.add(speech, 0)
        if self.error is not None and speech.text != self._excuse:
            # What the model did not write is to be read as well.
            self._excuse = speech.text
            await self.text(TextDelta(f" {speech.text}" if self._message.text else speech.text))
        if self._spoken:
            if self._config.chatapi is not None:
                end = self._message.playback.seconds
                span = {"audio_start_ms": round(start * 1000), "audio_end_ms": round(end * 1000)}
                await self._tell("chatapi.speech", **self._at(text=speech.text, **span))
            for delta in self._out.feed(speech.audio):
                await self._tell("response.output_audio.delta", **self._at(delta=delta))

    def called(self, event: ToolCalls) -> None:
        """Told once it is whole: what is said before a call is still being spoken."""
        self._calls += event.calls

    async def ended(self, turn: TurnEnded) -> None:
        """It is whole, or failed."""
        status = STATUS.get(turn.finish_reason, "completed")
        details: dict[str, Any] = {"type": status}
        if status == "incomplete":
            details["reason"] = "max_output_tokens"
        elif status == "failed" and self.error is not None:
            details["error"] = fault(self.error)
        if self._spoken and self.items:
            for delta in self._out.finish():
                await self._tell("response.output_audio.delta", **self._at(delta=delta))
        await self._close(status)
        for call in self._calls:
            await self._call(call, status)
        await self._finish(status, details, _usage(turn), turn.timings)

    async def cancelled(self) -> None:
        """Nothing more of it comes."""
        details = {"type": "cancelled", "reason": self.reason}
        timings = self.answer.timings if self.answer is not None else TurnTimings()
        await self._close("cancelled")
        await self._finish("cancelled", details, _usage(None), timings)

    async def _open(self) -> None:
        """Its message begins; where functions may be called not before its first word, for it may be only a call."""
        if not self.items:
            await self._added(self._message)
            await self._tell("response.content_part.added", **self._at(part=self._part()))

    async def _close(self, status: str) -> None:
        """No more words of it come."""
        message = self._message
        if not self.items:
            return
        message.status = "completed" if status == "completed" else "incomplete"
        if self._spoken:
            await self._tell("response.output_audio.done", **self._at())
            await self._tell("response.output_audio_transcript.done", **self._at(transcript=message.text))
        else:
            await self._tell("response.output_text.done", **self._at(text=message.text))
        await self._tell("response.content_part.done", **self._at(part=self._part()))
        await self._done(message)

    async def _call(self, call: ToolCall, status: str) -> None:
        item = CallItem("", "function_call", status="in_progress", answer=self.answer, call=call)
        await self._added(item)
        place = self._place(item_id=item.id, call_id=call.id)
        await self._tell("response.function_call_arguments.delta", **place, delta=call.arguments)
        await self._tell("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        item.status = "completed" if status == "completed" else "incomplete"
        await self._done(item)

    async def _added(self, item: Item) -> None:
        self.items.append(item)
        await self._tell("response.output_item.added", **self._place(item=item.document(empty=True)))
        if self._dialogue is not None:
            before = self._dialogue.add(item)
            await self._tell("conversation.item.added", previous_item_id=before, item=item.document(empty=True))

    async def _done(self, item: Item) -> None:
        await self._tell("response.output_item.done", **self._place(item=item.document()))
        if self._dialogue is not None:
            await self._tell("conversation.item.done", item=item.document())

    async def _finish(self, status: str, details: dict[str, Any], usage: dict[str, Any], timings: TurnTimings) -> None:
        output = [item.document() for item in self.items]
        done = self._document(status, status_details=details, output=output, usage=usage)
        await self._tell("response.done", response=done)
        if self._config.chatapi is not None:
            await self._tell("chatapi.timings", response_id=self.id, timings=asdict(timings))

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

    def _place(self, **more: Any) -> dict[str, Any]:
        """Of the last item."""
        return {"response_id": self.id, "output_index": len(self.items) - 1, **more}

    def _at(self, **more: Any) -> dict[str, Any]:
        return {**self._place(), "item_id": self._message.id, "content_index": 0, **more}


def _usage(turn: TurnEnded | None) -> dict[str, Any]:
    """Tokens; of a response that was cancelled nobody knows them."""
    read, cached, written = (turn.prompt_tokens, turn.cached_tokens, turn.completion_tokens) if turn else (0, 0, 0)
    return {
        "total_tokens": read + written,
        "input_tokens": read,
        "output_tokens": written,
        "input_token_details": {"text_tokens": read, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": cached},
        "output_token_details": {"text_tokens": written, "audio_tokens": 0},
    }
