"""The result of a turn, folded from its events."""

from __future__ import annotations

from chatapi.audio import Audio, joined
from chatapi.errors import InternalError
from chatapi.events import (
    Event,
    ReasoningDelta,
    Speech,
    TextDelta,
    TextWithdrawn,
    Token,
    ToolCall,
    ToolCalls,
    Transcript,
    TurnEnded,
    TurnStarted,
)


class TurnResult:
    """The result of a turn so far; `add` takes each of its events."""

    def __init__(self) -> None:
        self.conversation = ""
        self.transcript: str | None = None
        """Transcript of the request; None: it was text."""
        self.text = ""
        """The answer, with the white space at its end."""
        self.reasoning = ""
        """The model's reasoning, where it was requested."""
        self.tokens: list[Token] = []
        """Tokens of the answer, where they were requested."""
        self.calls: list[ToolCall] = []
        self.speech: list[Audio] = []
        self._ended: TurnEnded | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, TurnStarted):
            self.conversation = event.conversation
        elif isinstance(event, Transcript):
            self.transcript = event.text
        elif isinstance(event, TextDelta):
            self.text += event.text
            self.tokens += event.tokens
        elif isinstance(event, ReasoningDelta):
            self.reasoning += event.text
        elif isinstance(event, TextWithdrawn):
            self.text = ""
            self.tokens.clear()
            self.speech.clear()
        elif isinstance(event, ToolCalls):
            self.calls += event.calls
        elif isinstance(event, Speech):
            self.speech.append(event.audio)
        elif isinstance(event, TurnEnded):
            self._ended = event

    @property
    def reply(self) -> str:
        """The answer as it is stored."""
        return self.text.rstrip()

    @property
    def ended(self) -> TurnEnded:
        """The last event of the turn."""
        if self._ended is None:
            raise InternalError("the turn ended without a TurnEnded event")
        return self._ended

    def audio(self) -> Audio:
        """The whole spoken answer, at the sample rate of its first part."""
        if not self.speech:
            raise InternalError("the response has no audio")
        rate = self.speech[0].rate
        return joined([part.at(rate) for part in self.speech])
