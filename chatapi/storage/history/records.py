"""What is kept of a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from chatapi.events import ToolCall


@dataclass(frozen=True)
class ToolResult:
    """A function that was called, and what it gave."""

    call: ToolCall
    output: str


@dataclass(frozen=True)
class Exchange:
    """What one turn added to a conversation."""

    number: int
    """Grows with every exchange, over all conversations; never given twice."""
    asked: str
    answered: str
    results: tuple[ToolResult, ...] = ()
    """What had been given before it was asked. Known while the conversation is at hand; words alone are kept."""


@dataclass(frozen=True)
class ConversationState:
    """A conversation as it stands."""

    id: str
    system: str | None
    """What its model was told instead of the default; None: the default."""
    exchanges: tuple[Exchange, ...]
    """Oldest first; without those that no longer fit the model's context, unless all were asked for."""


@dataclass(frozen=True)
class SavedExchange:
    """An exchange that was added."""

    number: int
    kept: bool
    """Whether it is on the disk; False: in memory, until the disk can be written again or the process ends."""


@dataclass(frozen=True)
class StorageProblem:
    """What the store cannot do as it should."""

    code: str
    """history_not_kept: new exchanges stay in memory; history_set_aside: a damaged file was renamed."""
    message: str
    """What happened and the remedy, for the operator; names files."""


@dataclass(frozen=True)
class StoredConversation:
    """A conversation with all that is kept of it, to be put into another store."""

    id: str
    system: str | None
    remembered_from: int
    """Number of the first exchange that the model still remembers."""
    used: float
    """Last use by the wall clock, in seconds since 1970."""
    idle: float
    """Seconds since its last use, as the store observed them."""
    exchanges: tuple[tuple[int, str, str, float], ...]
    """Number, asked, answered, and when by the wall clock."""
