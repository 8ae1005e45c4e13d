"""How to generate one answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import anyio

from chatapi.engines import Sampling, TokenChunk, TokenUsage, Voice
from chatapi.runtime.admission import Priority


async def _whole(text: str) -> AsyncGenerator[TokenChunk, None]:
    yield TokenChunk(text, "stop", TokenUsage())


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate an answer."""

    voice: Voice | None = None
    """Voice of the speech; None: text only."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """Further sampling parameters; its max_tokens, temperature and seed are replaced by those above."""
    speed: float = 1.0
    """Speaking rate, as a multiple of the usual one."""
    script: str | None = None
    """Text that is the answer, in place of one by the model; without words it is a short silence."""
    verbatim: bool = False
    """Send the completion as the model writes it, also where it begins with a space or has no words."""
    reasoning: bool = False
    """Send the model's reasoning too."""
    priority: Priority = Priority.REQUEST
    confirmed: anyio.Event | None = None
    """Live conversations: set once the turn has ended for certain; until then the answer may be retracted. The first
    sentence is shorter and is synthesized with all cores; the model continues after it once this is set."""

    def scripted(self) -> AsyncGenerator[TokenChunk, None] | None:
        """The script as a completion; None: there is none."""
        return _whole(self.script) if self.script is not None else None
