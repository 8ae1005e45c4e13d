"""Conversation history in SQLite; in memory while the disk cannot be used."""

from __future__ import annotations

from chatapi.storage.history.conversation_history import ConversationHistory
from chatapi.storage.history.listing import ListFilter
from chatapi.storage.history.records import (
    ConversationState,
    ConversationSummary,
    Exchange,
    SavedExchange,
    StorageProblem,
    ToolResult,
)

__all__ = [
    "ConversationHistory",
    "ConversationState",
    "ConversationSummary",
    "Exchange",
    "ListFilter",
    "SavedExchange",
    "StorageProblem",
    "ToolResult",
]
