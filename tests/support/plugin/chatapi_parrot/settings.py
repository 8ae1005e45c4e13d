"""The settings tables of the plug-in."""

from pydantic import Field

from chatapi.settings import RoleSettings, Table


class ParrotSettings(Table):
    """The parrot, a language model that repeats the question."""

    phrase: str = Field("You said:", min_length=1)
    """Words before the question."""
    slots: int = Field(2, ge=1, le=64)
    """Number of answers generated at once."""


class LoudnessSettings(RoleSettings):
    """Loudness of audio."""

    engine: str = "rms"
    idle_seconds: float = Field(60, ge=0)
    """Time without use after which the engine is unloaded, in seconds; 0: never."""
