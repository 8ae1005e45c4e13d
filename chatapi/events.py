"""What happens in a turn, as frozen values: abilities emit them, faces translate them and decide nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatapi.audio import Audio
from chatapi.errors import ChatapiError


@dataclass(frozen=True)
class TurnStarted:
    """The turn was let in."""

    conversation: str


@dataclass(frozen=True)
class Transcript:
    """What was understood of what was said."""

    text: str
    final: bool = True
    """False: a guess that later ones replace."""
    start: float = 0.0
    """Seconds from the start of the audio."""
    end: float = 0.0
    language: str = ""
    """ISO 639-1."""


@dataclass(frozen=True)
class Token:
    """A token of an answer, and how probable it was."""

    text: str
    logprob: float
    """Natural logarithm of its probability."""
    raw: bytes
    """Its bytes, which may be a part of a character."""
    likeliest: tuple[Token, ...] = ()
    """As many as were asked for of those that could have stood at its place, itself perhaps among them."""


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer as it is to be read."""

    text: str
    tokens: tuple[Token, ...] = ()
    """What it consists of, where that was asked for."""


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called."""

    id: str
    name: str
    arguments: str
    """A JSON object."""


@dataclass(frozen=True)
class ToolCalls:
    """The answer, or its end, is that these functions are to be called."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True)
class Speech:
    """A stretch of the answer, spoken."""

    audio: Audio
    text: str
    """The words it says, as spoken: numbers and abbreviations written out."""


@dataclass(frozen=True)
class JobProgress:
    """How far a long work has come."""

    done: float
    """In the work's own unit, for example seconds of audio."""
    total: float


@dataclass(frozen=True)
class TurnTimings:
    """When things happened in a turn, in seconds from its acceptance; None: they did not."""

    speech_end: float | None = None
    """End of speech, in seconds from the start of the audio."""
    audio: float | None = None
    """Length of the audio, seconds."""
    endpoint: float | None = None
    """Live: the turn was taken to be over; all times count from the arrival of the last sound of speech."""
    admitted: float | None = None
    """The gate let it in."""
    transcript: float | None = None
    """The transcript was final."""
    first_token: float | None = None
    first_sentence: float | None = None
    """The first speakable piece of text was whole."""
    first_audio: float | None = None
    end: float | None = None
    spoken: float | None = None
    """Length of the answer's audio, seconds."""


@dataclass(frozen=True)
class TurnEnded:
    """The turn is over; nothing follows."""

    conversation: str
    finish_reason: str
    """stop: the model had said all; length: a limit cut it; tool_calls: it wants functions called."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    timings: TurnTimings = field(default_factory=TurnTimings)
    kept: bool = True
    """Whether the exchange is on the disk, where one is kept; False: in memory, until the disk can be written again."""


@dataclass(frozen=True)
class TurnRecord:
    """What is counted and traced of a turn that is over, whatever became of it; not a word of what was said."""

    kind: Literal["request", "live", "file"]
    """file: a recording written down, or a text read aloud."""
    input: Literal["text", "voice"]
    reply: Literal["text", "voice"]
    result: str
    """ok, disconnected (the client went away), interrupted, retracted (it was no turn yet), or an error code."""
    since: float
    """What the timings counts from, on the monotonic clock."""
    timings: TurnTimings
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    traceparent: str = ""
    """The caller's trace, as W3C Trace Context writes it; empty: it has none."""


Event = TurnStarted | Transcript | TextDelta | ToolCalls | Speech | JobProgress | TurnEnded


@dataclass(frozen=True)
class SpeechStarted:
    """Live: somebody begins to speak; what was playing is to be silent at once."""

    at: float
    """Seconds of sound received before it."""
    during_answer: bool = False
    """Speech against an answer that is still to be heard: keep what is left of it until `Interrupted` or `Resumed`."""


@dataclass(frozen=True)
class SpeechStopped:
    """Live: they have stopped speaking."""

    at: float
    """Seconds of sound received before the end of their speech."""
    heard: bool = True
    """False: it was no speech, or nothing to answer."""


@dataclass(frozen=True)
class IdleTimeoutReached:
    """Live: nobody said anything for so long after an answer that another one follows."""

    start: float
    """Seconds of sound received before the silence."""
    end: float


@dataclass(frozen=True)
class Resumed:
    """Live: nothing that matters was said against the answer; it goes on from where it stopped."""


@dataclass(frozen=True)
class ResponseStarted:
    """Live: text and speech of an answer follow, up to its `TurnEnded`, or `Interrupted`."""

    asked: str


@dataclass(frozen=True)
class Interrupted:
    """Live: the answer is given up; nothing more of it follows and nothing more is to be heard."""

    spoken: float
    """Seconds of it that were heard."""
    text: str
    """The words of it that were heard."""
    retracted: bool = False
    """The turn it answers goes on: neither that turn's end nor the answer counts."""


@dataclass(frozen=True)
class Failed:
    """Live: something did not work; the conversation goes on."""

    error: ChatapiError
    heard: bool = False
    """Whether it is what was said that could not be understood, and no answer that failed."""


LiveEvent = (
    SpeechStarted | SpeechStopped | IdleTimeoutReached | Resumed | ResponseStarted | Interrupted | Failed | Event
)
