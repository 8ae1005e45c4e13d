"""One item of a live session's conversation: a message, a tool call, or the result of one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatapi.events import ToolCall
from chatapi.services.live.answer import Answer
from chatapi.services.live.playback import PlaybackPosition


def new_id(kind: str) -> str:
    """A new id, such as item_ and twenty hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(eq=False)
class Item:
    """An item of the conversation: a message, or as a CallItem a tool call."""

    role: str
    """user, assistant or system; empty for a tool call."""
    kind: str
    """input_text, input_audio, output_text or output_audio; function_call or function_call_output."""
    text: str | None = None
    """Text or transcript; None while it is not known yet."""
    id: str = field(default_factory=lambda: new_id("item"))
    status: str = "completed"
    answer: Answer | None = None
    """The answer that it is, or that responds to it."""
    number: int | None = None
    """Number of its turn in the history, when the client created it."""
    playback: PlaybackPosition = field(default_factory=PlaybackPosition)

    @property
    def exchange(self) -> int | None:
        return self.answer.number if self.answer is not None else self.number

    @property
    def unanswered(self) -> bool:
        """Whether it is a user's item without a response; a withdrawn answer is none."""
        return self.role == "user" and self.number is None and (self.answer is None or self.answer.withdrawn)

    @property
    def size(self) -> int:
        """Its size, in characters."""
        return len(self.text or "")

    def renumber(self, moved: Mapping[int, int]) -> None:
        """Takes over the new number of its turn. `moved`: old number -> new number."""
        if self.number is not None:
            self.number = moved.get(self.number, self.number)
        if self.answer is not None and self.answer.number is not None:
            self.answer.number = moved.get(self.answer.number, self.answer.number)


@dataclass(eq=False)
class CallItem(Item):
    """A tool call, or with `output` its result."""

    call: ToolCall = field(kw_only=True)
    output: str | None = None

    @property
    def size(self) -> int:
        return len(self.call.arguments) + len(self.output or "")
