"""How a live conversation is held, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatapi.engines import Sampling


@dataclass
class SessionOptions:
    """What may be changed while it goes on."""

    detect: bool = True
    """Whether turns are found; otherwise `commit` ends them."""
    semantic: bool = True
    """Whether the sound of a pause counts, or only its length."""
    silence_ms: int = 500
    """Silence that ends a turn where only its length counts."""
    patience: float = 1.0
    """How much longer than set to wait at a pause where its sound counts."""
    threshold: float | None = None
    """Probability from which a frame counts as speech; None: as set."""
    answer: bool = True
    """Whether a turn is answered by itself."""
    interrupt: bool = True
    """Whether speech stops an answer."""
    idle_seconds: float | None = None
    """Silence after an answer after which there is another; None: there is none."""
    speak: bool = True
    partials: bool = True
    system: str | None = None
    voice: str | None = None
    speed: float = 1.0
    """How many times as fast as usual it speaks."""
    language: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """Which functions may be called."""


@dataclass(frozen=True)
class SessionOrigin:
    """Whose session it is, for what is counted and traced."""

    door: Literal["realtime", "mic", "other"] = "other"
    traceparent: str = ""
    """The caller's trace, as W3C Trace Context writes it."""
