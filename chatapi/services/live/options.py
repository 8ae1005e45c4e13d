"""The options and the origin of a live session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatapi.engines import Sampling


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
    answer: bool = True
    """Whether a turn is answered automatically."""
    interrupt: bool = True
    """Whether speech interrupts an answer."""
    idle_seconds: float | None = None
    """Silence after an answer that triggers another answer, in seconds; None: never."""
    speak: bool = True
    """Whether answers are spoken."""
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
    max_tokens: int | None = None
    """Most tokens of an answer; None: the limit of the settings."""
    temperature: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """The tools that answers may call."""


@dataclass(frozen=True)
class SessionOrigin:
    """The interface and the trace of a session, for metrics and tracing."""

    interface: Literal["realtime", "audio_device", "other"] = "other"
    traceparent: str = ""
    """The caller's trace, in the format of W3C Trace Context."""
