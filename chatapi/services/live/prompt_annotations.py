"""What a live conversation's model is told besides the words: that it was interrupted, that nobody says anything."""

from __future__ import annotations

import itertools
from dataclasses import replace

from chatapi.storage.history import ConversationState, Exchange

BROKEN_OFF = "—"
"""Ends an answer in the history of which no more was heard."""
INTERRUPTING = "(I interrupt you.) "
"""Put before what was said against an answer when the model is told of it. Not in the system prompt: with another one
the whole conversation would have to be read anew."""
SILENT = "(I say nothing.)"
"""Stands for what was said where an answer is wanted and nothing was."""


def noted(conversation_state: ConversationState) -> ConversationState:
    """With the notes that belong to what was said."""
    exchanges = conversation_state.exchanges
    pairs = itertools.pairwise(exchanges)
    told = [replace(each, asked=_noted(each.asked, before)) for before, each in pairs]
    return replace(conversation_state, exchanges=(*exchanges[:1], *told))


def put(asked: str, conversation_state: ConversationState) -> str:
    """What is asked next, with its note."""
    return _noted(asked, conversation_state.exchanges[-1]) if conversation_state.exchanges else asked


def _noted(asked: str, before: Exchange) -> str:
    return INTERRUPTING + asked if before.answered.endswith(BROKEN_OFF) else asked
