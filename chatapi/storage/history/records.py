"""Records of stored conversations."""

from __future__ import annotations

from dataclasses import dataclass

from chatapi.events import ToolCall


@dataclass(frozen=True)
class ToolResult:
    """A tool call and its output."""

    call: ToolCall
    output: str


@dataclass(frozen=True)
class Exchange:
    """One turn of a conversation: the user's message and the answer."""

    number: int
    """Unique number that grows with every exchange, over all conversations."""
    asked: str
    """The user's message."""
    answered: str
    """The assistant's answer."""
    results: tuple[ToolResult, ...] = ()
    """Tool results before the user's message. Held only in a live session; only the texts are stored."""


@dataclass(frozen=True)
class ConversationState:
    """The current state of a conversation."""

    id: str
    system: str | None
    """System prompt; None: the default."""
    exchanges: tuple[Exchange, ...]
    """Exchanges, oldest first; without those that no longer fit the model's context, unless all were requested."""


@dataclass(frozen=True)
class SavedExchange:
    """A stored exchange."""

    number: int
    """Number of the exchange."""
    kept: bool
    """Whether it is on disk; False: in memory, until the disk can be written again or the process ends."""


@dataclass(frozen=True)
class ConversationSummary:
    """A conversation in a list."""

    id: str
    title: str
    """As a user named it, else the start of its first message."""
    used: float
    """Last use by the wall clock, in seconds since 1970."""
    latest: int
    """Number of its last exchange."""
    exchanges: int
    """Number of its exchanges."""


@dataclass(frozen=True)
class StorageProblem:
    """A problem of the store."""

    code: str
    """history_not_kept: new exchanges stay in memory; history_set_aside: a damaged file was renamed."""
    message: str
    """The cause and the remedy, for the operator; it names files."""


@dataclass(frozen=True)
class StoredConversation:
    """A whole stored conversation, for copying it into another store."""

    id: str
    system: str | None
    """System prompt; None: the default."""
    remembered_from: int
    """Number of the first exchange in the model's context."""
    used: float
    """Last use by the wall clock, in seconds since 1970."""
    idle: float
    """Observed time since its last use, in seconds."""
    exchanges: tuple[tuple[int, str, str, float], ...]
    """Number, user's message, answer, and time by the wall clock in seconds since 1970."""
    owner: str = ""
    """Who may list it, beside operators; empty: nobody."""
    title: str = ""
    """As a user named it; empty: the start of its first message."""
