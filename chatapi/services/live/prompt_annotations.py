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


def noted(recalled: ConversationState) -> ConversationState:
    """With the notes that belong to what was said."""
    exchanges = recalled.exchanges
    pairs = itertools.pairwise(exchanges)
    told = [replace(each, asked=_noted(each.asked, before)) for before, each in pairs]
    return replace(recalled, exchanges=(*exchanges[:1], *told))


def put(asked: str, recalled: ConversationState) -> str:
    """What is asked next, with its note."""
    return _noted(asked, recalled.exchanges[-1]) if recalled.exchanges else asked


def _noted(asked: str, before: Exchange) -> str:
    return INTERRUPTING + asked if before.answered.endswith(BROKEN_OFF) else asked
