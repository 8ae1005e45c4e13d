"""Notes in the prompt of a live conversation: that an answer was interrupted, and that the user is silent."""

from __future__ import annotations

import itertools
from dataclasses import replace

from chatapi.storage.history import ConversationState, Exchange

INTERRUPTED_MARK = "—"
"""Ends the text of an interrupted answer in the history."""
INTERRUPTION_NOTE = "(I interrupt you.) "
"""Precedes the user's text after an interrupted answer in the prompt. A changed system prompt would make the model
process the whole conversation again."""
SILENCE_NOTE = "(I say nothing.)"
"""The user's text where an answer is wanted and there is no utterance."""


def without_marks(answered: str) -> str:
    """The text of an answer, as it was spoken."""
    return answered.removesuffix(INTERRUPTED_MARK).rstrip()


def annotated(conversation_state: ConversationState) -> ConversationState:
    """Returns the conversation with a note in each exchange that follows an interrupted answer."""
    exchanges = conversation_state.exchanges
    pairs = itertools.pairwise(exchanges)
    later = [replace(each, asked=_with_note(each.asked, before)) for before, each in pairs]
    return replace(conversation_state, exchanges=(*exchanges[:1], *later))


def annotated_request(asked: str, conversation_state: ConversationState) -> str:
    """Returns the next request, with its note."""
    return _with_note(asked, conversation_state.exchanges[-1]) if conversation_state.exchanges else asked


def _with_note(asked: str, before: Exchange) -> str:
    return INTERRUPTION_NOTE + asked if before.answered.endswith(INTERRUPTED_MARK) else asked
