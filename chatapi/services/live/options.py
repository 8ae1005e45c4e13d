"""The options and the origin of a live session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatapi.engines import DEFAULT_OPTIONS, Sampling, TranscriptionOptions
from chatapi.errors import Unprocessable
from chatapi.services.transcription.speakers import KnownSpeaker
from chatapi.settings import LimitSettings


@dataclass
class SessionOptions:
    """Options that can change during a session."""

    detect: bool = True
    """Whether turn detection ends turns; otherwise `commit` ends them."""
    semantic: bool = True
    """Whether the transcript and the audio decide how long a pause ends a turn, or only `silence_ms`."""
    silence_ms: int = 500
    """Silence that ends a turn without semantic turn detection, in milliseconds."""
    delay_factor: float = 1.0
    """Factor on the endpointing delays of semantic turn detection; below 1 is more eager."""
    threshold: float | None = None
    """Probability from which a frame is speech; None: that of the settings."""
    converse: bool = True
    """Whether turns are part of the conversation; otherwise they are only transcribed, and nothing is kept of them."""
    answer: bool = True
    """Whether a turn is answered automatically."""
    interrupt: bool = True
    """Whether speech interrupts an answer."""
    idle_seconds: float | None = None
    """Silence after an answer that triggers another answer, in seconds; None: never."""
    reads_aloud: bool = False
    """Whether the user's texts are spoken as they are, and no model answers them."""
    speak: bool = True
    """Whether answers are spoken."""
    commands: bool = False
    """Whether commands are detected in the audio beside the conversation; those with an action are not answered."""
    partials: bool = True
    """Whether partial transcripts are sent."""
    system: str | None = None
    """The system prompt; None: that of the settings."""
    voice: str | None = None
    """The voice's name; None: the default voice."""
    speed: float = 1.0
    """Speech rate relative to the voice's own."""
    language: str | None = None
    """ISO 639-1 code of the user's language; None: that of the settings, or detected."""
    transcription: TranscriptionOptions = DEFAULT_OPTIONS
    """How the user's speech is transcribed: the text that precedes it, and whether transcripts carry their tokens."""
    speakers: bool = False
    """Whether final transcripts have speaker labels."""
    known_speakers: tuple[KnownSpeaker, ...] = ()
    """Speakers of whom there is a sample; those of the first transcript count."""
    max_tokens: int | None = None
    """Most tokens of an answer; None: the limit of the settings."""
    temperature: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """The tools that answers may call."""


def check_system(options: SessionOptions, limits: LimitSettings) -> None:
    """Raises Unprocessable (string_above_max_length) for a system prompt that is too long."""
    if (length := len(options.system or "")) > (limit := limits.system_chars):
        message = f"instructions has {length} characters; the limit is {limit} (limits.system_chars)"
        raise Unprocessable(message, code="string_above_max_length", details={"param": "instructions"})


@dataclass(frozen=True)
class SessionOrigin:
    """The interface and the trace of a session, for metrics and tracing."""

    interface: Literal["realtime", "audio_device", "other"] = "other"
    traceparent: str = ""
    """The caller's trace, in the format of W3C Trace Context."""
