"""Events of a turn, as frozen values: services emit them, interfaces translate them and decide nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatapi.audio import Audio
from chatapi.errors import ChatapiError


@dataclass(frozen=True)
class TurnStarted:
    """The turn was admitted."""

    conversation: str


@dataclass(frozen=True)
class Transcript:
    """A transcript, partial or final."""

    text: str
    final: bool = True
    """False: a partial transcript, which later ones replace."""
    start: float = 0.0
    """Seconds from the start of the audio."""
    end: float = 0.0
    """Seconds from the start of the audio."""
    language: str = ""
    """ISO 639-1 code."""
    tokens: tuple[Token, ...] = ()
    """The tokens of a final transcript, where they were requested."""
    speaker: str = ""
    """Label or name of who spoke, of a final transcript, where it was requested."""


@dataclass(frozen=True)
class Token:
    """A token of an answer or of a transcript, and its probability."""

    text: str
    logprob: float
    """Natural logarithm of its probability."""
    raw: bytes
    """Its bytes in UTF-8, which may be a part of a character."""
    top: tuple[Token, ...] = ()
    """The most probable tokens at its position, as many as were requested; it may be one of them."""


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer's text, as it is displayed."""

    text: str
    tokens: tuple[Token, ...] = ()
    """The tokens of the text, where they were requested."""
    response: str = ""
    """Id of the answer in a live session; empty elsewhere."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function that the model requests."""

    id: str
    name: str
    arguments: str
    """The arguments as a JSON object."""


@dataclass(frozen=True)
class ReasoningDelta:
    """A part of the model's reasoning; it is sent where `GenerationOptions.reasoning` requests it."""

    text: str


@dataclass(frozen=True)
class TextWithdrawn:
    """All text and speech of the answer so far were reasoning without an opening marker."""

    response: str = ""
    """Id of the answer in a live session; empty elsewhere."""


@dataclass(frozen=True)
class ToolCalls:
    """The answer, or its end, is these tool calls."""

    calls: tuple[ToolCall, ...]
    response: str = ""
    """Id of the answer in a live session; empty elsewhere."""


@dataclass(frozen=True)
class Speech:
    """Synthesized speech of a part of the answer."""

    audio: Audio
    text: str
    """The text of the audio after normalization: numbers and abbreviations are written out."""
    response: str = ""
    """Id of the answer in a live session; empty elsewhere."""


@dataclass(frozen=True)
class JobProgress:
    """Progress of a long job."""

    done: float
    """In the job's own unit, for example seconds of audio."""
    total: float
    """In the same unit as `done`."""


@dataclass(frozen=True)
class TurnTimings:
    """When the stages of a turn were reached, in seconds from its acceptance; None: not reached."""

    speech_end: float | None = None
    """End of speech, in seconds from the start of the audio."""
    audio: float | None = None
    """Length of the request's audio, in seconds."""
    endpoint: float | None = None
    """Live: end of turn was decided; all times count from the arrival of the last frame of speech."""
    admitted: float | None = None
    """Admission gave the turn a slot."""
    transcript: float | None = None
    """The transcript was final."""
    first_token: float | None = None
    first_sentence: float | None = None
    """The first sentence was complete and could be synthesized."""
    first_audio: float | None = None
    end: float | None = None
    spoken: float | None = None
    """Length of the answer's audio, in seconds."""


@dataclass(frozen=True)
class TurnEnded:
    """The turn is over; nothing follows."""

    conversation: str
    finish_reason: str
    """stop: the answer is complete; length: a token limit cut it; tool_calls: it ends with tool calls."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    timings: TurnTimings = field(default_factory=TurnTimings)
    kept: bool = True
    """Whether the exchange is stored on disk; False: it is kept in memory until the disk can be written again."""
    response: str = ""
    """Id of the answer in a live session; empty elsewhere."""
    reasoning_tokens: int = 0
    """The completion tokens that are reasoning, which the text does not contain."""


@dataclass(frozen=True)
class TurnRecord:
    """What metrics and traces record of a finished turn, whatever its result; it holds no text of the conversation."""

    kind: Literal["request", "live", "file"]
    """file: transcription of a recording, or synthesis of a text."""
    input: Literal["text", "voice"]
    reply: Literal["text", "voice"]
    result: str
    """ok, disconnected (the client), interrupted (barge-in), retracted (the turn was not over), or an error code."""
    since: float
    """Time on the monotonic clock from which `timings` count, in seconds."""
    timings: TurnTimings
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    traceparent: str = ""
    """The client's trace context, in the format of W3C Trace Context; empty: none."""


Event = (
    TurnStarted | Transcript | TextDelta | ReasoningDelta | TextWithdrawn | ToolCalls | Speech | JobProgress | TurnEnded
)


@dataclass(frozen=True)
class SpeechStarted:
    """Live: onset of speech. A client pauses playback at once."""

    at: float
    """Position of the onset, in seconds of audio received."""
    during_answer: bool = False
    """Speech during playback: a client keeps the rest of the answer until `Interrupted` or `Resumed`."""


@dataclass(frozen=True)
class SpeechStopped:
    """Live: end of an utterance."""

    at: float
    """Position of the end of speech, in seconds of audio received."""
    answered: bool = True
    """False: the utterance gets no answer, because it was not speech or needs none."""


@dataclass(frozen=True)
class IdleTimeoutReached:
    """Live: the silence after an answer reached the idle timeout; another answer follows."""

    start: float
    """Start of the silence, in seconds of audio received."""
    end: float
    """End of the silence, in seconds of audio received."""


@dataclass(frozen=True)
class WokenUp:
    """Live: the wake word ended, or a button replaced it. The current utterance and answer are cancelled, and a client
    drops their audio."""

    by: Literal["word", "button"]


@dataclass(frozen=True)
class WaitingForSpeech:
    """Live: no speech followed the wake word at once; a client may play a chime."""


@dataclass(frozen=True)
class FellAsleep:
    """Live: no speech for a while; all audio is ignored until the wake word."""


@dataclass(frozen=True)
class Resumed:
    """Live: the speech during playback was no interruption; playback resumes where it paused."""


@dataclass(frozen=True)
class ResponseStarted:
    """Live: text and speech of an answer follow, up to its `TurnEnded` or `Interrupted`."""

    user_text: str
    """The user's message that it answers."""
    response: str = ""
    """Id of the answer."""


@dataclass(frozen=True)
class Interrupted:
    """Live: the answer is cancelled; no more of it follows, and playback stops."""

    played: float
    """Seconds of the answer that were played."""
    text: str
    """The words of the answer that were played."""
    retracted: bool = False
    """The user's turn goes on: its end of turn and the answer are both withdrawn."""
    response: str = ""
    """Id of the answer."""


@dataclass(frozen=True)
class CommandDetection:
    """A command in a stream, or in the audio of a live session that listens for commands."""

    label: str
    probability: float
    """0 to 1."""
    start: float
    """Of the window, in seconds of the stream."""
    end: float
    version: int
    """The version that classified it; 0: the model itself."""


@dataclass(frozen=True)
class Failed:
    """Live: an error; the conversation continues."""

    error: ChatapiError
    during_transcription: bool = False
    """Whether the transcription of an utterance failed, not an answer."""


LiveEvent = (
    SpeechStarted
    | SpeechStopped
    | IdleTimeoutReached
    | WokenUp
    | WaitingForSpeech
    | FellAsleep
    | Resumed
    | ResponseStarted
    | Interrupted
    | CommandDetection
    | Failed
    | Event
)
